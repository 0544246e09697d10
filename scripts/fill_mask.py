"""Predicts the likeliest tokens for each [MASK] of a text, with a masked language model.

    python3 scripts/fill_mask.py MODEL "the capital of denmark is [MASK] ."
    python3 scripts/fill_mask.py MODEL --top-k 10 < texts.txt > tokens.jsonl
    python3 scripts/fill_mask.py MODEL --input texts.csv --columns text --output tokens.jsonl

MODEL is DATA_DIR/models/NAME/generator, or encoder after pre-training without ELECTRA's objective;
or the name of a model on the Hugging Face hub. Texts are arguments, or lines of a file or of
standard input; with --columns they are cells of a TSV, CSV or JSON-lines file. If a text is longer
than the model takes, each mask is predicted from the tokens around it.

The output has one JSON object per text: its number from 0, and for each mask the tokens, best
first, with their probabilities and the filled text.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import bootstrap  # noqa: F401

from common import errors
from pipelines import command_line, text_files


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, fills their masks, and writes the tokens."""
    parser = command_line.make_parser(__doc__, "a masked language model", "the column")
    parser.add_argument(
        "--top-k", type=int, default=5, help="tokens per mask (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")
    args = parser.parse_intermixed_args(arguments)
    command_line.check_output(args.output, ".jsonl")
    rows = text_files.read_rows(args, "one text", required="[MASK]")
    directory = command_line.find_model(args)
    fill_mask = command_line.load_pipeline("FillMask", directory, dtype=args.dtype)
    texts = [text for (text,) in rows]
    filled = fill_mask.iterate(texts, args.top_k, args.batch_size, args.errors)
    with command_line.progress_bar(len(rows)) as bar:
        command_line.write_lines(args.output, json_lines(filled, bar))


def json_lines(filled: Iterable[list[Any]], bar: Any) -> Iterator[str]:
    """A line for each item of `FillMask.iterate`."""
    for index, masks in enumerate(filled):
        fields = [
            [
                {"token": token, "probability": round(float(probability), 6), "text": text}
                for token, probability, text in zip(*vars(mask).values(), strict=True)
            ]
            for mask in masks or ()
        ]
        is_skipped = masks is None
        answer = {"error": "expected a text with [MASK]"} if is_skipped else {"masks": fields}
        yield json.dumps({"index": index} | answer, ensure_ascii=False)
        bar.update()


if __name__ == "__main__":
    errors.run(main)
