"""Weights that transformers 4's TFConvBert classes wrote: `tf_model.h5`, or files with TF's names.

Their variables are PyTorch's tensors under other names. Tables and vectors have the same layout;
the other variables have their axes in another order.
"""

import os
import re

import h5py
import numpy as np

from common.errors import InputError

# The outermost layers of the classes. In a variable's name, the parts before the last of these
# layers are the name of the class.
_ROOTS = {
    "convbert",
    "generator_predictions",
    "generator_lm_head",
    "classifier",
    "qa_outputs",
    "sequence_summary",
}
_MAX_DEPTH = 32  # of groups; visiting them is recursive
# A variable's name → the tensor's, and the tensor's axes in the variable's order.
_LEAVES = {
    "kernel": ("weight", (1, 0)),
    "grouped kernel": ("weight", (2, 1, 0)),
    "depthwise_kernel": ("depthwise.weight", (1, 2, 0)),
    "pointwise_kernel": ("pointwise.weight", (2, 1, 0)),
    "gamma": ("weight", None),
    "beta": ("bias", None),
    "embeddings": ("weight", None),
    "weight": ("weight", None),
    "bias": ("bias", None),
}


def read_h5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a `tf_model.h5`, under PyTorch's names and in its layout.

    Raises:
        InputError: the file is damaged, or its arrays are compressed, stored in other files, or
            larger in total than the file.
    """
    arrays, remaining = {}, os.path.getsize(path)

    def visit(name, item):  # HDF5 does not visit links, so no other file is opened
        nonlocal remaining
        if name.count("/") > _MAX_DEPTH:
            raise InputError(f"{path}: its groups are nested deeper than {_MAX_DEPTH}")
        if isinstance(item, h5py.Dataset):
            remaining -= item.nbytes
            if remaining < 0 or not _is_plain(item):
                raise InputError(
                    f"{path}: {name} {item.shape} is compressed, incomplete or stored elsewhere; "
                    "transformers never does that"
                )
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # h5py's errors
        raise InputError(f"{path}: damaged, or not an HDF5 file: {error}") from None
    return from_tf_names(arrays, path)


def _is_plain(dataset) -> bool:
    """Whether an array is stored completely in the file itself, as plain numbers."""
    layout = dataset.id.get_create_plist()
    return (
        dataset.dtype.kind in "fiu"
        and layout.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        and layout.get_external_count() == 0
        and dataset.id.get_storage_size() == dataset.nbytes
    )


def from_tf_names(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Converts TensorFlow's variables to tensors under PyTorch's names and in its layout.

    Their names are like "convbert/encoder/layer_._0/attention/self/query/kernel:0", with or without
    the name of the model in front. Raises an `InputError` for a variable with an unknown name or
    the wrong number of axes; the message names the variable and the file, `path`.
    """
    return dict(_tensor(name, array, path) for name, array in arrays.items())


def _tensor(name, array, path):
    parts = name.split(":")[0].split("/")
    begin = max((i for i, part in enumerate(parts) if part in _ROOTS), default=None)
    *layers, leaf = parts[begin:] if begin is not None else parts
    kind = "grouped kernel" if leaf == "kernel" and array.ndim == 3 else leaf
    if begin is None or not layers or kind not in _LEAVES:
        raise InputError(f"{path}: {name} {array.shape} is not a variable of a TFConvBert class")
    tensor_leaf, axes = _LEAVES[kind]
    if axes is not None:
        if array.ndim != len(axes):
            raise InputError(f"{path}: {name} {array.shape} must have {len(axes)} axes")
        array = array.transpose(axes)
    if leaf == "bias" and layers[-1] == "key_conv_attn_layer":
        array = array[..., None]  # PyTorch stores a column
    layers = [re.sub(r"^layer_\._(\d+)$", r"layer.\1", layer) for layer in layers]
    return ".".join([*layers, tensor_leaf]), array
