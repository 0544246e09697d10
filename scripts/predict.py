"""Predicts with a fine-tuned model: labels, scores, tags, answers or choices, as JSON lines.

    python3 scripts/predict.py MODEL "a fine film" "not so fine"
    python3 scripts/predict.py MODEL < texts.txt > labels.jsonl
    python3 scripts/predict.py MODEL --input reviews.csv --columns review --output labels.jsonl
    python3 scripts/predict.py MODEL --input news.conllu --format conll --output tags.conll
    python3 scripts/predict.py MODEL "Who is it?" "It is Karen. It is late."
    python3 scripts/predict.py MODEL --input dev-v2.0.json --format squad --output answers.json
    python3 scripts/predict.py MODEL --input swag.csv --stem-column sent2 \\
        --columns sent1 ending0 ending1 ending2 ending3

MODEL is a directory that finetune.py wrote, DATA_DIR/models/NAME/finetuning_models/TASK_TRIAL, its
URL, or a name on the Hugging Face hub. Its config.json determines the kind. Texts are arguments, or
lines of a file or of standard input; with --columns they are cells of a TSV, CSV or JSON-lines
file.

Classification: a text, or two separated by a tab for a model of pairs.
Tagging: a sentence, with spaces between its words. A .conll, .conllu or .tsv file has one word per
line, in the first column (FORM in CoNLL-U) or in that of --columns.
Question answering: a question and its context, as two arguments, separated by a tab, or in two
columns; or a SQuAD or MRQA file (.json, .jsonl, .jsonl.gz).
Multiple choice: a context and its choices, likewise; one field of JSON lines may hold a list.
"""

from collections.abc import Iterator
from typing import Any

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from pipelines import command_line
from pipelines.kinds import KINDS, Kind, format_lines
from pipelines.saved import find_architecture


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, predicts, and writes each result as soon as it is computed."""
    parser = command_line.make_parser(__doc__, "a fine-tuned model", "columns")
    stem_help = "for multiple choice: the column with the beginning of all choices"
    parser.add_argument("--stem-column", metavar="COLUMN", help=stem_help)
    parser.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument(
        "--format",
        choices=("jsonl", "conll", "squad"),
        help="JSON lines (default), CoNLL's format for tags, or SQuAD's for answers",
    )
    args = parser.parse_intermixed_args(arguments)
    directory = command_line.find_model(args, weights=False)
    kind = KINDS[find_architecture(directory, KINDS, "a fine-tuned model")]
    if args.format not in (None, *kind.formats):
        expected = " or ".join(kind.formats)
        raise InputError(f"`--format` must be {expected} for this model. Received: {args.format}")
    command_line.check_output(args.output, "" if args.format else ".jsonl")
    if args.stem_column and not (args.columns and kind.pipeline == "MultipleChoice"):
        raise InputError("--stem-column needs a multiple-choice model and --columns")
    rows = kind.read(args)
    directory = command_line.find_model(args)
    pipeline = command_line.load_pipeline(kind.pipeline, directory, dtype=args.dtype)
    with command_line.progress_bar(len(rows), kind.unit, kind.rows_at_once) as bar:
        objects = predict(kind, pipeline, rows, args.batch_size, bar, args.errors)
        command_line.write_lines(args.output, format_lines(args.format, objects))


def predict(
    kind: Kind, pipeline, rows: list, batch_size: int, bar, errors: str = "raise"
) -> Iterator[dict[str, Any]]:
    """Yields the JSON object of each row, with its number from 0, and advances the bar."""
    num_cut = 0
    for begin in range(0, len(rows), kind.rows_at_once):
        part = rows[begin : begin + kind.rows_at_once]
        objects, num_cut_here = kind.predict(pipeline, part, batch_size, errors)
        num_cut += num_cut_here
        for number, fields in enumerate(objects, start=begin):
            if "error" in fields:  # the text begins with the number in this part
                fields["error"] = fields["error"].replace(f"[{number - begin}]", f"[{number}]", 1)
            yield {"index": number} | fields
        bar.update(len(part))
    pipeline.warn_of_cut(num_cut, len(rows))


if __name__ == "__main__":
    errors.run(main)
