"""Small models that transformers saved, and what it computes with them."""

import json
from pathlib import Path

import numpy as np

import model as models

HUGGINGFACE = Path(__file__).parents[1] / "goldens" / "huggingface"
CLASSES = {
    "tiny_relu": "ConvBertModel",
    "tiny_mlm": "ConvBertForMaskedLM",
    "tiny_seqcls": "ConvBertForSequenceClassification",
    "tiny_tokcls": "ConvBertForTokenClassification",
    "tiny_qa": "ConvBertForQuestionAnswering",
    "tiny_multichoice": "ConvBertForMultipleChoice",
}
INPUTS = {"input_ids": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids"}
OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")


def load(name):
    """Inputs under our names, and all arrays of a golden file under transformers' names."""
    with np.load(HUGGINGFACE / f"{name}.npz") as file:
        arrays = dict(file)
    return {ours: arrays[theirs] for ours, theirs in INPUTS.items()}, arrays


def check_outputs(directory, name):
    """Asserts that the model in a directory computes what transformers does.

    Returns the outputs, the golden file's arrays, and the model.
    """
    inputs, arrays = load(name)
    config = json.loads((directory / "config.json").read_text())
    (architecture,) = config.get("architectures", ["ConvBertModel"])
    model = getattr(models, architecture).from_pretrained(directory, mask_padding=False)
    outputs = model(inputs)
    named = outputs
    if not isinstance(outputs, dict):
        named = {next(key for key in OUTPUTS if key in arrays): outputs}
    for key, array in named.items():
        np.testing.assert_allclose(array, arrays[key], atol=5e-5)
    return outputs, arrays, model


def edit_config(directory, **fields):
    """Sets fields of a model's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
