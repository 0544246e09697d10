"""A saved model's weights, whatever file format they are in, as arrays by PyTorch's names.

Nothing in a file is executed, no file outside of the directory is opened because another one says
so, and nothing is allocated on a file's word beyond a few times its own size.
"""

import os
from typing import NamedTuple

import numpy as np
import safetensors

from common import files, hub
from common.errors import InputError
from model.weights import tf_h5, torch_pickle

_MAX_INDEX_BYTES = 16 << 20


class Weights(NamedTuple):
    """The tensors by name, and the files they are from: one, or an index and its parts."""

    arrays: dict[str, np.ndarray]
    paths: tuple[str, ...]


def read(directory: str | os.PathLike) -> Weights:
    """Reads the weights in a directory.

    If there are several files, the first of these is read: `model.safetensors`, one in parts
    (`model.safetensors.index.json`), `pytorch_model.bin`, one in parts, `tf_model.h5`. Arrays have
    the file's precision. A safetensors file may have the names of transformers 4's TF classes, if
    its metadata say so.

    Raises:
        InputError: there is none, or it is damaged, unsafe, or of another format.
    """
    for form in hub.WEIGHT_FORMATS:
        read_one = _READERS[form.single]
        path = os.path.join(directory, form.single)
        if os.path.isfile(path):
            return Weights(read_one(path), (path,))
        if form.index and os.path.isfile(path := os.path.join(directory, form.index)):
            return _read_shards(path, read_one)
    raise InputError(
        f"no such file: {os.path.join(directory, hub.WEIGHT_FILES[0])}. A saved model is a "
        f"directory with config.json and one of {', '.join(hub.WEIGHT_FILES)}"
    )


def _read_shards(path, read_one) -> Weights:
    """Reads the files that an index names, each of which must have just the tensors it says."""
    where = files.read_json_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{path}: `weight_map` must be an object of file names")
    arrays, paths = {}, [path]
    for shard in sorted(set(where.values())):
        if shard in ("", ".", "..") or os.path.basename(shard) != shard or "\0" in shard:
            raise InputError(f"{path}: {shard!r:.200} is not the name of a file beside it")
        shard_path = os.path.join(os.path.dirname(path), shard)
        if not os.path.isfile(shard_path):
            raise InputError(f"no such file: {shard_path}, which {path} names")
        found = read_one(shard_path)
        expected = {name for name, file in where.items() if file == shard}
        for name in sorted(expected ^ found.keys()):
            fault = "lacks" if name in expected else "has"
            raise InputError(f"{shard_path} {fault} the tensor {name}, which {path} says otherwise")
        arrays |= found
        paths.append(shard_path)
    return Weights(arrays, tuple(paths))


def _read_safetensors(path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            origin = (file.metadata() or {}).get("format")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, or of an unknown type: {error}") from None
    return tf_h5.from_tf_names(arrays, path) if origin == "tf" else arrays


_READERS = {
    "model.safetensors": _read_safetensors,
    "pytorch_model.bin": torch_pickle.read,
    "tf_model.h5": tf_h5.read_h5,
}
