"""Makes `pytorch_model.bin` files, good ones and ones that PyTorch would never write.

A pickle is assembled instruction by instruction, so that tests can put anything into one.
"""

import io
import struct
import zipfile

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def program(*parts):
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(parts) + b"."


def text(string):
    encoded = string.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def group(*parts):
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(function, *arguments):
    return function + group(*arguments) + b"R"


def dictionary(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def tensor(key, size, shape, strides=None, offset=0, storage="FloatStorage", legacy=False):
    """A view of a storage of `size` elements."""
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    parts = [text("storage"), name("torch", storage), text(key), text("cpu"), number(size)]
    sizes = [group(*map(number, shape)), group(*map(number, strides))]
    hooks = call(name("collections", "OrderedDict"))
    reference = group(*parts, *([b"N"] if legacy else [])) + b"Q"
    arguments = (reference, number(offset), *sizes, b"\x89", hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def write_zip(path, pickled, storages, byteorder="little", compression=zipfile.ZIP_STORED):
    """The format of PyTorch since 1.6; `storages` are bytes by key."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")


def write_legacy(path, pickled, storages, little_endian=True, itemsize=4):
    """The older format; `storages` are bytes by key."""
    file = io.BytesIO()
    file.write(program(number(LEGACY_MAGIC)) + program(number(1001)))
    file.write(program(dictionary(little_endian=b"\x88" if little_endian else b"\x89")))
    file.write(pickled + program(b"](" + b"".join(text(key) for key in storages) + b"e"))
    for content in storages.values():
        file.write(struct.pack("<q", len(content) // itemsize) + content)
    path.write_bytes(file.getvalue())


def save(path, arrays):
    """Writes a good file, as `torch.save(model.state_dict(), path)` does."""
    items, storages = {}, {}
    for i, (key, array) in enumerate(arrays.items()):
        storages[str(i)] = array.tobytes()
        items[key] = tensor(str(i), array.size, array.shape, storage=STORAGES[array.dtype.name])
    write_zip(path, program(dictionary(**items)), storages)
