"""A saved model's weights in any file format, as arrays under PyTorch's tensor names.

Nothing in a file is executed, an index can only name files in its own directory, and no reader
allocates more than a few times the size of the file.
"""

import os

import numpy as np
import safetensors

from common import files, hub
from common.errors import InputError
from model.weights import tf_h5, torch_pickle

_MAX_INDEX_BYTES = 16 << 20


def read(directory: str | os.PathLike) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads the weights in a directory.

    Returns the arrays by name, and the paths of their files: one file, or an index and its shards.

    The first of these formats that exists is read: `model.safetensors`, `pytorch_model.bin` (each
    as a single file or as shards with an index), `tf_model.h5`. Arrays keep the file's dtype. A
    safetensors file may use the names of transformers 4's TF classes, if its metadata says so.

    Raises:
        InputError: no weights, or a file that is damaged, unsafe or in another format.
    """
    for form in hub.WEIGHT_FORMATS:
        read_file = _READERS[form[0]]
        path, *indices = (os.path.join(directory, name) for name in form[:2])
        if os.path.isfile(path):
            return read_file(path), (path,)
        if indices and os.path.isfile(indices[0]):
            return _read_shards(indices[0], read_file)
    raise InputError(
        f"no such file: {os.path.join(directory, hub.WEIGHT_FILES[0])}. A saved model is a "
        f"directory with config.json and one of {', '.join(hub.WEIGHT_FILES)}"
    )


def _read_shards(path, read_file):
    """Reads the shards that an index lists; each must hold exactly the tensors listed for it."""
    shard_of = files.read_json_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise InputError(f"{path}: `weight_map` must be an object of file names")
    names_in: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        names_in.setdefault(shard, set()).add(name)
    arrays, paths = {}, [path]
    for shard, listed in sorted(names_in.items()):
        if shard in ("", ".", "..") or os.path.basename(shard) != shard or "\0" in shard:
            raise InputError(f"{path}: {shard!r:.200} is not the name of a file in its directory")
        shard_path = os.path.join(os.path.dirname(path), shard)
        if not os.path.isfile(shard_path):
            raise InputError(f"no such file: {shard_path}, which {path} lists")
        found = read_file(shard_path)
        if missing := sorted(listed - found.keys()):
            raise InputError(
                f"{path} lists {missing[0]} for {shard}, but {shard_path} does not contain it"
            )
        if extra := sorted(found.keys() - listed):
            raise InputError(f"{shard_path} contains {extra[0]}, but {path} does not list it there")
        arrays |= found
        paths.append(shard_path)
    return arrays, tuple(paths)


def _read_safetensors(path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            origin = (file.metadata() or {}).get("format")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, or a tensor of an unknown type: {error}") from None
    return tf_h5.from_tf_names(arrays, path) if origin == "tf" else arrays


_READERS = {
    "model.safetensors": _read_safetensors,
    "pytorch_model.bin": torch_pickle.read,
    "tf_model.h5": tf_h5.read_h5,
}
