"""Reading the text column of a parquet file, in a process of its own.

A parquet value is decoded whole, and one of 200 MB takes four times that. A worker that holds
TensorFlow has no such room, so a child process decodes, and sends the values through a pipe. That
process runs this file as a script, and therefore nothing of the project is imported here.
"""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

# Rows decoded together make up about this.
_BATCH_BYTES = 4 << 20
_HEADER = struct.Struct(">q")
"""A value's size comes before it; the others stand for what has none."""
_MISSING, _PROBLEM, _END = -1, -2, -3


class ParquetError(Exception):
    """A parquet file cannot be read on.

    Attributes:
        kind: "damaged"; "no column" (`detail` names those there are); or "no text", if the column
            holds something else.
        detail: what is wrong.
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(detail or kind)
        self.kind, self.detail = kind, detail


def read_values(path: str, column: str, piece_bytes: int) -> Iterator[Iterator[bytes] | None]:
    """Yields a column's values in order, None for a missing one.

    Each value comes as an iterator over its pieces of `piece_bytes` (the last may be shorter),
    which must be exhausted before the next value.

    Raises:
        ParquetError: as its text says, or the process died.
    """
    # -P: the modules beside this file do not stand in for installed ones of the same name.
    command = [sys.executable, "-P", __file__, path, column]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    pipe = process.stdout

    def receive(size):
        data = pipe.read(size)
        if len(data) < size:
            raise ParquetError("damaged", f"its reader died with exit code {process.wait()}")
        return data

    try:
        while (size := _HEADER.unpack(receive(_HEADER.size))[0]) != _END:
            if size == _MISSING:
                yield None
            elif size == _PROBLEM:
                raise ParquetError(**json.loads(pipe.read()))
            else:
                starts = range(0, size, piece_bytes)
                yield (receive(min(piece_bytes, size - start)) for start in starts)
    finally:
        process.kill()
        process.wait()
        pipe.close()


def _decode(path: str, column: str) -> Iterator[memoryview | None]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Pages are read as they are needed, not a whole column of a row group at once.
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as parquet:
            names = parquet.schema_arrow.names
            if column not in names:
                raise ParquetError("no column", ", ".join(names))
            if not _is_text(parquet.schema_arrow.field(column).type):
                raise ParquetError("no text", "")
            for group in range(parquet.num_row_groups):
                size = _batch_size(parquet.metadata.row_group(group), column)
                for batch in parquet.iter_batches(size, row_groups=[group], columns=[column]):
                    values = batch.column(0)
                    if pyarrow.types.is_dictionary(values.type):
                        values = values.dictionary_decode()
                    # Bytes, since a value need not be UTF-8, whatever the column's type says.
                    for value in values.cast(pyarrow.large_binary()):
                        yield memoryview(value.as_buffer()) if value.is_valid else None
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError("damaged", str(error)) from error


def _is_text(arrow_type) -> bool:
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return (
        types.is_string(arrow_type)
        or types.is_large_string(arrow_type)
        or types.is_binary(arrow_type)
        or types.is_large_binary(arrow_type)
    )


def _batch_size(rows, column: str) -> int:
    """Returns how many rows of a row group make up about `_BATCH_BYTES`."""
    columns = (rows.column(index) for index in range(rows.num_columns))
    size = sum(part.total_uncompressed_size for part in columns if part.path_in_schema == column)
    return max(1, min(1024, _BATCH_BYTES * rows.num_rows // max(1, size)))


def _send(path: str, column: str) -> None:
    """Writes the values to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when to end,
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # and its own end ends this process, in silence
    output = sys.stdout.buffer
    try:
        for value in _decode(path, column):
            output.write(_HEADER.pack(_MISSING if value is None else len(value)))
            if value is not None:
                output.write(value)
        output.write(_HEADER.pack(_END))
    except ParquetError as error:
        problem = {"kind": error.kind, "detail": error.detail}
        output.write(_HEADER.pack(_PROBLEM) + json.dumps(problem).encode())
    output.flush()


if __name__ == "__main__":
    _send(*sys.argv[1:])
