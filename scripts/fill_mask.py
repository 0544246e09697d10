"""Says what a masked language model would write for each [MASK] of a text, and how probable it is.

    python3 scripts/fill_mask.py MODEL "the capital of denmark is [MASK] ."
    python3 scripts/fill_mask.py MODEL --top-k 10 < texts.txt > tokens.tsv
    python3 scripts/fill_mask.py MODEL --input texts.csv --columns text --output tokens.jsonl

MODEL is DATA_DIR/models/NAME/generator, or encoder of a run without ELECTRA's objective; or the
name of a model on the Hugging Face hub. Without --columns there is one text a line (or an
argument). With --columns the input is a TSV, CSV or JSON-lines file. Of a text longer than the
model takes, a mask is predicted from the tokens around it.
"""

import argparse
import json
import os
from collections.abc import Iterable

import bootstrap  # noqa: F401

from common import errors
from scripts import text_input

FORMATS = ("tsv", "jsonl")
ONE_LINE = str.maketrans("\t\r\n", "   ")


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, fills their masks, writes what comes out."""
    args = parse_arguments(arguments)
    output_format = text_input.choose_format(args.output, FORMATS, args.format)
    texts, _ = text_input.read_texts(args, may_be_pairs=False, must_hold="[MASK]")
    directory = text_input.find_model(args)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from data.tensorflow_setup import prepare_tensorflow
    from pipelines import FillMask

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    fill_mask = FillMask.from_pretrained(directory)
    filled = fill_mask.iterate(texts, args.top_k, args.batch_size)
    to_lines = tsv_lines if output_format == "tsv" else jsonl_lines
    with text_input.progress_bar(len(texts), iterable=filled) as bar:
        text_input.write_lines(args.output, to_lines(bar))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text_input.add_model(parser, "a masked language model")
    text_input.add_arguments(parser, "the column")
    parser.add_argument(
        "--top-k", type=int, default=5, help="tokens for a mask (default: %(default)s)"
    )
    parser.add_argument("--output", help="file to write (default: standard output)")
    parser.add_argument("--format", choices=FORMATS, help="default: as --output ends, or tsv")
    return parser.parse_intermixed_args(arguments)


def tsv_lines(filled: Iterable[list]) -> Iterable[str]:
    """A header, and a line for each token: numbers of text and mask from 0, and its rank from 1."""
    yield "index\tmask\trank\ttoken\tprobability\ttext"
    for index, masks in enumerate(filled):
        for number, mask in enumerate(masks):
            choices = zip(mask.tokens, mask.probabilities, mask.texts, strict=True)
            for rank, (token, probability, text) in enumerate(choices, start=1):
                cells = [token, f"{probability:.6f}", text.translate(ONE_LINE)]
                yield "\t".join([str(index), str(number), str(rank), *cells])


def jsonl_lines(filled: Iterable[list]) -> Iterable[str]:
    """An object a text: its number from 0, and for each of its masks the tokens, best first."""
    for index, masks in enumerate(filled):
        choices = [zip(mask.tokens, mask.probabilities, mask.texts, strict=True) for mask in masks]
        fields = [
            [
                {"token": token, "probability": round(float(probability), 6), "text": text}
                for token, probability, text in row
            ]
            for row in choices
        ]
        yield json.dumps({"index": index, "masks": fields}, ensure_ascii=False)


if __name__ == "__main__":
    errors.run(main)
