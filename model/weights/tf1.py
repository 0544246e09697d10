"""TF 1 checkpoints of the original release: their files, and the configuration their shapes imply.

Nothing here needs TensorFlow; `scripts/convert_checkpoint.py` reads the values.
"""

import functools
import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.fields import override
from model.config import HEAD_FIELDS, ConvBertConfig, Objective

_SLOTS = ("/adam_m", "/adam_v")  # the original's optimizer appends these to a variable's name
_FILE_ENDING = re.compile(r"\.(index|data-\d+-of-\d+)$")

Shapes = Mapping[str, tuple[int, ...]]


def is_checkpoint(path: str) -> bool:
    """Whether `path` is a checkpoint's prefix, one of its files, or their directory."""
    if os.path.isdir(path):
        names = os.listdir(path)
        return "config.json" not in names and any(name.endswith(".index") for name in names)
    return path.endswith(".index") or os.path.isfile(_FILE_ENDING.sub("", path) + ".index")


def find_prefix(path: str) -> str:
    """The prefix (the common part of the file names) of a checkpoint; see `is_checkpoint`.

    Raises:
        InputError: a directory has several checkpoints and does not record which is the newest.
    """
    if not os.path.isdir(path):
        return _FILE_ENDING.sub("", path)
    found = sorted(n.removesuffix(".index") for n in os.listdir(path) if n.endswith(".index"))
    state = Path(path, "checkpoint")
    if state.is_file():
        newest = re.search('^model_checkpoint_path: "(.*)"', state.read_text("utf-8"), re.MULTILINE)
        name = newest and os.path.basename(newest[1])  # the directory may have been moved
        if name in found:
            return os.path.join(path, name)
    if len(found) > 1:
        raise InputError(f"{path} holds several checkpoints; name one of them: {', '.join(found)}")
    return os.path.join(path, found[0])


def is_weight(name: str, names: Mapping[str, Any]) -> bool:
    """Whether a variable is a weight, not the step or a slot of the optimizer."""
    is_slot = any(name.endswith(slot) and name.removesuffix(slot) in names for slot in _SLOTS)
    return name != "global_step" and not is_slot


def encoder_config(shapes: Shapes, hparams: Mapping[str, Any], source: str) -> ConvBertConfig:
    """The configuration of the encoder in the scope `electra`.

    Args:
        shapes: the shapes of all variables in the checkpoint.
        hparams: fields of `ConvBertConfig` that shapes do not show; fields of heads are ignored.
        source: the checkpoint, for errors.

    Raises:
        InputError: a variable is missing or has an impossible shape, the number of heads is
            unknown, or `hparams` contradict the shapes.
    """
    find = functools.partial(_find, shapes, source)
    vocab_size, embedding_size = find("electra/embeddings/word_embeddings", 2)
    layer = "electra/encoder/layer_0"
    fields = {
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "max_position_embeddings": find("electra/embeddings/position_embeddings", 2)[0],
        "type_vocab_size": find("electra/embeddings/token_type_embeddings", 2)[0],
        "hidden_size": find(f"{layer}/attention/output/dense/kernel", 2)[1],
        "num_hidden_layers": _count_layers(shapes, "electra"),
    }
    if f"{layer}/intermediate/g_dense/kernel" in shapes:
        groups, _, width = find(f"{layer}/intermediate/g_dense/kernel", 3)
        fields |= {"linear_groups": groups, "intermediate_size": groups * width}
    else:
        width = find(f"{layer}/intermediate/dense/kernel", 2)[1]
        fields |= {"linear_groups": 1, "intermediate_size": width}
    fields |= _attention_fields(find, shapes, source, fields["hidden_size"])
    for name in sorted(set(fields) & set(hparams)):
        if fields[name] != hparams[name]:
            raise InputError(
                f"--hparams: `{name}` is {hparams[name]!r}, but the shapes in {source} show "
                f"{fields[name]!r}"
            )
    if fields["conv_type"] == "noconv" and "num_attention_heads" not in hparams:
        raise InputError(
            f"{source} has plain attention, whose shapes do not show the number of heads. Pass it "
            """with --hparams '{"num_attention_heads": …}'"""
        )
    encoder_hparams = {name: value for name, value in hparams.items() if name not in HEAD_FIELDS}
    config = override(ConvBertConfig(), encoder_hparams | fields)
    expected = config.num_kernel_parameters()
    found = sum(map(math.prod, shapes.values()))
    # If variables are only missing or left over, the check of the built network lists them.
    if expected > 10 * found:
        raise InputError(
            f"{source}: the shapes contradict each other. Some belong to a network of more than "
            f"{expected:,} parameters, but the checkpoint has {found:,}"
        )
    return config


def _count_layers(shapes, scope):
    begin = f"{scope}/encoder/layer_"
    numbers = {name[len(begin) :].split("/")[0] for name in shapes if name.startswith(begin)}
    return next(i for i in itertools.count() if str(i) not in numbers)


def _attention_fields(find, shapes, source, hidden_size):
    attention = "electra/encoder/layer_0/attention/self"
    if f"{attention}/conv_attn_key/depthwise_kernel" not in shapes:
        return {"conv_type": "noconv", "head_ratio": 1}
    kernel_size = find(f"{attention}/conv_attn_key/depthwise_kernel", 3)[0]
    width = find(f"{attention}/query/kernel", 2)[1]
    num_heads = find(f"{attention}/conv_attn_kernel/bias", 1)[0] // max(1, kernel_size)
    # The original's heads are hidden_size / num_attention_heads wide, whatever `head_ratio` is.
    total = hidden_size * num_heads // max(1, width)
    ratio = max(1, total // max(1, num_heads))
    if not total or total * width != hidden_size * num_heads or max(1, total // ratio) != num_heads:
        raise InputError(
            f"{source}: {attention}/query/kernel is {width} wide, but in the original, a network "
            f"with {num_heads} convolution kernels and a hidden size of {hidden_size} is not"
        )
    return {
        "conv_type": "sdconv",
        "conv_kernel_size": kernel_size,
        "num_attention_heads": total,
        "head_ratio": ratio,
    }


def objective(shapes: Shapes, config: ConvBertConfig, source: str) -> Objective | None:
    """The pre-training objective that fits a checkpoint's networks; None if it lacks their heads.

    `config` describes the encoder. Raises an `InputError` if the generator is larger.
    """
    scopes = {name.split("/")[0] for name in shapes}
    has_generator, has_mask_head = "generator" in scopes, "generator_predictions" in scopes
    is_electra = has_generator or "discriminator_predictions" in scopes
    if not is_electra and not has_mask_head:
        return None
    fields = {
        "electra_objective": is_electra,
        "uniform_generator": not has_generator and not has_mask_head,
        "untied_generator": has_generator or not has_mask_head,
    }
    if has_generator:
        kernel = "generator/encoder/layer_0/attention/output/dense/kernel"
        fields |= {
            "untied_generator_embeddings": "generator/embeddings/word_embeddings" in shapes,
            "generator_hidden_size": _find(shapes, source, kernel, 2)[1] / config.hidden_size,
            "generator_layers": _count_layers(shapes, "generator") / config.num_hidden_layers,
        }
    try:
        return Objective(**fields)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _find(shapes, source, name, rank):
    """The shape of a variable that every checkpoint of the original has."""
    shape = shapes.get(name)
    if shape is None or len(shape) != rank:
        found = "it is missing" if shape is None else f"its shape is {shape}"
        raise InputError(
            f"{source} is not a ConvBERT checkpoint of the original release: it needs a variable "
            f"{name} with {rank} axes, but {found}. Its {len(shapes)} variables begin with "
            f"{', '.join(list(shapes)[:3])}"
        )
    return shape
