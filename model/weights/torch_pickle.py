"""PyTorch's `pytorch_model.bin`, read without PyTorch and without running what is in it.

Such a file is a pickle: a program that builds objects, which may call any function of Python. The
interpreter here knows the instructions that a dict of tensors takes and can call nothing: of the
names that a pickle may ask for, it knows those in `_BUILDERS` and `_STORAGE_TYPES`.
"""

import dataclasses
import io
import math
import mmap
import os
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from common.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object in files of PyTorch before 1.6
_MAX_AXES = 8

_STORAGE_TYPES = {
    ("torch", f"{name}Storage"): np.dtype(dtype)
    for name, dtype in {
        "Float": "<f4",
        "Double": "<f8",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A flat array that tensors are views of; `key` finds its bytes in the file."""

    dtype: np.dtype
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in elements; nothing of it has been checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Refused(Exception):
    """A file is not a dict of tensors, or not what it says; the message says why."""


# What damaged archives and nonsensical pickles end in: an empty stack, cut numbers, no arguments.
_NONSENSE = (
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    MemoryError,
    OverflowError,
    NotImplementedError,
)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save` wrote of a model's state dict.

    Both formats are read: zip, and the older one of PyTorch before 1.6. Views of a storage, shared,
    transposed or cut, come out as they are in PyTorch.

    Raises:
        InputError: damaged, another kind of object, big-endian, or a pickle that asks for more than
            tensors; such a name is in the message. Nothing in the file has been run.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        return _read_zip(path) if is_zip else _read_legacy(path)
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    except _NONSENSE as error:
        raise InputError(
            f"{path}: damaged, or not a file of PyTorch: {type(error).__name__}: {error}"
        ) from None


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        found = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise _Refused("a zip archive without a PyTorch model in it")
        folder = found[0].removesuffix("data.pkl")
        room = os.path.getsize(path)

        def read_entry(name):
            nonlocal room
            entry = entries.get(name)
            if entry is None:
                raise _Refused(f"no {name} in the archive, which a tensor is made of")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise _Refused(f"{name} is compressed or encrypted, as PyTorch never writes it")
            # A zip bomb: entries that lie in each other have more bytes than the file.
            room -= entry.file_size
            if room < 0:
                raise _Refused("the archive's entries say that they are larger than the file")
            return archive.read(entry)

        # Written since PyTorch 2.1.
        if f"{folder}byteorder" in entries and read_entry(f"{folder}byteorder") != b"little":
            raise _Refused("written on a big-endian machine, which is not supported")
        state = _unpickle(io.BytesIO(read_entry(found[0])))
        storages = {}
        for storage in _storages(state):
            storages[storage] = _as_storage(storage, read_entry(f"{folder}data/{storage.key}"))
        return {name: _as_array(name, tensor, storages) for name, tensor in state.items()}


def _read_legacy(path):
    # mmap: reading never returns, or allocates, more than the file has.
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _read_sequence(content)


def _read_sequence(content):
    """The tensors of the older format: four pickles, the storages' keys, and their bytes."""
    if _interpret(content) != _LEGACY_MAGIC:
        raise _Refused("neither of the formats that PyTorch writes")
    _interpret(content)  # the protocol's number
    system = _interpret(content)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("written on a big-endian machine, which is not supported")
    state = _unpickle(content)
    wanted = {storage.key: storage for storage in _storages(state)}
    storages, keys = {}, _interpret(content)
    if not isinstance(keys, list):
        raise _Refused("no list of storages after the tensors")
    for key in keys:
        storage = wanted.get(key) if isinstance(key, str) else None
        size = int.from_bytes(content.read(8), "little")
        if storage is None or size != storage.size:
            raise _Refused(f"storage {key!r:.40} is not one that the tensors are made of")
        data = content.read(size * storage.dtype.itemsize)
        storages[storage] = _as_storage(storage, data)
    return {name: _as_array(name, tensor, storages) for name, tensor in state.items()}


def _unpickle(file) -> dict[str, _Tensor]:
    """The dict of tensors, none of them looked into yet."""
    state = _interpret(file)
    if not isinstance(state, dict):
        raise _Refused(f"holds no dict of tensors but a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _Refused(
                f"holds no dict of tensors: {name!r:.80} is a {type(value).__name__}. Save "
                "model.state_dict() alone"
            )
    return state


def _storages(state) -> list[_Storage]:
    """The storages that the tensors are made of."""
    found = {}
    for name, tensor in state.items():
        storage = tensor.storage
        if not isinstance(storage, _Storage):
            raise _Refused(f"{name} is not made of a storage")
        if found.setdefault(storage.key, storage) != storage:
            raise _Refused(f"storage {storage.key!r:.40} has two types or sizes")
    return list(found.values())


def _as_storage(storage, data: bytes) -> np.ndarray:
    expected = storage.size * storage.dtype.itemsize
    if len(data) < expected:
        raise _Refused(
            f"a tensor asks for a storage of {expected:,} bytes, and the file has {len(data):,}"
        )
    return np.frombuffer(data, storage.dtype, storage.size)


def _as_array(name, tensor, storages) -> np.ndarray:
    """A tensor as a view of its storage, after making sure that it lies inside."""
    flat = storages[tensor.storage]
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if (
        not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
        or len(shape) != len(strides)
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
    ):
        raise _Refused(f"{name} has no proper shape and strides")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if not 0 < count <= flat.size or last >= flat.size:
        raise _Refused(
            f"{name} {shape}, strides {strides}, offset {offset}, reaches beyond its "
            f"storage of {flat.size:,} elements"
        )
    steps = [stride * flat.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)


# --- The interpreter --------------------------------------------------------------------------


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """`requires_grad`, hooks and metadata, which follow, do not concern the values."""
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, *_):
    return tensor


def _ordered_dict(pairs=()):
    result = {}
    for key, value in pairs:
        _set_items(result, [key, value])
    return result


_BUILDERS: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
_KNOWN = _BUILDERS | _STORAGE_TYPES


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that a pickle asked for; never the thing itself."""

    name: tuple[str, str]


class _Mark:
    """Stands on the stack where the items of a tuple, list or dict begin."""


_MARK = _Mark()
_CONSTANTS: dict[str, Callable] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(file) -> Any:
    """The object of the pickle that begins where `file` stands; ends behind it."""
    stack: list = []
    memo: dict = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](stack, argument)
        else:
            raise _Refused(
                f"the pickle has the instruction {name} {argument!r:.80}, which no dict of tensors "
                "takes. Nothing of it has been run"
            )
    raise EOFError("the pickle has no end")


def _pop_to_mark(stack):
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _set_items(target, items):
    # Only strings: the hash of tuples of tuples of … can take years.
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in items[::2]):
        raise _Refused("the pickle has a dict, or something like one, whose keys are no strings")
    target.update(zip(items[::2], items[1::2], strict=True))


def _set_item(stack, _):
    value, key = stack.pop(), stack.pop()
    _set_items(stack[-1], [key, value])


def _set_marked_items(stack, _):
    items = _pop_to_mark(stack)
    _set_items(stack[-1], items)


def _append(stack, items):
    if not isinstance(stack[-1], list):
        raise _Refused(f"the pickle appends to a {type(stack[-1]).__name__}")
    stack[-1].extend(items)


def _push_global(stack, module, name):
    if (module, name) not in _KNOWN:
        raise _Refused(
            f"the pickle asks for {module}.{name}, which no dict of tensors needs. Nothing of it "
            "has been run. If you trust the file's origin, save its tensors with PyTorch as "
            "model.safetensors"
        )
    stack.append(_Global((module, name)))


def _stack_global(stack, _):
    name, module = stack.pop(), stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused("the pickle asks for something by what is no name")
    _push_global(stack, module, name)


def _call(stack, _):
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(function, _Global) or function.name not in _BUILDERS:
        raise _Refused("the pickle calls what is no function")
    if not isinstance(arguments, tuple):
        raise _Refused("the pickle calls a function without arguments")
    stack.append(_BUILDERS[function.name](*arguments))


def _push_storage(stack, _):
    """("storage", type, key, device, size[, view]), which PyTorch keeps outside of the pickle."""
    kind, storage_type, key, _, size, *view = stack.pop()
    dtype = None
    if isinstance(storage_type, _Global):
        dtype = _STORAGE_TYPES.get(storage_type.name)
    if (
        kind != "storage"
        or dtype is None
        or not isinstance(key, str)
        or type(size) is not int
        or size < 0
    ):
        raise _Refused("the pickle refers to what is no storage")
    if view not in ([], [None]):
        raise _Refused("storages that are parts of others (PyTorch before 0.4) are not supported")
    stack.append(_Storage(dtype, key, size))


_ACTIONS: dict[str, Callable] = {
    "TUPLE": lambda stack, _: stack.append(tuple(_pop_to_mark(stack))),
    "LIST": lambda stack, _: stack.append(_pop_to_mark(stack)),
    "APPEND": lambda stack, _: _append(stack, [stack.pop()]),
    "APPENDS": lambda stack, _: _append(stack, _pop_to_mark(stack)),
    "SETITEM": _set_item,
    "SETITEMS": _set_marked_items,
    "GLOBAL": lambda stack, argument: _push_global(stack, *argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "BINPERSID": _push_storage,
    "BUILD": lambda stack, _: stack.pop(),  # attributes of a state dict: versions of its modules
}
