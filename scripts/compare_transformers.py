"""Opens this project's saved models in transformers, and compares the outputs.

    python3 scripts/compare_transformers.py --peer-python ~/torch/bin/python

For each class that transformers has, a model with random weights is saved with a tokenizer and
opened by transformers' Auto classes. The table has the largest absolute differences of the outputs
for rows without padding, of the outputs for all rows (with `mask_padding` false, as in
transformers), and of the scores or vectors that transformers' pipelines return for texts.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from common.fields import override
from common.markdown import markdown_table
from model.config import MODEL_SIZES, ConvBertConfig

PEER = Path(__file__).with_name("transformers_outputs.py")
VOCAB = Path(__file__).parents[1] / "data" / "vocab" / "bert_uncased.txt"
TEXTS = ("Oslo is the capital of Norway, isn't it?", "Søren visited a naïve café in Paris.")
MASKED_TEXTS = ("Oslo is the [MASK] of Norway, isn't it?", "Søren visited a naïve café in [MASK].")
LENGTHS = (32, 32, 20, 9)  # tokens per row; shorter rows are padded
TRANSFORMERS_NAMES = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
# Class → transformers' class, and its pipeline, if that reads plain texts.
CLASSES = {
    "ConvBertModel": ("AutoModel", "feature-extraction"),
    "ConvBertForMaskedLM": ("AutoModelForMaskedLM", "fill-mask"),
    "ConvBertForSequenceClassification": (
        "AutoModelForSequenceClassification",
        "text-classification",
    ),
    "ConvBertForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ConvBertForQuestionAnswering": ("AutoModelForQuestionAnswering", None),
    "ConvBertForMultipleChoice": ("AutoModelForMultipleChoice", None),
}


class Differences(NamedTuple):
    """The largest differences for one class, and the largest absolute value of the outputs.

    Args:
        pipeline: None without a pipeline; infinite if it returns other labels or tokens.
    """

    name: str
    unpadded: float
    padded: float
    pipeline: float | None
    largest_value: float


def main(arguments: list[str] | None = None) -> None:
    """Compares each class, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", required=True, metavar="PYTHON", help="has torch and transformers"
    )
    parser.add_argument("--size", choices=MODEL_SIZES, default="medium-small")
    args = parser.parse_args(arguments)
    # Weights large enough for every layer to matter.
    config = override(ConvBertConfig.from_size(args.size), {"initializer_range": 0.08})
    with tempfile.TemporaryDirectory() as folder:
        versions, rows = compare(config, folder, args.peer_python)
    print(f"{versions}; {args.size}, random weights\n")
    header = ("class", "unpadded", "padded", "pipeline", "largest value")
    cells = [[x if x is None or x is row.name else f"{x:.1e}" for x in row] for row in rows]
    print(markdown_table(header, cells), end="")


def compare(config: ConvBertConfig, folder: str, peer_python: str) -> tuple[str, list[Differences]]:
    """Compares a model of each class; everything is written below `folder`.

    Returns:
        The peer's versions, and the differences.

    Raises:
        InputError: transformers could not open a model; the message ends with its traceback.
    """
    import keras
    import numpy as np

    from data import ConvBertTokenizer

    keras.utils.set_random_seed(0)
    tokenizer = ConvBertTokenizer(VOCAB)
    jobs, models, inputs = [], {}, {}
    for name, (auto_class, pipeline) in CLASSES.items():
        directory = os.path.join(folder, name)
        models[name], inputs[name] = random_model(name, config), random_inputs(name, config)
        models[name].save_pretrained(directory)
        tokenizer.save_pretrained(directory, config.max_position_embeddings)
        renamed = {TRANSFORMERS_NAMES.get(key, key): array for key, array in inputs[name].items()}
        np.savez(os.path.join(directory, "inputs.npz"), **renamed)
        job = {"directory": directory, "auto_class": auto_class, "pipeline": pipeline}
        jobs.append(job | {"texts": texts_for(pipeline)})
    versions = run_peer(jobs, folder, peer_python)
    return versions, [
        compare_class(name, model, inputs[name], tokenizer, os.path.join(folder, name))
        for name, model in models.items()
    ]


def random_model(name: str, config: ConvBertConfig):
    """A model with names of labels and random weights, including those initialized to zeros."""
    import keras

    import model as library

    fields = {"num_labels": 3, "id2label": ("red", "green", "blue")}
    options = {"classifier_head": "mlp"} if name == "ConvBertForSequenceClassification" else {}
    model = getattr(library, name)(override(config, fields), **options)
    for variable in model.trainable_variables:
        if variable.name in ("bias", "beta", "output_bias"):
            variable.assign(keras.random.normal(variable.shape, stddev=0.1))
    return model


def random_inputs(name: str, config: ConvBertConfig) -> dict:
    """Rows of random tokens [B, T]; for multiple choice [B, 2, T]."""
    import numpy as np

    columns = np.arange(max(LENGTHS))
    mask = (columns < np.array(LENGTHS)[:, None]).astype("int32")
    if name == "ConvBertForMultipleChoice":
        mask = np.stack([mask, mask], axis=1)
    ids = np.random.default_rng(0).integers(5, config.vocab_size, mask.shape).astype("int32")
    segments = (columns >= min(LENGTHS) // 2).astype("int32")
    return {"input_ids": ids * mask, "input_mask": mask, "segment_ids": segments * mask}


def texts_for(pipeline: str | None) -> tuple[str, ...]:
    """The texts that a pipeline reads."""
    return MASKED_TEXTS if pipeline == "fill-mask" else TEXTS


def run_peer(jobs: list[dict], folder: str, peer_python: str) -> str:
    """Runs transformers on the jobs, and returns its versions."""
    path = os.path.join(folder, "jobs.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(jobs, file)
    command = [peer_python, str(PEER), path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"--peer-python: {error}") from None
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def compare_class(name: str, model, inputs: dict, tokenizer, directory: str) -> Differences:
    """The differences between a model and what transformers computed from its directory."""
    import numpy as np

    with np.load(os.path.join(directory, "outputs.npz")) as file:
        theirs = dict(file)
    unmasked = type(model).from_pretrained(directory, mask_padding=False)
    differences = []
    for reader, num_rows in ((model, LENGTHS.count(max(LENGTHS))), (unmasked, len(LENGTHS))):
        outputs = reader(inputs)
        if not isinstance(outputs, dict):
            outputs = {next(iter(theirs)): outputs}
        if set(outputs) != set(theirs):
            raise InputError(f"{name}: transformers returned {', '.join(theirs)}")
        differences.append(
            max(
                float(np.max(np.abs(np.array(array) - theirs[key])[:num_rows]))
                for key, array in outputs.items()
            )
        )
    pipeline = CLASSES[name][1]
    if pipeline is not None:
        with open(os.path.join(directory, "answers.json"), encoding="utf-8") as file:
            answers = zip(texts_for(pipeline), json.load(file), strict=True)
        differences.append(
            max(pipeline_difference(pipeline, a, model, tokenizer, text) for text, a in answers)
        )
    else:
        differences.append(None)
    return Differences(name, *differences, max(float(np.abs(a).max()) for a in theirs.values()))


def pipeline_difference(pipeline: str, answer, model, tokenizer, text: str) -> float:
    """The largest difference of the scores or vectors that a pipeline returned for one text."""
    import keras
    import numpy as np

    from pipelines import FillMask

    if pipeline == "fill-mask":
        fill_mask = FillMask(model, tokenizer, model.config.max_position_embeddings)
        (filled,) = fill_mask.predict([text])[0]
        expected = list(zip(filled.tokens, filled.probabilities, strict=True))
        found = [(item["token_str"], item["score"]) for item in answer]
    else:
        outputs = np.array(model(tokenizer([text])))
        if pipeline == "feature-extraction":
            return float(np.max(np.abs(outputs - np.array(answer))))
        answers, rows = [answer], outputs
        if pipeline == "token-classification":  # has no answer for [CLS] and [SEP]
            answers, rows = answer, outputs[0, 1:-1]
        probabilities = np.array(keras.ops.softmax(rows))
        labels = [model.config.id2label[i] for i in np.argmax(probabilities, axis=-1)]
        expected = list(zip(labels, np.max(probabilities, axis=-1), strict=True))
        found = [(item.get("entity", item.get("label")), item["score"]) for item in answers]
    if [name for name, _ in found] != [name for name, _ in expected]:
        return float("inf")
    return max(abs(a - float(b)) for (_, a), (_, b) in zip(found, expected, strict=True))


if __name__ == "__main__":
    errors.run(main)
