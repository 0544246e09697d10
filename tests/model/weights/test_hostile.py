"""Small files that would take hours or gigabytes, if their readers believed them."""

import itertools
import json
import struct
import subprocess
import sys
import zipfile

import h5py

from tests.support import torch_writer
from tests.support.processes import ROOT
from tests.support.torch_writer import dictionary, group, name, number, program, tensor, text

# Reads each file within the limits of one process, and prints what was wrong with each.
PROGRAM = """
import resource, sys
from common.errors import InputError
from model.weights import files, tf_h5, torch_pickle
def limit(kind, used, more):
    resource.setrlimit(kind, (used + more,) * 2)
pages = int(open("/proc/self/statm").read().split()[0])
limit(resource.RLIMIT_AS, pages * resource.getpagesize(), 600 << 20)
limit(resource.RLIMIT_CPU, int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])), 40)
readers = {".bin": torch_pickle.read, ".h5": tf_h5.read_h5, ".dir": files.read}
for path in sys.argv[1:]:
    try:
        found = readers["." + path.rsplit(".")[-1]](path)
        print(path, "read", len(found))
    except InputError as error:
        print(path, str(error)[:500].encode())
print("done")
"""
ONES = struct.pack("<4f", 1, 1, 1, 1)
MANY = 1 << 20


def doubled(levels):
    """A tuple of two equal tuples, and so on: its `repr`, and its hash, take 2^levels steps."""
    return b")" + b"q\x00h\x00\x86" * levels


def huge(num_bytes):
    """An integer."""
    return b"\x8b" + struct.pack("<I", num_bytes) + b"\x01" * num_bytes


def reduced_again(times):
    """`OrderedDict(pairs)`, again and again, of the same list."""
    pairs = b"](" + b"".join(group(text(f"a{i}"), b"N") for i in range(2000)) + b"eq\x01"
    make = name("collections", "OrderedDict") + b"q\x02"
    return pairs + make + b"h\x02h\x01\x85R" * times


def many_tensors(count):
    """Tensors whose storage has a long name and a huge size, which are all hashed."""
    storage = group(
        text("storage"), name("torch", "FloatStorage"), text("k" * 60000), text("cpu"), huge(60000)
    )
    reference = storage + b"Qq\x03" + name("torch._utils", "_rebuild_tensor") + b"q\x04"
    one = b"h\x04(h\x03K\x00)K\x00\x85tR"
    return reference + b"}(" + b"".join(text(f"t{i}") + one for i in range(count)) + b"u"


PICKLES = {
    "tuples": dictionary(a=doubled(60)),
    "keys": b"}" + doubled(60) + b"Ns",
    "reference": dictionary(a=doubled(60) + b"Q"),
    "kind": dictionary(a=group(doubled(60), doubled(60), text("0"), text("cpu"), number(4)) + b"Q"),
    "function": doubled(60) + b")R",
    "again": reduced_again(5000),
    "large": dictionary(a=tensor("0", 4, (4,)).replace(number(0), huge(300_000), 1)),
    "product": b"".join([b"}(", text("a"), *[huge(100_000)] * 8, b"(", b"tu"]),
    "digits": b"L" + b"1" * 1_500_000 + b"L\n",
    "hashes": many_tensors(20_000),
    "dicts": b"}" * MANY,
    "lists": b"]" * MANY,
    "memo": b"N" + b"\x94" * MANY,
    "too many": b"]" * (200 * MANY),
    "text": b"X" + struct.pack("<I", 2**32 - 1) + b"a",
    "texts": text("a" * 1000) + b"q\x00](" + b"h\x00" * (MANY // 2) + b"e",
    "frame": b"\x95" + struct.pack("<Q", 2**62),
    "index": b"Nr\xff\xff\xff\xff",
}


def write_h5(path):
    with h5py.File(path, "w") as file:
        group_of = file
        for _ in range(3000):
            group_of = group_of.create_group("a")


def write_index(directory, text):
    directory.mkdir()
    (directory / "model.safetensors.index.json").write_text(text)


def test_no_reader_takes_much_more_than_the_file_has(tmp_path):
    paths = []
    writers = itertools.cycle((torch_writer.write_zip, torch_writer.write_legacy))
    for (kind, pickled), write in zip(PICKLES.items(), writers, strict=False):
        paths.append(tmp_path / f"{kind}.bin")
        write(paths[-1], program(pickled), {"0": ONES})
    paths.append(tmp_path / "legacy-key.bin")
    torch_writer.write_legacy(paths[-1], program(dictionary(a=tensor("0", 4, (4,)))), {})
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content.replace(program(b"](e"), program(b"](" + doubled(60) + b"e")))
    paths.append(tmp_path / "bomb.bin")
    with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * (64 * MANY))
    paths.append(tmp_path / "deep.h5")
    write_h5(paths[-1])
    shards = {f"t{i}": f"model-{i}-of-9.safetensors" for i in range(100_000)}
    for kind, written in (
        ("shards", json.dumps({"weight_map": shards})),
        ("nested", '{"weight_map": ' + "[" * 10**6),
        ("number", '{"weight_map": ' + "9" * 10**6 + "}"),
    ):
        paths.append(tmp_path / f"{kind}.dir")
        write_index(paths[-1], written)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,  # of a busy machine: the limits are on the process's own time
    )
    *lines, last = done.stdout.splitlines() or [""]
    assert last == "done", (lines[-1:], done.stderr[-2000:])
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith((f"{path} b", f"{path} read 0")), line  # an error, or no tensor
        assert "MemoryError" not in line
