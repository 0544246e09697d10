"""Checkpoints of the original release, which ran on TensorFlow 1: files, and what shapes tell.

TensorFlow is imported when a file is read or written.
"""

import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from common import files
from common.errors import InputError
from common.fields import override
from model.config import HEAD_FIELDS, ConvBertConfig

SLOTS = ("/adam_m", "/adam_v")  # of the original's optimizer, behind the name of the variable
STEP = "global_step"
STATE_FILE = "checkpoint"  # names a folder's newest checkpoint

Shapes = Mapping[str, tuple[int, ...]]


def find_prefix(path: str) -> str:
    """The checkpoint's name, without the endings of its files.

    Args:
        path: that name, one of its files, or a folder: then it is the newest in it.

    Raises:
        InputError: there is none, or a folder has several and does not say which is the newest.
    """
    for prefix in (path, path.removesuffix(".index"), path.split(".data-", 1)[0]):
        if os.path.isfile(prefix + ".index"):
            return prefix
    if not os.path.isdir(path):
        raise InputError(
            f"{path} is no TF 1 checkpoint: expected a name such as model.ckpt-1000000, beside "
            "which there are .index and .data-00000-of-00001, or their folder"
        )
    import tensorflow as tf

    state = tf.train.get_checkpoint_state(path)
    if state is not None:  # it may have been moved, with its folder
        newest = os.path.join(path, os.path.basename(state.model_checkpoint_path))
        if os.path.isfile(newest + ".index"):
            return newest
    found = sorted(glob.glob(os.path.join(glob.escape(path), "*.index")))
    if len(found) != 1:
        names = ", ".join(os.path.basename(name).removesuffix(".index") for name in found)
        raise InputError(
            f"{path} holds no TF 1 checkpoint (model.ckpt-N.index)"
            if not found
            else f"{path} holds several checkpoints; name one of them: {names}"
        )
    return found[0].removesuffix(".index")


def read(path: str) -> tuple[str, dict[str, np.ndarray], int]:
    """Reads a checkpoint's weights.

    Returns:
        The checkpoint's name; its weights as float32, by variable; and how many tensors of the
        optimizer's it has beside them.

    Raises:
        InputError: see `find_prefix`; or a file is damaged, or holds what is no weight.
    """
    import tensorflow as tf

    prefix = find_prefix(path)
    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        names = sorted(name for name in types if name != STEP and not _is_slot(name, types))
        wrong = [f"{name} ({types[name].name})" for name in names if not types[name].is_floating]
        if wrong:
            raise InputError(f"{prefix} holds what is no ConvBERT weight: {', '.join(wrong[:20])}")
        arrays = {name: reader.get_tensor(name).astype("float32") for name in names}
    except (tf.errors.OpError, IndexError) as error:  # IndexError: a file is too short
        raise InputError(f"{prefix}: damaged, or a part of it is missing: {error}") from None
    return prefix, arrays, len(types) - len(names)


def _is_slot(name, names):
    return any(name.endswith(slot) and name.removesuffix(slot) in names for slot in SLOTS)


def write(prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `arrays`, and step 0, under their names; the files appear when they are complete.

    A folder that names no newest checkpoint names this one from then on.
    """
    import tensorflow as tf

    folder, name = os.path.split(os.path.abspath(prefix))
    os.makedirs(folder, exist_ok=True)
    names = [*sorted(arrays), STEP]
    tensors = [tf.constant(arrays[key]) for key in names[:-1]] + [tf.constant(0, tf.int64)]
    temporary = tempfile.mkdtemp(dir=folder, prefix=f".{name}.")
    try:
        tf.raw_ops.SaveV2(
            prefix=os.path.join(temporary, name),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )
        # The index last: without it, there is no checkpoint of this name.
        for file in sorted(os.listdir(temporary), key=lambda file: file.endswith(".index")):
            files.sync(os.path.join(temporary, file))
            os.replace(os.path.join(temporary, file), os.path.join(folder, file))
        files.sync(folder)
    finally:
        shutil.rmtree(temporary)
    state = os.path.join(folder, STATE_FILE)
    if not os.path.exists(state):
        files.write_text(state, f"model_checkpoint_path: {json.dumps(name)}\n")


def encoder_config(
    shapes: Shapes, hparams: Mapping[str, Any], source: str, larger: ConvBertConfig | None = None
) -> ConvBertConfig:
    """The configuration of an encoder.

    Args:
        shapes: of all variables of the checkpoint.
        hparams: fields of `ConvBertConfig`, for what shapes do not tell.
        source: the checkpoint, for errors.
        larger: the discriminator's configuration, if it is the generator's that is asked for.

    Raises:
        InputError: a variable that is needed is missing, or has a shape that no such network has;
            shapes do not tell the number of heads; or `hparams` say otherwise than shapes do.
    """
    scope = "electra" if larger is None else "generator"
    find = _Finder(shapes, source)
    tables = scope if f"{scope}/embeddings/word_embeddings" in shapes else "electra"
    vocab_size, embedding_size = find(f"{tables}/embeddings/word_embeddings", 2)
    layer = f"{scope}/encoder/layer_0"
    fields = {
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "max_position_embeddings": find(f"{tables}/embeddings/position_embeddings", 2)[0],
        "type_vocab_size": find(f"{tables}/embeddings/token_type_embeddings", 2)[0],
        "hidden_size": find(f"{layer}/attention/output/dense/kernel", 2)[1],
        "num_hidden_layers": _count_layers(shapes, scope),
    }
    if f"{layer}/intermediate/g_dense/kernel" in shapes:
        groups, _, width = find(f"{layer}/intermediate/g_dense/kernel", 3)
        fields |= {"linear_groups": groups, "intermediate_size": groups * width}
    else:
        width = find(f"{layer}/intermediate/dense/kernel", 2)[1]
        fields |= {"linear_groups": 1, "intermediate_size": width}
    fields |= _heads(find, f"{layer}/attention/self", fields["hidden_size"], larger)
    if larger is not None:  # `hparams` describe the discriminator
        hparams = {name: getattr(larger, name) for name in hparams} | fields
    for name in sorted(set(fields) & set(hparams)):
        if fields[name] != hparams[name]:
            raise InputError(
                f"--hparams says {name} {hparams[name]!r}, and the shapes of {source} "
                f"{fields[name]!r}"
            )
    if fields["conv_type"] == "noconv" and "num_attention_heads" not in {**fields, **hparams}:
        raise InputError(
            f"{source} has plain attention, whose shapes do not tell the number of heads: give "
            """it with --hparams '{"num_attention_heads": …}'"""
        )
    encoder_hparams = {name: value for name, value in hparams.items() if name not in HEAD_FIELDS}
    config = override(ConvBertConfig(), encoder_hparams | fields)
    _check_size(config, shapes, source)
    return config


def _check_size(config, shapes, source):
    """Refuses single shapes that are of a far larger network than the file holds.

    Variables that are merely missing, or too many, are better listed, once the network is made.
    """
    width = config.num_heads * config.head_size
    feed_forward = 2 * config.hidden_size * config.intermediate_size // config.linear_groups
    attention = width * (3 * config.hidden_size + config.num_heads * config.conv_kernel_size)
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    if config.conv_type == "noconv":
        attention = 3 * width * config.hidden_size
    expected = config.num_hidden_layers * (feed_forward + attention) + rows * config.embedding_size
    found = sum(math.prod(shape) for shape in shapes.values())
    if expected > 10 * found:
        raise InputError(
            f"{source}: its shapes contradict each other: some are of a network with more than "
            f"{expected:,} parameters, and it holds {found:,}"
        )


class _Finder:
    """Looks up shapes, and says which is missing."""

    def __init__(self, shapes, source):
        self.shapes, self.source = shapes, source

    def __contains__(self, name):
        return name in self.shapes

    def __call__(self, name, rank):
        shape = self.shapes.get(name)
        if shape is None or len(shape) != rank:
            found = "there is none" if shape is None else f"its shape is {shape}"
            raise InputError(
                f"{self.source} is no ConvBERT checkpoint of the original release: it needs a "
                f"variable {name} with {rank} axes, and {found}. "
                f"Its {len(self.shapes)} variables begin with {', '.join(list(self.shapes)[:3])}"
            )
        return shape


def _count_layers(shapes, scope):
    begin = f"{scope}/encoder/layer_"
    numbers = {name[len(begin) :].split("/")[0] for name in shapes if name.startswith(begin)}
    count = 0
    while str(count) in numbers:
        count += 1
    return count


def _heads(find, attention, hidden_size, larger):
    """The fields of attention; `num_attention_heads` is missing where shapes do not tell it."""
    if f"{attention}/conv_attn_key/depthwise_kernel" not in find:
        fields = {"conv_type": "noconv", "head_ratio": 1}
        if larger is not None:
            share = hidden_size / larger.hidden_size
            fields["num_attention_heads"] = max(1, round(larger.num_attention_heads * share))
        return fields
    kernel_size = find(f"{attention}/conv_attn_key/depthwise_kernel", 3)[0]
    width = find(f"{attention}/query/kernel", 2)[1]
    num_heads = find(f"{attention}/conv_attn_kernel/bias", 1)[0] // kernel_size
    head_size = width // max(1, num_heads)
    heads = original_heads(hidden_size, num_heads, head_size)
    if heads is None:
        raise InputError(
            f"{find.source}: {attention}/query/kernel is {width} wide: the original has no such "
            f"heads for {num_heads} convolution kernels and a hidden size of {hidden_size}"
        )
    total, ratio = heads
    if larger is not None and max(1, total // larger.head_ratio) == num_heads:
        ratio = larger.head_ratio
    return {
        "conv_type": "sdconv",
        "conv_kernel_size": kernel_size,
        "num_attention_heads": total,
        "head_ratio": ratio,
    }


def original_heads(hidden_size: int, num_heads: int, head_size: int) -> tuple[int, int] | None:
    """`num_attention_heads` and `head_ratio` of the original's network with these heads.

    Returns:
        None where it has none: its heads are `hidden_size / num_attention_heads` wide.
    """
    if not num_heads or not head_size or hidden_size % head_size:
        return None
    total = hidden_size // head_size
    ratio = max(1, total // num_heads)
    return (total, ratio) if max(1, total // ratio) == num_heads else None
