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
    """Asserts that the model in a directory computes what transformers does."""
    inputs, arrays = load(name)
    model_class = getattr(models, CLASSES.get(name, "ConvBertModel"))
    outputs = model_class.from_pretrained(directory, mask_padding=False)(inputs)
    if not isinstance(outputs, dict):
        outputs = {next(key for key in OUTPUTS if key in arrays): outputs}
    for key, array in outputs.items():
        np.testing.assert_allclose(array, arrays[key], atol=5e-5)


def edit_config(directory, **fields):
    """Sets fields of a model's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
