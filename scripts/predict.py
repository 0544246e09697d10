"""Labels or scores texts with a fine-tuned model, and says how probable each label is.

    python3 scripts/predict.py MODEL_DIR "a fine film" "not so fine"
    python3 scripts/predict.py MODEL_DIR < texts.txt > labels.tsv
    python3 scripts/predict.py MODEL_DIR --input reviews.csv --columns review --output labels.jsonl

MODEL_DIR is what finetune.py leaves in DATA_DIR/models/NAME/finetuning_models/TASK_TRIAL. Without
--columns there is one text a line (or an argument), or two with a tab between them for a model of
pairs. With --columns the input is a TSV, CSV or JSON-lines file. Results are in the texts' order.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import errors
import files
from errors import InputError

FORMATS = ("tsv", "jsonl")


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, classifies them, writes what comes out."""
    args = parse_arguments(arguments)
    output_format = choose_format(args)
    texts, pairs = read_texts(args)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    from absl import logging

    from classifier import TextClassifier
    from data.devices import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    classifier = TextClassifier.from_pretrained(args.model_dir)
    found = classifier.predict(texts, pairs, args.batch_size)
    if found.num_cut:
        logging.warning(
            "%d of %d texts were longer than %d tokens and have been cut",
            found.num_cut,
            len(texts),
            classifier.max_seq_length,
        )
    write_lines = write_tsv if output_format == "tsv" else write_jsonl
    lines = write_lines(found, classifier.labels)
    if args.output:
        files.write_text(args.output, "".join(line + "\n" for line in lines))
    else:
        for line in lines:
            print(line)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="folder of a fine-tuned model")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: those in --input")
    parser.add_argument("--input", help="file of texts (default: standard input)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        help="one or two columns of the input: names in its header, or fields of JSON lines; "
        "numbers from 1 if it has no header",
    )
    parser.add_argument("--output", help="file to write (default: standard output)")
    parser.add_argument("--format", choices=FORMATS, help="default: as --output ends, or tsv")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    return parser.parse_intermixed_args(arguments)


def choose_format(args: argparse.Namespace) -> str:
    """The output's format; refuses an output that cannot be written, before all the work."""
    ending = os.path.splitext(args.output or "")[1].removeprefix(".")
    if args.output and not os.path.isdir(os.path.dirname(os.path.abspath(args.output))):
        raise InputError(f"--output: no such folder: {os.path.dirname(args.output)}")
    if args.output and not args.format and ending not in FORMATS:
        raise InputError(f"--output must end in .tsv or .jsonl. Received: {args.output}")
    return args.format or ending or "tsv"


def read_texts(args: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    """The texts, and the second ones of pairs.

    Raises:
        InputError: no texts, an empty one, or another number of them in a row than in the first.
    """
    if args.texts and args.input:
        raise InputError("texts are given as arguments and in --input: give them in one place")
    if args.columns and not args.input:
        raise InputError("--columns are those of a file: name it with --input")
    if args.columns and len(args.columns) > 2:
        raise InputError(f"--columns must be one or two. Received: {' '.join(args.columns)}")
    if args.input and not os.path.isfile(args.input):
        raise InputError(f"--input: no such file: {args.input}")
    if args.columns:
        rows = list(rows_of_columns(args.input, args.columns))
    elif args.texts:
        rows = list(rows_of_lines(args.texts, "argument"))
    else:
        rows = list(rows_of_lines(read_lines(args.input), f"{args.input or 'input'}, line"))
    if not rows:
        raise InputError(f"no texts in {args.input or 'the input'}")
    return [row[0] for row in rows], [row[1] for row in rows] if len(rows[0]) == 2 else None


def rows_of_columns(path: str, columns: list[str]) -> Iterable[list[str]]:
    """The texts of each row of a TSV, CSV or JSON-lines file."""
    from data.tables import read_table
    from data.tasks import parse_text

    are_numbers = all(column.isdecimal() and int(column) for column in columns)
    if are_numbers and not path.endswith(".jsonl"):
        table = read_table(path, [int(column) - 1 for column in columns], has_header=False)
    else:
        table = read_table(path, columns, has_header=True)
    for line, row in table.rows:
        try:
            cells = zip(table.cells(row), table.labels, strict=True)
            yield [parse_text(cell, label) for cell, label in cells]
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None


def read_lines(path: str | None) -> list[str]:
    """The lines of a file, or of standard input."""
    if path and path.endswith((".csv", ".jsonl")):
        raise InputError(f"{path}: say with --columns where its texts are")
    content = Path(path).read_bytes() if path else sys.stdin.buffer.read()
    try:
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path or 'input'}, line {line}: expected UTF-8 text") from None
    # Only "\n" ends a line: str.splitlines would also cut at characters inside a text.
    return [line.removesuffix("\r") for line in text.split("\n")] if text else []


def rows_of_lines(lines: list[str], place: str) -> Iterable[list[str]]:
    """The one text, or the two with a tab between them, of each line."""
    width = 1 + lines[0].count("\t") if lines else 1
    for number, line in enumerate(lines, start=1):
        row = line.split("\t")
        if len(row) != width or width > 2:
            expected = "one text, or two with a tab between them"
            if width <= 2:
                expected = "one text" if width == 1 else "two texts with a tab between them"
                expected += ", as at first"
            raise InputError(f"{place} {number}: expected {expected}; got {len(row)}")
        if not all(text.strip() for text in row):
            raise InputError(f"{place} {number}: expected text, got none")
        yield row


def write_tsv(found, labels: tuple[str, ...] | None) -> Iterable[str]:
    """A header, and for each text its number from 0, what it is, and the labels' probabilities."""
    from data.tasks import answer_text

    yield "\t".join(["index", "prediction", *(labels or ())])
    for index, answer in enumerate(found.answers):
        numbers = [] if labels is None else found.probabilities[index]
        yield "\t".join([str(index), answer_text(answer), *(f"{p:.6f}" for p in numbers)])


def write_jsonl(found, labels: tuple[str, ...] | None) -> Iterable[str]:
    """An object a text: `label`, `labels` or `score`, and the labels' `probabilities`."""
    from data.tasks import answer_text

    for index, answer in enumerate(found.answers):
        if labels is None:
            fields = {"index": index, "score": float(answer_text(answer))}
        else:
            numbers = (round(float(p), 6) for p in found.probabilities[index])
            kind = "labels" if isinstance(answer, list) else "label"
            probabilities = dict(zip(labels, numbers, strict=True))
            fields = {"index": index, kind: answer, "probabilities": probabilities}
        yield json.dumps(fields, ensure_ascii=False)


if __name__ == "__main__":
    errors.run(main)
