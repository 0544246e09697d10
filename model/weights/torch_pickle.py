"""PyTorch's `pytorch_model.bin`, read without PyTorch and without executing anything in it.

The file holds a pickle: a program for a stack machine that can normally call any Python function.
The unpickler here knows only the instructions and the names that a dict of tensors needs. Sizes,
strides and offsets are checked before they are used.
"""

import io
import math
import mmap
import os
import pickle
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from common.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object in files of PyTorch before 1.6
_MAX_AXES = 8
# A pickle does not include the tensors' values: for a thousand tensors, it has 0.3 MB. Each of its
# bytes can create an object of a hundred bytes.
_MAX_PICKLE_BYTES = 2 << 20
_LARGEST = 2**63  # sizes, strides and offsets must be below it


class _Storage(NamedTuple):
    """A flat array that tensors are views of; `key` finds its bytes in the file."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage, counted in elements; all but the storage is unchecked."""

    storage: _Storage
    offset: Any
    shape: Any
    strides: Any


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict that `torch.save` wrote.

    Both formats are read: zip, and the older format of PyTorch before 1.6. Tensors that share, cut
    or transpose a storage have the values that they have in PyTorch.

    Raises:
        InputError: the file is damaged, big-endian or holds another kind of object, or its pickle
            needs more than tensors; the message says what. Nothing in the file has been executed.
    """
    with open(path, "rb") as file:
        try:
            is_zip = file.read(4) == b"PK\x03\x04"
            state, storages = _read_zip(path) if is_zip else _read_legacy(file)
            return {name: _as_array(name, tensor, storages) for name, tensor in state.items()}
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception as error:  # a nonsensical pickle or archive can raise anything
            raise InputError(
                f"{path}: damaged, or not a PyTorch file: {type(error).__name__}: {error}"
            ) from None


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("a zip archive without a PyTorch model in it")
        folder = pickles[0].removesuffix("data.pkl")
        remaining = os.path.getsize(path)

        def read_entry(name):
            nonlocal remaining
            entry = entries.get(name)
            if entry is None:
                raise InputError(f"the archive does not contain {name}, which a tensor needs")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise InputError(f"{name} is compressed or encrypted; PyTorch never does that")
            # Overlapping entries, as in a zip bomb, have more bytes in total than the file.
            remaining -= entry.file_size
            if remaining < 0:
                raise InputError("the entries of the archive are larger than the file")
            return archive.read(entry)

        # Written since PyTorch 2.1.
        if f"{folder}byteorder" in entries and read_entry(f"{folder}byteorder") != b"little":
            raise InputError("written on a big-endian machine, which is not supported")
        state = _read_state(io.BytesIO(read_entry(pickles[0])))
        storages = dict.fromkeys(tensor.storage for tensor in state.values())
        for storage in storages:
            data = read_entry(f"{folder}data/{storage.key}")
            storages[storage] = np.frombuffer(data, storage.dtype, storage.size)
        return state, storages


def _read_legacy(file):
    """The older format: four pickles, the keys of the storages, and their sizes and bytes."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _Unpickler(content).load() != _LEGACY_MAGIC:
            raise InputError("neither of the formats that PyTorch writes")
        _Unpickler(content).load()  # the protocol's number
        system = _Unpickler(content).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise InputError("written on a big-endian machine, which is not supported")
        state = _read_state(content)
        by_key, storages = {t.storage.key: t.storage for t in state.values()}, {}
        for key in _Unpickler(content).load():
            storage = by_key.get(key) if isinstance(key, str) else None
            size = int.from_bytes(content.read(8), "little")
            if storage is None or size != storage.size:
                shown = repr(key)[:40] if isinstance(key, str) else type(key).__name__
                raise InputError(f"storage {shown} does not belong to the tensors")
            data = content.read(size * storage.dtype.itemsize)
            storages[storage] = np.frombuffer(data, storage.dtype, size)
        return state, storages


def _read_state(file) -> dict[str, _Tensor]:
    state = _Unpickler(file).load()
    if not isinstance(state, dict):
        raise InputError(f"holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(value, _Tensor):
            raise InputError(
                f"holds more than tensors: {name!r:.80} is a {type(value).__name__}. Save only "
                "model.state_dict()"
            )
    return state


def _as_array(name, tensor, storages) -> np.ndarray:
    """A tensor as a view of its storage, after a check that the view lies inside the storage."""
    storage, offset, shape, strides = tensor
    if (
        not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
        or len(shape) != len(strides)
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and 0 <= n < _LARGEST for n in (offset, *shape, *strides))
    ):
        raise InputError(f"{name} has an invalid shape, strides or offset")
    flat = storages[storage]
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if not 0 < math.prod(shape) <= flat.size or last >= flat.size:
        raise InputError(
            f"{name} {shape}, strides {strides}, offset {offset}, reaches beyond its storage of "
            f"{flat.size:,} elements"
        )
    steps = [stride * flat.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)


class _StringDict(dict):
    """A dict that takes only strings as keys: the hash of nested tuples can take years."""

    def __init__(self):  # takes no items, because a pickle could copy them a million times
        super().__init__()

    def __setitem__(self, key, value):
        if not isinstance(key, str):
            raise InputError("the pickle has a dict with keys that are not strings")
        super().__setitem__(key, value)


# Takes no `*args`: a pickle could pass a million of them, a million times.
def _rebuild_tensor(storage, offset, shape, strides, grad=None, hooks=None, metadata=None):
    if not isinstance(storage, _Storage):
        raise InputError("the pickle has a tensor without a storage")
    return _Tensor(storage, offset, shape, strides)


_NAMES = {
    "collections.OrderedDict": _StringDict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, grad=None, hooks=None: tensor,
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
# These neither import nor call anything, except for GLOBAL, STACK_GLOBAL, BINPERSID and REDUCE.
_INSTRUCTIONS = (
    b"\x80\x95.(N\x88\x89"  # PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE
    b"IJKML\x8a\x8bFG"  # INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    b"VX\x8c\x8dSTU"  # UNICODE and STRING with their BIN and SHORT forms
    b")t\x85\x86\x87"  # EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    b"]laesu"  # EMPTY_LIST LIST APPEND APPENDS SETITEM SETITEMS
    b"pqr\x94ghj"  # PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    b"c\x93QR"  # GLOBAL STACK_GLOBAL BINPERSID REDUCE
)


class _Unpickler(pickle._Unpickler):
    """The pure-Python unpickler, cut down to the instructions and names above.

    Unlike the unpickler in C, it looks up instructions in a table. Its memo is a dict, so a pickle
    that names a huge index does not make it grow. `REDUCE` can call only the functions in `_NAMES`,
    because nothing else on the stack is callable.
    """

    def __init__(self, file):
        super().__init__(file)
        remaining = _MAX_PICKLE_BYTES

        def limited(read):
            def read_limited(*size):
                nonlocal remaining
                found = read(*size)
                remaining -= len(found)
                if remaining < 0:
                    raise InputError(f"its pickle has more than {_MAX_PICKLE_BYTES >> 20} MB")
                return found

            return read_limited

        self._file_read, self._file_readline = limited(file.read), limited(file.readline)

    def find_class(self, module, name):
        if f"{module}.{name}" not in _NAMES:
            raise InputError(
                f"the pickle needs {module}.{name}, but a dict of tensors does not. Nothing in it "
                "has been executed. If you trust its origin, convert it to model.safetensors with "
                "PyTorch"
            )
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, pid):
        """("storage", type, key, device, size[, view]): PyTorch keeps the bytes elsewhere."""
        kind, dtype, key, _, size, *view = pid
        is_storage = kind == "storage" and isinstance(dtype, np.dtype) and isinstance(key, str)
        is_size = type(size) is int and 0 <= size < _LARGEST
        if not is_storage or not is_size or view not in ([], [None]):
            raise InputError("the pickle has a malformed storage reference")
        return _Storage(dtype, key, size)

    def _refuse(self):
        raise InputError(
            "the pickle has an instruction that a dict of tensors does not need. Nothing in it has "
            "been executed"
        )

    def _load_empty_dict(self):
        self.append(_StringDict())

    def _load_build(self):
        del self.stack[-1]  # attributes of a state dict: the versions of its modules

    dispatch = dict.fromkeys(range(256), _refuse)
    for _code in _INSTRUCTIONS:
        dispatch[_code] = pickle._Unpickler.dispatch[_code]
    dispatch |= {pickle.EMPTY_DICT[0]: _load_empty_dict, pickle.BUILD[0]: _load_build}
