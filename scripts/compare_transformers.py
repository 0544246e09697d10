"""Opens this project's saved models in transformers, and compares the outputs.

    python3 scripts/compare_transformers.py --size medium-small

For each class that transformers has, a model with random weights is saved with a tokenizer and
opened by transformers' Auto classes. The table has the largest absolute differences of the outputs
for rows without padding, of the outputs for all rows (with `mask_padding` false, as in
transformers), and of the scores or vectors that transformers' pipelines return for texts. Needs
torch and transformers, which requirements-peers.txt lists.
"""

import argparse
import tempfile
from typing import NamedTuple

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from common.fields import override
from common.markdown import markdown_table
from jobs.model_card import KINDS
from model.config import MODEL_SIZES, ConvBertConfig

TEXTS = ("Oslo is the capital of Norway, isn't it?", "Søren visited a naïve café in Paris.")
MASKED_TEXTS = ("Oslo is the [MASK] of Norway, isn't it?", "Søren visited a naïve café in [MASK].")
LENGTHS = (32, 32, 20, 9)  # tokens per row; shorter rows are padded
TRANSFORMERS_INPUTS = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
TRANSFORMERS_OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")
# transformers' pipelines that do not read plain texts.
OTHER_PIPELINES = ("question-answering", "multiple-choice")


class Differences(NamedTuple):
    """The largest differences for one class, and the largest absolute value of the outputs."""

    name: str
    unpadded: float
    padded: float
    pipeline: float | None  # None without a pipeline; infinite if labels or tokens differ
    largest_value: float


def main(arguments: list[str] | None = None) -> None:
    """Compares each class, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=MODEL_SIZES, default="medium-small")
    args = parser.parse_args(arguments)
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f"{error}. Install requirements-peers.txt") from None
    # Weights large enough for every layer to matter.
    config = override(ConvBertConfig.from_size(args.size), {"initializer_range": 0.08})
    rows = compare(config)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}; {args.size}\n")
    header = ("class", "unpadded", "padded", "pipeline", "largest value")
    cells = [(name, *(x if x is None else f"{x:.1e}" for x in values)) for name, *values in rows]
    print(markdown_table(header, cells), end="")


def compare(config: ConvBertConfig) -> list[Differences]:
    """Compares a random model of each class."""
    import keras

    from data import ConvBertTokenizer
    from data.records.command_line import BERT_VOCAB

    keras.utils.set_random_seed(0)
    tokenizer = ConvBertTokenizer(BERT_VOCAB)
    rows = []
    for name in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            model = random_model(name, config)
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory, config.max_position_embeddings)
            rows.append(compare_class(name, model, tokenizer, directory))
    return rows


def compare_class(name: str, model, tokenizer, directory: str) -> Differences:
    """Compares a model, and its tokenizer, with what transformers reads from their directory."""
    import numpy as np
    import transformers

    (task, _), inputs = KINDS[name], random_inputs(name, model.config.vocab_size)
    auto_class = "AutoModel" + name.removeprefix("ConvBert").removeprefix("Model")
    theirs = compute(getattr(transformers, auto_class).from_pretrained(directory).eval(), inputs)

    def difference(reader, num_rows):
        outputs = reader(inputs)
        outputs = outputs if isinstance(outputs, dict) else {next(iter(theirs)): outputs}
        if set(outputs) != set(theirs):
            raise InputError(f"{name}: transformers returned {', '.join(theirs)}")
        return max(
            float(np.max(np.abs(np.array(array) - theirs[n])[:num_rows]))
            for n, array in outputs.items()
        )

    in_pipeline = None
    if task not in OTHER_PIPELINES:
        texts = MASKED_TEXTS if task == "fill-mask" else TEXTS
        answers = zip(texts, transformers.pipeline(task, directory)(list(texts)), strict=True)
        in_pipeline = max(
            pipeline_difference(task, answer, model, tokenizer, text) for text, answer in answers
        )
    return Differences(
        name,
        difference(model, LENGTHS.count(max(LENGTHS))),
        difference(type(model).from_pretrained(directory, mask_padding=False), len(LENGTHS)),
        in_pipeline,
        max(float(np.max(np.abs(array))) for array in theirs.values()),
    )


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


def compute(network, inputs: dict) -> dict:
    """The outputs of a model of transformers, as arrays by name."""
    import torch

    tensors = {TRANSFORMERS_INPUTS.get(n, n): torch.tensor(a).long() for n, a in inputs.items()}
    with torch.no_grad():
        outputs = network(**tensors)
    return {name: outputs[name].numpy() for name in TRANSFORMERS_OUTPUTS if name in outputs}


def random_inputs(name: str, vocab_size: int) -> dict:
    """Rows of random tokens [B, T]; for multiple choice [B, 2, T]."""
    import numpy as np

    columns = np.arange(max(LENGTHS))
    mask = (columns < np.array(LENGTHS)[:, None]).astype("int32")
    if name == "ConvBertForMultipleChoice":
        mask = np.stack([mask, mask], axis=1)
    ids = np.random.default_rng(0).integers(5, vocab_size, mask.shape).astype("int32")
    segments = (columns >= min(LENGTHS) // 2).astype("int32")
    return {"input_ids": ids * mask, "input_mask": mask, "segment_ids": segments * mask}


def pipeline_difference(task: str, answer, model, tokenizer, text: str) -> float:
    """The largest difference of the scores or vectors that a pipeline returned for one text."""
    import keras
    import numpy as np

    from pipelines import FillMask

    if task == "fill-mask":
        fill_mask = FillMask(model, tokenizer, model.config.max_position_embeddings)
        (filled,) = fill_mask.predict([text])[0]
        expected = list(zip(filled.tokens, filled.probabilities, strict=True))
        found = [(item["token_str"], item["score"]) for item in answer]
    else:
        outputs = np.array(model(tokenizer([text])))
        if task == "feature-extraction":
            return float(np.max(np.abs(outputs - np.array(answer))))
        answers, rows = [answer], outputs
        if task == "token-classification":  # has no answer for [CLS] and [SEP]
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
