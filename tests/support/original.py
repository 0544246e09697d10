"""The original's reference outputs, and the weights they were computed with."""

import json
import zlib
from pathlib import Path

import numpy as np

from model import ConvBertConfig, ConvBertForPreTraining
from model.config import MODEL_SIZES, Objective

GOLDENS = Path(__file__).parent.parent / "goldens" / "original"


def load(name):
    """A golden file as a dict of arrays, stored scales multiplied in."""
    with np.load(GOLDENS / name) as file:
        arrays = dict(file)
    scales = {key.removesuffix("/scale"): arrays.pop(key) for key in [*arrays] if "/scale" in key}
    return arrays | {key: arrays[key] * np.float32(scale) for key, scale in scales.items()}


def weight(name, shape):
    """The value of a TF 1 variable: drawn from its name, scaled by its kind."""
    x = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    kind = name.rsplit("/", 1)[-1]
    if kind == "gamma":
        x = 1 + 0.3 * x
    elif kind in ("beta", "bias", "output_bias") or kind.endswith("embeddings"):
        x = 0.2 * x
    elif kind == "depthwise_kernel":
        x = x / 3
    else:
        x = (1.5 if kind == "pointwise_kernel" else 1.2) * x / np.sqrt(shape[-2])
    return (np.round(x * 512) / 512).astype("float32")


def config(size, golden):
    """The golden's configuration: the size's real widths, few layers, a small vocabulary."""
    given = json.loads(str(golden["config"]))["bert_config"]
    return ConvBertConfig.from_size(
        size,
        vocab_size=given["vocab_size"],
        num_hidden_layers=given["num_hidden_layers"],
        max_position_embeddings=given["max_position_embeddings"],
        mask_padding=False,
    )


def pretraining_model(size, golden):
    """The pre-training model with the golden's weights."""
    objective = Objective(generator_hidden_size=MODEL_SIZES[size].generator_hidden_size)
    model = ConvBertForPreTraining(config(size, golden), objective)
    assign(model.tensors())
    return model


def assign(rows):
    """Sets each variable to its golden value."""
    for row in rows:
        row.variable.assign(weight(row.tf1_name, tuple(row.variable.shape)))


def masked_batch(golden):
    """The golden's batch after masking, as `mask_tokens` returns it."""
    names = ("input_ids", "input_mask", "segment_ids", "masked_input_ids")
    names += ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
    return {name: golden[name] for name in names}


def relative_difference(actual, expected):
    """Largest absolute difference, as a share of the largest absolute value."""
    actual = np.asarray(actual).reshape(expected.shape)
    return np.abs(actual - expected).max() / np.abs(expected).max()
