"""Rows of texts from a command's arguments, standard input, and TXT, TSV, CSV and JSON files.

Without --columns, a line is a row, with tabs between its texts. With --columns, the texts are cells
of a table, or fields of JSON lines; a field may hold a list of texts.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator

from absl import logging

from common.errors import InputError
from common.files import decode_text
from data.tasks.examples import parse_text
from data.tasks.files import JSON_ENDINGS, file_ending, lines_of, read_text
from data.tasks.tables import read_table


def check_source(args: argparse.Namespace) -> None:
    """Checks that the texts come from one place only, and that this place exists."""
    if args.texts and args.input:
        raise InputError("texts are given both as arguments and in --input. Choose one")
    if args.columns and not args.input:
        raise InputError("--columns needs a file: name it with --input")
    if args.input and not os.path.isfile(args.input):
        raise InputError(f"--input: no such file: {args.input}")


def read_rows(
    args: argparse.Namespace,
    expected: str,
    least: int = 1,
    most: int = 1,
    one_row: bool = False,
    required: str = "",
) -> list[list[str]]:
    """Reads rows of `least` to `most` texts, all of the same number; `expected` is for messages.

    `args` are those of `command_line.make_parser`. With --skip-bad-texts, a wrong row becomes a row
    of empty texts, with a warning. Each text on the command line is a row; with `one_row`, all of
    them together are a single row. Every text must contain `required`.
    """
    check_source(args)
    rows: list[list[str] | None] = []
    count = 0
    for place, read in _table_rows(args) if args.columns else _line_rows(args, one_row):
        try:
            cells = read()
            if count and len(cells) != count:
                raise InputError(f"expected {count} texts, as before; got {len(cells)}")
            if not least <= len(cells) <= most:
                raise InputError(f"expected {expected}; got {len(cells)}")
            row = [parse_text(text, label) for text, label in cells]
            if not all(required in text for text in row):
                raise InputError(f"expected a text with {required}, got {row[0]!r:.80}")
            count = len(row)
        except InputError as error:
            if args.errors == "raise":
                advice = "To leave out such rows: --skip-bad-texts"
                raise InputError(f"{place}: {error}. {advice}") from None
            logging.warning("%s: %s: skipped", place, error)
            row = None
        rows.append(row)
    if not count:
        raise InputError(f"no texts in {args.input or 'standard input'}")
    return [[""] * count if row is None else row for row in rows]


def column_numbers(path: str, columns: list[str]) -> list[int | str]:
    """--columns as `read_table` takes them: numbers from 0, or names."""
    are_numbers = all(column.isdecimal() and int(column) for column in columns)
    if are_numbers and file_ending(path) not in JSON_ENDINGS:
        return [int(column) - 1 for column in columns]
    return list(columns)


def _table_rows(args) -> Iterator[tuple[str, Callable[[], list]]]:
    """Yields the place of each row, and a function that returns its texts with their labels."""
    columns = column_numbers(args.input, args.columns)
    table = read_table(args.input, columns, has_header=isinstance(columns[0], str))

    def read(row):
        cells = zip(table.cells(row), table.labels, strict=True)
        lists = ((cell if isinstance(cell, list) else [cell], label) for cell, label in cells)
        return [(text, label) for texts, label in lists for text in texts]

    for where, row in table.rows:
        yield f"{args.input}, {where}", functools.partial(read, row)


def _line_rows(args, one_row) -> Iterator[tuple[str, Callable[[], list]]]:
    if args.texts:
        lines, place = ["\t".join(args.texts)] if one_row else args.texts, "argument"
    elif args.input and file_ending(args.input) in (".csv", *JSON_ENDINGS):
        raise InputError(f"{args.input}: name the columns of its texts with --columns")
    else:
        source = args.input or "standard input"
        if args.input:
            text, _ = read_text(args.input)
        else:
            text = decode_text(sys.stdin.buffer.read(), source)
        lines, place = [line for _, line in lines_of(text)], f"{source}, line"
        while lines and not lines[-1]:
            lines.pop()

    def read(line):
        texts = enumerate(line.split("\t"), start=1)
        return [(text, f"column {column}") for column, text in texts]

    for number, line in enumerate(lines, start=1):
        yield f"{place} {number}", functools.partial(read, line)
