"""Opens saved models in transformers, compares what they compute, and prints a table.

    python3 scripts/compare_transformers.py --peer-python ~/torch/bin/python

One model with random weights of each class that transformers has is saved with a tokenizer, and
opened by transformers' Auto classes. Compared are the outputs on random rows without padding, on
padded rows (with `mask_padding` false, as transformers has it), and the answers of transformers'
pipelines to texts. --peer-python names a Python that has torch and transformers.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from common.fields import override
from model.config import MODEL_SIZES, ConvBertConfig

PEER = Path(__file__).with_name("transformers_outputs.py")
VOCAB = Path(__file__).parents[1] / "data" / "vocab" / "bert_uncased.txt"
TEXTS = ("Oslo is the capital of Norway, isn't it?", "Søren visited a naïve café in Paris.")
MASKED_TEXTS = ("Oslo is the [MASK] of Norway, isn't it?", "Søren visited a naïve café in [MASK].")
LENGTHS = (32, 20, 9)  # of the padded rows
# Class → transformers' class, and its pipeline, if that reads texts alone.
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: the largest differences, and the largest value of the outputs.

    Args:
        pipeline: of the pipeline's scores or vectors; None where there is no pipeline. Infinite
            where it answers with another label or token.
    """

    name: str
    unpadded: float
    padded: float
    pipeline: float | None
    reach: float

    def line(self) -> str:
        """As Markdown."""
        pipeline = "" if self.pipeline is None else f"{self.pipeline:.1e}"
        cells = (self.name, f"{self.unpadded:.1e}", f"{self.padded:.1e}", pipeline)
        return "| " + " | ".join((*cells, f"{self.reach:.2g}")) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Saves, has transformers open, compares, prints."""
    args = parse_arguments(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Weights so large that layers matter to the outputs.
    config = override(ConvBertConfig.from_size(args.size), {"initializer_range": 0.08})
    with tempfile.TemporaryDirectory() as folder:
        versions, rows = compare(config, folder, args.peer_python)
    print(f"{versions}; {args.size}, random weights\n")
    print("| class | unpadded | padded | pipeline | largest value |\n|---|---|---|---|---|")
    for row in rows:
        print(row.line())


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, metavar="PYTHON")
    parser.add_argument("--size", choices=MODEL_SIZES, default="medium-small")
    return parser.parse_args(arguments)


def compare(config: ConvBertConfig, folder: str, peer_python: str) -> tuple[str, list[Row]]:
    """Compares a model of each class; everything is written below `folder`.

    Returns:
        The peer's versions, and the table.

    Raises:
        InputError: transformers could not open a model; its own words are in the message.
    """
    import keras

    from data import ConvBertTokenizer

    keras.utils.set_random_seed(0)
    tokenizer = ConvBertTokenizer(VOCAB)
    jobs, models = [], {}
    for name, (auto_class, pipeline) in CLASSES.items():
        models[name] = random_model(name, config)
        for padded in (False, True):
            directory = os.path.join(folder, f"{name}{'_padded' * padded}")
            models[name].save_pretrained(directory)
            tokenizer.save_pretrained(directory, config.max_position_embeddings)
            inputs = random_inputs(name, config, padded)
            write_inputs(directory, inputs)
            pipe = None if padded else pipeline
            job = {"directory": directory, "auto_class": auto_class, "pipeline": pipe}
            jobs.append(job | {"texts": texts_of(pipeline)})
    versions = ask_peer(jobs, folder, peer_python)
    rows = [compare_one(name, models[name], tokenizer, folder) for name in CLASSES]
    return versions, rows


def random_model(name: str, config: ConvBertConfig):
    """One with random weights, also where they would begin as zeros, and names of labels."""
    import keras

    import model as library

    fields = {"num_labels": 3, "id2label": ("red", "green", "blue")}
    options = {"classifier_head": "mlp"} if name == "ConvBertForSequenceClassification" else {}
    model = getattr(library, name)(override(config, fields), **options)
    for variable in model.trainable_variables:
        if variable.name in ("bias", "beta", "output_bias"):
            variable.assign(keras.random.normal(variable.shape, stddev=0.1))
    return model


def random_inputs(name: str, config: ConvBertConfig, padded: bool) -> dict:
    """Rows of random tokens, in our names; for multiple choice two choices each."""
    import numpy as np

    random = np.random.default_rng(0)
    lengths = LENGTHS if padded else (LENGTHS[0],) * len(LENGTHS)
    mask = (np.arange(LENGTHS[0]) < np.array(lengths)[:, None]).astype("int32")
    segments = (np.arange(LENGTHS[0]) >= LENGTHS[-1] // 2).astype("int32") * mask
    ids = random.integers(5, config.vocab_size, mask.shape).astype("int32") * mask
    inputs = {"input_ids": ids, "input_mask": mask, "segment_ids": segments}
    if name == "ConvBertForMultipleChoice":
        inputs = {key: np.stack([array, array[::-1]], axis=1) for key, array in inputs.items()}
    return inputs


def write_inputs(directory: str, inputs: dict) -> None:
    """As the peer reads them."""
    import numpy as np

    names = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
    arrays = {names.get(name, name): array for name, array in inputs.items()}
    np.savez(os.path.join(directory, "inputs.npz"), **arrays)


def ask_peer(jobs: list[dict], folder: str, peer_python: str) -> str:
    """Has transformers do the jobs; returns its versions."""
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


def compare_one(name: str, model, tokenizer, folder: str) -> Row:
    """The differences of one class."""
    import numpy as np

    differences, reach = {}, 0.0
    for padded in (False, True):
        directory = os.path.join(folder, f"{name}{'_padded' * padded}")
        theirs = np.load(os.path.join(directory, "outputs.npz"))
        reader = type(model).from_pretrained(directory, mask_padding=False) if padded else model
        outputs = reader(random_inputs(name, model.config, padded))
        if not isinstance(outputs, dict):
            outputs = {theirs.files[0]: outputs}
        if set(outputs) != set(theirs.files):
            raise InputError(f"{name}: transformers returned {', '.join(theirs.files)}")
        differences[padded] = max(
            float(np.max(np.abs(np.array(array) - theirs[key]))) for key, array in outputs.items()
        )
        reach = max(reach, *(float(np.max(np.abs(theirs[key]))) for key in outputs))
    with open(os.path.join(folder, name, "pipeline.json"), encoding="utf-8") as file:
        report = json.load(file)
    kind = CLASSES[name][1]
    pipeline = None
    if kind is not None:
        pipeline = max(
            pipeline_difference(kind, answer, model, tokenizer, text)
            for text, answer in zip(texts_of(kind), report["answers"], strict=True)
        )
    return Row(name, differences[False], differences[True], pipeline, reach)


def texts_of(pipeline: str | None) -> tuple[str, ...]:
    """What a pipeline is given to read."""
    return MASKED_TEXTS if pipeline == "fill-mask" else TEXTS


def pipeline_difference(kind: str, answer, model, tokenizer, text: str) -> float:
    """The largest difference of a pipeline's scores, or vectors, for one text from ours."""
    import keras
    import numpy as np

    from pipelines import FillMask

    if kind == "fill-mask":
        (filled,) = FillMask(model, tokenizer, model.config.max_position_embeddings).predict(
            [text]
        )[0]
        expected = list(zip(filled.tokens, filled.probabilities, strict=True))
        found = [(item["token_str"], item["score"]) for item in answer]
    else:
        outputs = np.array(model(tokenizer([text])))
        if kind == "feature-extraction":
            return float(np.max(np.abs(outputs - np.array(answer))))
        answers, rows = [answer], outputs
        if kind == "token-classification":  # has no answer for [CLS] and [SEP]
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
