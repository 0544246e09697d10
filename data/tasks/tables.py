"""Chosen columns of TSV, CSV and JSON-lines files, with the line each row begins on.

In TSV files nothing is quoted, as in GLUE's: a quote is a character of the text. CSV is what
Python's csv module reads: a quoted field may hold commas, line breaks and doubled quotes.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from common.errors import InputError

SEPARATORS = {".tsv": "tabs", ".csv": "commas"}
ENDINGS = (*SEPARATORS, ".jsonl")
Column = int | str  # a number from 0, from the header's end if negative; or a name


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's rows, and where in them the wanted columns are.

    Args:
        path: the file.
        sha256: hash of its bytes.
        header: the cells of its header; None without one.
        rows: (line, cells) of each row; of JSON lines the cells are a dict.
        columns: numbers from 0 of the wanted columns; of JSON lines the fields' names.
        labels: the wanted columns as errors call them.
        width: how many cells a row should have; 0 if that is not known.
        may_be_wider: whether a row may have more cells than `width`.
    """

    path: str
    sha256: str
    header: list[str] | None
    rows: list[tuple[int, Any]]
    columns: list[Column]
    labels: list[str]
    width: int = 0
    may_be_wider: bool = False

    def cells(self, row: list[str] | dict[str, Any]) -> list[Any]:
        """The wanted cells of one of `rows`.

        Raises:
            InputError: the row has not the right number of cells; without the place.
        """
        if isinstance(row, dict):
            for name in self.columns:
                if name not in row:
                    raise InputError(f'expected a field "{name}", got {", ".join(row) or "none"}')
        else:
            expected = max(self.width, max(self.columns) + 1)
            if len(row) < expected or (len(row) > expected and not self.may_be_wider):
                separator = SEPARATORS[_ending(self.path)]
                raise InputError(f"expected {expected} columns separated by {separator}, "
                                 f"got {len(row)}")  # fmt: skip
        return [row[column] for column in self.columns]


def read_table(
    path: str, columns: Sequence[Column], has_header: bool, may_be_wider: bool = False
) -> Table:
    """Reads a file and finds the columns `columns` in it.

    Args:
        path: ends in one of `ENDINGS`, which says what the file is.
        columns: names in the header, or of fields; numbers where nothing has a name.
        has_header: whether the first row of a TSV or CSV file holds the columns' names.
        may_be_wider: whether rows may be longer than the header. Without one, all rows must be as
            long as the first, unless this is set.

    Raises:
        InputError: another ending, other bytes than UTF-8, a broken row, or no such column.
    """
    ending = _ending(path)
    if ending not in ENDINGS:
        raise InputError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}")
    text, sha256 = read_text(path)
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    rows = list(readers[ending](path, text.rstrip("\r\n"))) if text.strip("\r\n") else []
    if ending == ".jsonl":
        if any(isinstance(column, int) for column in columns):
            raise InputError(f"{path}: expected names of its fields as columns, got numbers")
        labels = [f'field "{name}"' for name in columns]
        return Table(path, sha256, None, rows, list(columns), labels)
    header, width, numbers = None, 0, list(columns)
    if has_header and rows:
        header = [cell.strip() for cell in rows.pop(0)[1]]
        numbers = [_find(path, header, column) for column in columns]
        width = len(header)
    elif rows and not may_be_wider:
        width = len(rows[0][1])
    labels = [
        f'column "{column}"' if isinstance(column, str) else f"column {number + 1}"
        for column, number in zip(columns, numbers, strict=True)
    ]
    return Table(path, sha256, header, rows, numbers, labels, width, may_be_wider)


def read_text(path: str) -> tuple[str, str]:
    """A file's text, without a byte-order mark, and the hash of its bytes.

    Raises:
        InputError: it is not UTF-8.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: expected UTF-8 text, got other bytes") from None
    return text, hashlib.sha256(content).hexdigest()


def _ending(path):
    return os.path.splitext(path)[1].lower()


def _find(path, header, column):
    """The number from 0 of a column."""
    if isinstance(column, str):
        if header.count(column) != 1:
            raise InputError(
                f'{path}, line 1: expected a header with one column "{column}"; got '
                f"{', '.join(header)}"
            )
        return header.index(column)
    needed = column + 1 if column >= 0 else -column
    if needed > len(header):
        raise InputError(
            f"{path}, line 1: expected a header of at least {needed} columns; got "
            f"{len(header)} columns"
        )
    # Columns from the end are those of the header: a row may have a stray tab more.
    return column % len(header)


def _tsv_rows(_, text) -> Iterator[tuple[int, list[str]]]:
    # Only "\n" ends a row: str.splitlines would also cut at characters inside a text.
    for line, row in enumerate(text.split("\n"), start=1):
        yield line, row.removesuffix("\r").split("\t")


def _csv_rows(path, text) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # else 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not CSV: {error}") from None


def _json_rows(path, text) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(text.split("\n"), start=1):
        try:
            fields = json.loads(row)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InputError(
                f"{path}, line {line}: expected a JSON object, got {json.dumps(fields)[:50]}"
            )
        yield line, fields
