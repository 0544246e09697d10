"""Chosen columns of TSV, CSV and JSON files, with the place of each row.

TSV files have no quoting, as GLUE's: a quote is a character of the text. CSV files are read by
Python's csv module: a quoted field may hold commas, line breaks and doubled quotes. JSON files hold
one object per line, or a list of objects, and a row of a parquet file is like such an object. Blank
lines are passed over.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import logging

from common.errors import InputError
from common.files import write_text
from data.tasks.examples import listed
from data.tasks.files import (
    JSON_ENDINGS,
    PARQUET,
    file_ending,
    is_blank,
    json_records,
    lines_of,
    read_text,
)

SEPARATORS = {".tsv": "tabs", ".csv": "commas"}
ENDINGS = (*SEPARATORS, ".jsonl")
OTHER_ENDINGS = (".json", PARQUET)  # read only if there is no other file
_SEPARATOR_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
LATE_QUOTE_HINT = "A quote that opens a cell must follow the comma at once"
Column = int | str  # a number from 0, or negative from the end of the header; or a name


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's rows, and the positions of the chosen columns.

    Args:
        path, sha256: of the file.
        header: the cells of its header; None without one.
        rows: (place, cells) of each row. The place is its first line, such as "line 3". The cells
            of a JSON object are a dict.
        columns: numbers from 0 of the chosen columns, or names of the fields of JSON objects.
        labels: the chosen columns' names for messages.
        width: how many cells a row should have.
        may_be_wider: whether a row may have more cells than `width`.
    """

    path: str
    sha256: str
    header: list[str] | None
    rows: list[tuple[str, Any]]
    columns: list[Column]
    labels: list[str]
    width: int = 0
    may_be_wider: bool = False

    def cells(self, row: list[str] | dict[str, Any]) -> list[Any]:
        """The chosen cells of one of `rows`; errors are without file and line."""
        if isinstance(row, dict):
            missing = [name for name in self.columns if name not in row]
            if missing:
                raise InputError(f'expected a field "{missing[0]}", got {listed(row)}')
        elif len(row) < self.width or (len(row) > self.width and not self.may_be_wider):
            separators = SEPARATORS[file_ending(self.path)]
            is_late = separators == "commas" and any(map(has_late_quote, row))
            hint = f". {LATE_QUOTE_HINT}" if is_late else ""
            expected = f"{self.width} columns separated by {separators}"
            raise InputError(f"expected {expected}, got {len(row)}{hint}")
        return [row[column] for column in self.columns]

    def parse(
        self, parse_cells: Callable[[list[Any]], Any], max_damaged_share: float = 0.0
    ) -> list[Any]:
        """Applies a function to the chosen cells of each row.

        A row is unusable if `cells` or `parse_cells` raises an `InputError`. Up to the share
        `max_damaged_share` of the rows may be unusable; these are left out with a warning.
        """
        parsed, damaged = [], []
        for place, row in self.rows:
            try:
                parsed.append(parse_cells(self.cells(row)))
            except InputError as error:
                damaged.append(f"{self.path}, {place}: {error}")
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
        path: its ending, one of `ENDINGS` or `OTHER_ENDINGS`, decides the format.
        columns: names in the header, names of fields, or numbers.
        has_header: whether the first row of a TSV or CSV file holds the columns' names.
        may_be_wider: whether rows may have more cells than the header, or the first row.

    Raises:
        InputError: as `read_text`; or an unknown ending, broken CSV or JSON, a missing column in
            the header, or numbers for the fields of JSON. `Table.cells` checks each row.
    """
    ending = file_ending(path)
    if ending not in (*SEPARATORS, *JSON_ENDINGS):
        endings = ", ".join((*SEPARATORS, *JSON_ENDINGS, PARQUET))
        raise InputError(f"{path}: expected a file name ending in {endings}")
    text, sha256 = read_text(path)
    if ending in JSON_ENDINGS:
        if any(isinstance(column, int) for column in columns):
            raise InputError(f"{path}: expected names of fields as columns, got numbers")
        labels = [f'field "{name}"' for name in columns]
        return Table(path, sha256, None, list(json_records(path, text)), list(columns), labels)
    rows = list(_csv_rows(path, text) if ending == ".csv" else _tsv_rows(text))
    late = [place for place, row in rows if ending == ".csv" and any(map(has_late_quote, row))]
    if late:
        message = "%s: in %d rows, a quote after a space is part of a cell. %s. The first: %s"
        logging.warning(message, path, len(late), LATE_QUOTE_HINT, late[0])
    header, width, numbers = None, 0, list(columns)
    if has_header and rows:
        place, cells = rows.pop(0)
        header = [cell.strip() for cell in cells]
        numbers = [_find(f"{path}, {place}", header, column) for column in columns]
        width = len(header)
    elif rows:
        width = max(max(numbers) + 1, 0 if may_be_wider else len(rows[0][1]))
    labels = [
        f'column "{column}"' if isinstance(column, str) else f"column {number + 1}"
        for column, number in zip(columns, numbers, strict=True)
    ]
    return Table(path, sha256, header, rows, numbers, labels, width, may_be_wider)


def has_late_quote(cell: str) -> bool:
    """Whether a cell begins with spaces and a quote, which is then a character of the text."""
    return cell[:1].isspace() and cell.lstrip().startswith('"')


def write_predictions(path: str, answers: Iterable[str], logits: Iterable[Iterable[float]]) -> None:
    """Writes a TSV file with one row per example: its index, its answer and its logits."""
    lines = ["index\tprediction\tlogits"]
    for index, (answer, row) in enumerate(zip(answers, logits, strict=True)):
        lines.append(f"{index}\t{answer}\t{' '.join(f'{number:.6f}' for number in row)}")
    write_text(path, "\n".join(lines) + "\n")


def _find(where, header, column):
    """A column's number from 0."""
    if isinstance(column, str):
        if header.count(column) != 1:
            found = f'with one column "{column}", got {listed(header)}'
            raise InputError(f"{where}: expected a header {found}{_separator_hint(header)}")
        return header.index(column)
    needed = column + 1 if column >= 0 else -column
    if needed > len(header):
        found = f"of at least {needed} columns, got {len(header)} columns"
        raise InputError(f"{where}: expected a header {found}")
    return column % len(header)  # negative numbers count from the end of the header


def _separator_hint(header):
    found = [name for separator, name in _SEPARATOR_NAMES.items() if separator in header[0]]
    if len(header) > 1 or not found:
        return ""
    return f". Its cells seem to be separated by {found[0]}: .csv needs commas, .tsv tabs"


def _tsv_rows(text) -> Iterator[tuple[str, list[str]]]:
    for number, line in lines_of(text):
        if not is_blank(line):
            yield f"line {number}", line.split("\t")


def _csv_rows(path, text) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default is 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, width = 1, 0
    try:
        for row in reader:
            # In a file of one column, a cell of spaces may have been quoted.
            if row and (len(row) > 1 or width == 1 or not is_blank(row[0])):
                width = width or len(row)
                yield f"line {line}", row
            line = reader.line_num + 1
    except csv.Error as error:
        hint = 'Quotes inside a quoted cell must be doubled: ""'
        raise InputError(f"{path}, line {line}: not CSV: {error}. {hint}") from None
