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
from scripts import text_input

FORMATS = ("tsv", "jsonl")


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, classifies them, writes what comes out."""
    args = parse_arguments(arguments)
    output_format = text_input.choose_format(args.output, FORMATS, args.format)
    texts, pairs = text_input.read_texts(args)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    from absl import logging

    from data.devices import prepare_tensorflow
    from pipelines import TextClassifier

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    classifier = TextClassifier.from_pretrained(args.model_dir)
    found = classify(classifier, texts, pairs, args.batch_size)
    if found.num_cut:
        logging.warning(
            "%d of %d texts were longer than %d tokens and have been cut",
            found.num_cut,
            len(texts),
            classifier.max_seq_length,
        )
    to_lines = tsv_lines if output_format == "tsv" else jsonl_lines
    text_input.write_lines(args.output, to_lines(found, classifier.labels))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="folder of a fine-tuned model")
    text_input.add_arguments(parser)
    parser.add_argument("--output", help="file to write (default: standard output)")
    parser.add_argument("--format", choices=FORMATS, help="default: as --output ends, or tsv")
    return parser.parse_intermixed_args(arguments)


def classify(classifier, texts: list[str], pairs: list[str] | None, batch_size: int):
    """The classifier's `Predictions`, with a progress bar for many texts."""
    import numpy as np

    from pipelines.classifier import Predictions

    parts = []
    with text_input.progress_bar(len(texts)) as bar:
        for begin in range(0, len(texts), text_input.MANY):
            chunk = slice(begin, begin + text_input.MANY)
            parts.append(classifier.predict(texts[chunk], pairs and pairs[chunk], batch_size))
            bar.update(len(parts[-1]))
    return Predictions(
        [answer for part in parts for answer in part.answers],
        classifier.labels and np.concatenate([part.probabilities for part in parts]),
        sum(part.num_cut for part in parts),
    )


def tsv_lines(found, labels: tuple[str, ...] | None) -> Iterable[str]:
    """A header, and for each text its number from 0, what it is, and the labels' probabilities."""
    from data.classification import answer_text

    yield "\t".join(["index", "prediction", *(labels or ())])
    for index, answer in enumerate(found.answers):
        numbers = [] if labels is None else found.probabilities[index]
        yield "\t".join([str(index), answer_text(answer), *(f"{p:.6f}" for p in numbers)])


def jsonl_lines(found, labels: tuple[str, ...] | None) -> Iterable[str]:
    """An object a text: `label`, `labels` or `score`, and the labels' `probabilities`."""
    from data.classification import answer_text

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
