"""The text column of a parquet file."""

import io
from collections.abc import Iterator

from common.errors import InputError

# Rows are decoded in batches of about this size.
_BATCH_BYTES = 4 << 20


def read_values(path: str | io.IOBase, column: str, name: str) -> Iterator[bytes | None]:
    """Yields the values of a column in order; None for a null. Messages call the file `name`.

    `path` may also be an open file.

    Raises:
        OSError: the file is damaged (without a number), or cannot be read.
        InputError: the column does not exist or does not hold text, or the file needs a feature
            that pyarrow lacks.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # Reads pages as they are needed, rather than whole columns of a row group.
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as file:
            _check_column(file.schema_arrow, column, name)
            for group in range(file.num_row_groups):
                size = _batch_size(file.metadata.row_group(group), column)
                for batch in file.iter_batches(
                    size, row_groups=[group], columns=[column], use_threads=False
                ):
                    values = batch.column(0)
                    if pyarrow.types.is_dictionary(values.type):
                        values = values.dictionary_decode()
                    # Binary, because a text need not be valid UTF-8, whatever the column's type.
                    for value in values.cast(pyarrow.large_binary()):
                        yield value.as_py()
    except pyarrow.ArrowNotImplementedError as error:
        raise InputError(f"cannot read {name}: {error}") from error
    except pyarrow.ArrowMemoryError:
        raise
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


def _check_column(schema, column, name):
    from pyarrow import types

    if column not in schema.names:
        found = f"it has {', '.join(schema.names)}. Choose one with --text-column."
        raise InputError(f"{name} does not have the column {column!r}; {found}")
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_text = (
        *(types.is_string, types.is_large_string, types.is_string_view),
        *(types.is_binary, types.is_large_binary, types.is_binary_view),
    )
    if not any(check(kind) for check in is_text):
        hint = "Choose another with --text-column."
        raise InputError(f"{name}: the column {column!r} holds {kind}, not text. {hint}")


def _batch_size(row_group, column):
    """How many rows of a row group make up about `_BATCH_BYTES`."""
    chunks = map(row_group.column, range(row_group.num_columns))
    size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == column)
    return max(1, min(1024, _BATCH_BYTES * row_group.num_rows // max(1, size)))
