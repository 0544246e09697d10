import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from model.weights import torch_pickle
from tests.support import torch_writer
from tests.support.torch_writer import call, dictionary, group, name, number, program, tensor, text

TORCH = Path(__file__).parents[2] / "goldens" / "torch"
ONES = np.ones(4, "float32").tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


def is_refused(path, message=""):
    with pytest.raises(InputError, match=rf"pytorch_model\.bin: .*{message}"):
        torch_pickle.read(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_views_and_types_that_pytorch_saved(form):
    found = torch_pickle.read(TORCH / f"{form}.bin")
    with np.load(TORCH / "expected.npz") as expected:
        assert sorted(found) == sorted(expected.files)
        for key, array in found.items():
            np.testing.assert_array_equal(array, expected[key], strict=key != "bfloat16")
    assert found["bfloat16"].dtype.name == "bfloat16"
    assert np.shares_memory(found["base"], found["transposed"])


class Harmful:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


def harmful_pickles(marker):
    for protocol in range(6):
        yield pickle.dumps({"weight": Harmful(marker)}, protocol)
    run = text(f"touch {marker}")
    yield program(dictionary(weight=call(name("os", "system"), run)))
    yield program(dictionary(weight=call(name("posix", "system"), run)))
    yield program(dictionary(weight=b"(" + run + b"ios\nsystem\n"))  # INST
    yield program(dictionary(weight=b"(" + name("os", "system") + run + b"o"))  # OBJ
    yield program(name("builtins", "eval") + group(text("1")) + b"R")
    yield program(name("torch._utils", "os.system") + group(run) + b"R")
    yield program(name("collections", "OrderedDict.fromkeys") + group(run) + b"R")
    yield program(name("torch.hub", "load") + group(run) + b"R")


def test_nothing_in_a_pickle_is_executed(tmp_path, path):
    marker = tmp_path / "marker"
    for pickled in harmful_pickles(marker):
        for write in (torch_writer.write_zip, torch_writer.write_legacy):
            write(path, pickled, {"0": ONES})
            is_refused(path, "been executed")
        path.write_bytes(pickled)
        is_refused(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps({"weight": Harmful(marker)}))
    with open(path, "rb") as file:  # the marker is where the pickle would have put it
        pickle.load(file)
    assert marker.exists()


ORDERED_DICT = name("collections", "OrderedDict")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (call(name("numpy", "load"), text("x")), r"needs numpy\.load"),
        (tensor("0", 10**12, (4,)), "damaged, .* buffer is smaller"),
        (tensor("0", 4, (5,)), r"weight \(5,\).* reaches beyond its storage of 4 elements"),
        (tensor("0", 4, (10**9,), (0,)), "reaches beyond"),
        (tensor("0", 4, (2, 2), (3, 1)), "reaches beyond"),
        (tensor("0", 4, (2,), (1,), offset=3), "reaches beyond"),
        (tensor("0", 4, (2,), (-1,), offset=3), "weight has an invalid shape"),
        (tensor("0", 4, (2,), (1,), offset=-1), "weight has an invalid shape"),
        (tensor("0", 4, (2, 2), (1,)), "weight has an invalid shape"),
        (tensor("0", -1, (2,)), "malformed storage reference"),
        (tensor("../../0", 4, (4,)), "does not contain archive/data/../../0"),
        (tensor("0", 4, (4,), storage="QInt8Storage"), r"needs torch\.QInt8Storage"),
        (call(name("torch._utils", "_rebuild_tensor"), *[text("x")] * 4), "without a storage"),
        (number(3), "more than tensors: 'weight' is a int"),
        (dictionary(inner=number(3)), "'weight' is a _StringDict"),
        (text("x") * 2, "damaged"),
        (call(text("x"), number(1)), "damaged"),
        (call(ORDERED_DICT, group(text("ab"))), "damaged"),
        (ORDERED_DICT + b"(" + b"N" * 100 + b"tR", "damaged"),
        (b"}" + group(text("a"), text("b")) + b"Ns", "keys that are not strings"),
        (b"h\x07", "damaged"),
    ],
)
def test_an_impossible_tensor_is_refused(path, value, message):
    torch_writer.write_zip(path, program(dictionary(weight=value)), {"0": ONES})
    is_refused(path, message)


def test_a_storage_larger_than_a_legacy_file_is_refused(path):
    pickled = program(dictionary(weight=tensor("0", 8, (8,), legacy=True)))
    torch_writer.write_legacy(path, pickled, {"0": ONES + ONES})
    assert torch_pickle.read(path)["weight"].tolist() == [1] * 8
    content = path.read_bytes()
    torch_writer.write_legacy(path, pickled, {"0": ONES})
    is_refused(path, "storage '0' does not belong to the tensors")
    path.write_bytes(content[:-16])
    is_refused(path, "damaged, .* buffer is smaller")


def test_other_byte_orders_are_refused(path):
    pickled = program(dictionary(weight=tensor("0", 4, (4,))))
    torch_writer.write_zip(path, pickled, {"0": ONES}, byteorder="big")
    is_refused(path, "big-endian")
    torch_writer.write_legacy(path, pickled, {"0": ONES}, little_endian=False)
    is_refused(path, "big-endian")


def test_zip_bombs_are_refused(path):
    pickled = program(dictionary(weight=tensor("0", 10**6, (10**6,))))
    torch_writer.write_zip(path, pickled, {"0": bytes(4 * 10**6)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    is_refused(path, r"archive/byteorder is compressed or encrypted")
    # Two names for the same bytes of the archive, which is then smaller than what it holds.
    both = dictionary(a=tensor("0", 10**4, (10**4,)), b=tensor("1", 10**4, (10**4,)))
    torch_writer.write_zip(path, program(both), {"0": bytes(4 * 10**4), "1": b"1"})
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    first = content.index(b"archive/data/0", directory) - 46
    second = content.index(b"archive/data/1", directory) - 46
    entry = content[first : first + 46]
    path.write_bytes(content[:second] + entry + content[second + 46 :])
    is_refused(path, "entries of the archive are larger than the file")


def test_damaged_files_are_refused(path):
    draw = random.Random(0)
    for form in ("zip", "legacy"):
        content = (TORCH / f"{form}.bin").read_bytes()
        for _ in range(150):
            broken = bytearray(content)
            for _ in range(draw.randrange(1, 4)):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
            path.write_bytes(broken[: draw.choice([len(broken), draw.randrange(len(broken))])])
            try:
                torch_pickle.read(path)  # a changed number may be one
            except InputError as error:
                assert str(error).startswith(f"{path}: ")
