"""Chosen columns of TSV, CSV and JSON-lines files, with the number of each row's first line.

TSV files have no quoting, as GLUE's: a quote is a character of the text. CSV files are read by
Python's csv module: a quoted field may hold commas, line breaks and doubled quotes.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from common.errors import InputError
from common.files import write_text
from data.tasks.examples import shown

SEPARATORS = {".tsv": "tabs", ".csv": "commas"}
ENDINGS = (*SEPARATORS, ".jsonl")
Column = int | str  # a number from 0, or negative from the end of the header; or a name


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's rows, and the positions of the chosen columns.

    Args:
        path, sha256: of the file.
        header: the cells of its header; None without one.
        rows: (line, cells) of each row. The cells of a JSON line are a dict.
        columns: numbers from 0 of the chosen columns, or names of the fields of JSON lines.
        labels: the chosen columns' names for messages.
        width: how many cells a row should have.
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
        """The chosen cells of one of `rows`; errors are without file and line."""
        if isinstance(row, dict):
            missing = [name for name in self.columns if name not in row]
            if missing:
                raise InputError(f'expected a field "{missing[0]}", got {", ".join(row) or "none"}')
        elif len(row) < self.width or (len(row) > self.width and not self.may_be_wider):
            expected = f"{self.width} columns separated by {SEPARATORS[_ending(self.path)]}"
            raise InputError(f"expected {expected}, got {len(row)}")
        return [row[column] for column in self.columns]

    def parse(
        self, parse_cells: Callable[[list[Any]], Any], max_damaged_share: float = 0.0
    ) -> list[Any]:
        """Applies a function to the chosen cells of each row.

        A row is unusable if `cells` or `parse_cells` raises an `InputError`. Up to the share
        `max_damaged_share` of the rows may be unusable, and is left out with a warning.
        """
        parsed, damaged = [], []
        for line, row in self.rows:
            try:
                parsed.append(parse_cells(self.cells(row)))
            except InputError as error:
                damaged.append(f"{self.path}, line {line}: {error}")
                if len(damaged) > max_damaged_share * len(self.rows):
                    raise InputError(damaged[0]) from None
        if damaged:
            counts = f"{len(damaged)} unusable rows of {len(self.rows)}"
            logging.warning("%s: left out %s. The first: %s", self.path, counts, damaged[0])
        if not parsed:
            raise InputError(f"{self.path}: no examples in the file")
        return parsed


def read_table(
    path: str, columns: Sequence[Column], has_header: bool, may_be_wider: bool = False
) -> Table:
    """Reads a file and finds columns in it.

    Args:
        path: its ending, one of `ENDINGS`, decides the format.
        columns: names in the header, or of fields; or numbers.
        has_header: whether the first row of a TSV or CSV file holds the columns' names.
        may_be_wider: whether rows may have more cells than the header, or the first row.

    Raises:
        InputError: another ending, bytes that are not UTF-8, a broken row, or a missing column.
    """
    ending = _ending(path)
    if ending not in ENDINGS:
        raise InputError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}")
    text, sha256 = read_text(path)
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    rows = list(readers[ending](path, text.rstrip("\r\n"))) if text.strip("\r\n") else []
    if ending == ".jsonl":
        if any(isinstance(column, int) for column in columns):
            raise InputError(f"{path}: expected names of fields as columns, got numbers")
        labels = [f'field "{name}"' for name in columns]
        return Table(path, sha256, None, rows, list(columns), labels)
    header, width, numbers = None, 0, list(columns)
    if has_header and rows:
        header = [cell.strip() for cell in rows.pop(0)[1]]
        numbers = [_find(path, header, column) for column in columns]
        width = len(header)
    elif rows:
        width = max(max(numbers) + 1, 0 if may_be_wider else len(rows[0][1]))
    labels = [
        f'column "{column}"' if isinstance(column, str) else f"column {number + 1}"
        for column, number in zip(columns, numbers, strict=True)
    ]
    return Table(path, sha256, header, rows, numbers, labels, width, may_be_wider)


def read_text(path: str) -> tuple[str, str]:
    """A file's text and the SHA-256 of its bytes; an `InputError` if it is not UTF-8."""
    with open(path, "rb") as file:
        content = file.read()
    return decode(content, path), hashlib.sha256(content).hexdigest()


def decode(content: bytes, source: str) -> str:
    """UTF-8 text without a byte-order mark; an `InputError` names the source and the line."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}, line {line}: expected UTF-8 text, got other bytes") from None


def write_predictions(path: str, answers: Iterable[str], logits: np.ndarray) -> None:
    """Writes a TSV file with one row per example: its index, its answer and its logits."""
    lines = ["index\tprediction\tlogits"]
    for index, (answer, row) in enumerate(zip(answers, logits, strict=True)):
        lines.append(f"{index}\t{answer}\t{' '.join(f'{number:.6f}' for number in row)}")
    write_text(path, "\n".join(lines) + "\n")


def _ending(path):
    return os.path.splitext(path)[1].lower()


def _find(path, header, column):
    """A column's number from 0."""
    if isinstance(column, str):
        if header.count(column) != 1:
            found = f'with one column "{column}", got {", ".join(header)}'
            raise InputError(f"{path}, line 1: expected a header {found}")
        return header.index(column)
    needed = column + 1 if column >= 0 else -column
    if needed > len(header):
        found = f"of at least {needed} columns, got {len(header)} columns"
        raise InputError(f"{path}, line 1: expected a header {found}")
    return column % len(header)  # negative numbers count from the end of the header


def _tsv_rows(_, text) -> Iterator[tuple[int, list[str]]]:
    # Only "\n" ends a row: str.splitlines would also split at characters inside a text.
    for line, row in enumerate(text.split("\n"), start=1):
        yield line, row.removesuffix("\r").split("\t")


def _csv_rows(path, text) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default is 131,072 characters
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
            raise InputError(f"{path}, line {line}: expected a JSON object, got {shown(fields)}")
        yield line, fields
