"""What the scripts that take texts share: where texts come from, and where results go."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from common import files, hub
from common.errors import InputError

# A progress bar is for more texts than these.
MANY = 1024


def add_arguments(parser: argparse.ArgumentParser, columns: str = "one or two columns") -> None:
    """Declares the texts, --input, --columns and --batch-size."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: those in --input")
    parser.add_argument("--input", metavar="FILE", help="of texts (default: standard input)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        help=f"{columns} of the input: names in its header, or fields of JSON lines; numbers from "
        "1 if it has no header",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")


def add_model(parser: argparse.ArgumentParser, what: str) -> None:
    """Declares MODEL, which `find_model` finds, and --revision."""
    parser.add_argument(
        "model", metavar="MODEL", help=f"folder of {what}, or its name on the Hugging Face hub"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")


def add_vector_options(parser: argparse.ArgumentParser) -> None:
    """Declares --pooling and --layer: what a text's vector is made of."""
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        default="mean",
        help="of the vectors of all tokens, or that of [CLS] (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-1,
        help="whose vectors: 1 is the first, 0 the embeddings, -1 the last (default: %(default)s)",
    )


def find_model(args: argparse.Namespace) -> str:
    """The folder of the model that the arguments name, downloaded where it is one of the hub's.

    Raises:
        InputError: there is none.
    """
    return hub.resolve(args.model, args.revision)


def choose_format(output: str | None, formats: tuple[str, ...], asked: str | None = None) -> str:
    """The output's format: `asked`, or as its name ends; printed, the first of `formats`.

    Raises:
        InputError: a file that cannot be written, or no such format; so it is seen before all the
            work.
    """
    if asked and asked not in formats:
        raise InputError(f"--format must be {' or '.join(formats)} here. Received: {asked}")
    ending = os.path.splitext(output or "")[1].removeprefix(".")
    if output and not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise InputError(f"--output: no such folder: {os.path.dirname(output)}")
    if output and not asked and ending not in formats:
        endings = " or ".join(f".{name}" for name in formats)
        raise InputError(f"--output must end in {endings}. Received: {output}")
    return asked or ending or formats[0]


def read_texts(
    args: argparse.Namespace, may_be_pairs: bool = True, must_hold: str = ""
) -> tuple[list[str], list[str] | None]:
    """The texts, and the second ones of pairs.

    Args:
        args: what `add_arguments` declares.
        may_be_pairs: whether two texts may be in a line, or in two columns.
        must_hold: what every text must have in it.

    Raises:
        InputError: no texts, an empty one, or another number of them in a row than in the first.
    """
    check_source(args)
    if args.columns and len(args.columns) > 1 + may_be_pairs:
        allowed = "one or two" if may_be_pairs else "one"
        raise InputError(f"--columns must be {allowed}. Received: {' '.join(args.columns)}")
    if args.columns:
        rows = _rows_of_columns(args.input, args.columns)
    elif args.texts:
        rows = _rows_of_lines(args.texts, "argument", may_be_pairs)
    else:
        place = f"{args.input or 'input'}, line"
        rows = _rows_of_lines(_read_lines(args.input), place, may_be_pairs)
    texts, pairs = [], []
    for place, row in rows:
        if not all(must_hold in text for text in row):
            raise InputError(f"{place}: expected a text with {must_hold}, got {row[0]!r:.80}")
        texts.append(row[0])
        pairs += row[1:]
    if not texts:
        raise InputError(f"no texts in {args.input or 'the input'}")
    return texts, pairs or None


def read_rows(
    args: argparse.Namespace, names: tuple[str, ...], may_be_more: bool = False
) -> list[list[str]]:
    """Rows of several texts: the arguments are one; a file has one a line, with tabs in between.

    Args:
        args: what `add_arguments` declares.
        names: what the texts of a row are.
        may_be_more: whether a row may go on with more of the last kind, as many in each row.

    Raises:
        InputError: no texts, an empty one, or another number of them in a row.
    """
    check_source(args)
    if args.columns and len(args.columns) != len(names):
        raise InputError(f"--columns must be those of {', '.join(names)}: {len(names)} in all. "
                         f"Received: {' '.join(args.columns)}")  # fmt: skip
    if args.columns:
        rows = _rows_of_columns(args.input, args.columns)
    elif args.texts:
        rows = [("arguments", args.texts)]
    else:
        lines = enumerate(_read_lines(args.input), start=1)
        rows = ((f"{args.input or 'input'}, line {n}", line.split("\t")) for n, line in lines)
    found: list[list[str]] = []
    for place, row in rows:
        width = len(found[0]) if found else len(names)
        if len(row) < width or (len(row) > width and (found or not may_be_more)):
            wanted = f"{width} texts as at first" if found else ", ".join(names)
            between = "" if args.texts else " with tabs between them"
            raise InputError(f"{place}: expected {wanted}{between}; got {len(row)}")
        if not all(text.strip() for text in row):
            raise InputError(f"{place}: expected text, got none")
        found.append(row)
    if not found:
        raise InputError(f"no texts in {args.input or 'the input'}")
    return found


def check_source(args: argparse.Namespace) -> None:
    """Refuses texts in two places, columns of nothing, and a file that is not there."""
    if args.texts and args.input:
        raise InputError("texts are given as arguments and in --input: give them in one place")
    if args.columns and not args.input:
        raise InputError("--columns are those of a file: name it with --input")
    if args.input and not os.path.isfile(args.input):
        raise InputError(f"--input: no such file: {args.input}")


def columns_of(path: str, columns: list[str]) -> list[int | str]:
    """--columns as `data.tasks.tables` has them: numbers from 0, or names."""
    are_numbers = all(column.isdecimal() and int(column) for column in columns)
    if are_numbers and not path.endswith(".jsonl"):
        return [int(column) - 1 for column in columns]
    return list(columns)


def _rows_of_columns(path, columns) -> Iterator[tuple[str, list[str]]]:
    """The place and the texts of each row of a TSV, CSV or JSON-lines file."""
    from data.tasks.examples import parse_text
    from data.tasks.tables import read_table

    wanted = columns_of(path, columns)
    table = read_table(path, wanted, has_header=isinstance(wanted[0], str))
    for line, row in table.rows:
        place = f"{path}, line {line}"
        try:
            cells = zip(table.cells(row), table.labels, strict=True)
            yield place, [parse_text(cell, label) for cell, label in cells]
        except InputError as error:
            raise InputError(f"{place}: {error}") from None


def _read_lines(path) -> list[str]:
    """The lines of a file, or of standard input."""
    if path and path.endswith((".csv", ".jsonl")):
        raise InputError(f"{path}: say with --columns where its texts are")
    if path:
        with open(path, "rb") as file:
            return _decode(file, path)
    return _decode(sys.stdin.buffer, "input")


def _decode(file, name):
    lines = []
    # Only "\n" ends a line of bytes: lines of text would also end at characters inside a text.
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{name}, line {number}: expected UTF-8 text") from None
        lines.append(text.removesuffix("\n").removesuffix("\r"))
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _rows_of_lines(lines, place, may_be_pairs) -> Iterator[tuple[str, list[str]]]:
    """The place of each line, and its one text, or the two with a tab between them."""
    width = 1 + lines[0].count("\t") if lines else 1
    for number, line in enumerate(lines, start=1):
        row = line.split("\t")
        if len(row) != width or width > 1 + may_be_pairs:
            expected = "one text, or two with a tab between them" if may_be_pairs else "one text"
            if width <= 1 + may_be_pairs:
                expected = "one text" if width == 1 else "two texts with a tab between them"
                expected += ", as at first"
            raise InputError(f"{place} {number}: expected {expected}; got {len(row)}")
        if not all(text.strip() for text in row):
            raise InputError(f"{place} {number}: expected text, got none")
        yield f"{place} {number}", row


def progress_bar(total: int, many: int | None = None, unit: str = "text", **options) -> tqdm:
    """A bar on stderr that counts texts, if there are more than `many`, by default `MANY`."""
    mininterval = 0.5 if sys.stderr.isatty() else 30
    is_short = total <= (many or MANY)
    return tqdm(total=total, unit=unit, mininterval=mininterval, disable=is_short, **options)


def write_lines(output: str | None, lines: Iterable[str]) -> None:
    """Writes lines to a file, which appears when it is complete, or prints them."""
    if output:
        with files.atomic_path(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
    else:
        for line in lines:
            print(line)
