"""Says what a fine-tuned model makes of texts: labels, scores, tags, answers or choices.

    python3 scripts/predict.py MODEL "a fine film" "not so fine"
    python3 scripts/predict.py MODEL < texts.txt > labels.tsv
    python3 scripts/predict.py MODEL --input reviews.csv --columns review --output labels.jsonl

MODEL is what finetune.py leaves in DATA_DIR/models/NAME/finetuning_models/TASK_TRIAL, or the name
of such a model on the Hugging Face hub; what kind it is says its config.json. Texts are arguments,
or one a line of a file or of standard input; with --columns they are in a TSV, CSV or JSON-lines
file. Results are in the texts' order.

Classification: a text, or two with a tab between them for a model of pairs.

Tagging: a sentence is words with spaces between them. A file .conll, .conllu or .tsv has one word a
line, in the first column (FORM of CoNLL-U) or that of --columns. Out come words and tags in CoNLL's
format, or JSON lines, with entities:

    python3 scripts/predict.py MODEL "Karen Blixen was born in Rungsted"
    python3 scripts/predict.py MODEL --input news.conllu --output tags.conll

Question answering: a question and its context, as two arguments, with a tab between them, or in two
columns; or a SQuAD or MRQA file (.json, .jsonl, .jsonl.gz). Out come answers and their places as
TSV, JSON lines with further candidates, or (--format squad) the JSON that SQuAD's evaluation takes:

    python3 scripts/predict.py MODEL "Who is it?" "It is Karen. It is late."
    python3 scripts/predict.py MODEL --input faq.csv --columns question text
    python3 scripts/predict.py MODEL --input dev-v2.0.json --format squad --output answers.json

Multiple choice: a context and its choices, likewise; a single column may hold lists of choices:

    python3 scripts/predict.py MODEL "The dog barks." "It is a cat." "It is loud."
    python3 scripts/predict.py MODEL --input swag.csv --stem-column sent2 \\
        --columns sent1 ending0 ending1 ending2 ending3
"""

import argparse
import os
from collections.abc import Iterator

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from scripts import prediction_kinds, text_input


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, predicts, writes what comes out as it comes."""
    args = parse_arguments(arguments)
    directory = text_input.find_model(args)
    kind = prediction_kinds.find_kind(directory)
    output_format = text_input.choose_format(args.output, kind.formats, args.format)
    if args.stem_column is not None and not (args.columns and kind.pipeline == "MultipleChoice"):
        raise InputError("--stem-column is for a model of multiple choice, beside --columns")
    rows = kind.read(args)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import pipelines
    from data.tensorflow_setup import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    pipeline = getattr(pipelines, kind.pipeline).from_pretrained(directory)
    with text_input.progress_bar(len(rows), kind.rows_at_once, kind.unit) as bar:
        results = predict(kind, pipeline, rows, args.batch_size, bar)
        text_input.write_lines(args.output, kind.lines(output_format, pipeline, results))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text_input.add_model(parser, "a fine-tuned model")
    text_input.add_arguments(parser, "columns")
    parser.add_argument(
        "--stem-column",
        metavar="COLUMN",
        help="of multiple choice: the column of what all choices begin with",
    )
    parser.add_argument("--output", metavar="FILE", help="to write (default: standard output)")
    formats = dict.fromkeys(
        name for kind in prediction_kinds.KINDS.values() for name in kind.formats
    )
    parser.add_argument(
        "--format",
        choices=formats,
        help="default: as --output ends, or tsv; of tagging conll",
    )
    return parser.parse_intermixed_args(arguments)


def predict(
    kind: prediction_kinds.Kind, pipeline, rows: list, batch_size: int, bar
) -> Iterator[tuple]:
    """(number, row, result) of each row; the bar moves when a part has been computed."""
    from absl import logging

    num_cut = 0
    for begin in range(0, len(rows), kind.rows_at_once):
        part = rows[begin : begin + kind.rows_at_once]
        results, num_cut_here = kind.predict(pipeline, part, batch_size)
        num_cut += num_cut_here
        yield from zip(range(begin, begin + len(part)), part, results, strict=True)
        bar.update(len(part))
    if num_cut:
        logging.warning(
            "%d texts were longer than %d tokens and have been cut",
            num_cut,
            pipeline.max_seq_length,
        )


if __name__ == "__main__":
    errors.run(main)
