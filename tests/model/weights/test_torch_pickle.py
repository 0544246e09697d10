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


def test_nothing_in_a_pickle_is_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "pytorch_model.bin"
    for pickled in harmful_pickles(marker):
        for write in (torch_writer.write_zip, torch_writer.write_legacy):
            write(path, pickled, {"0": ONES})
            with pytest.raises(InputError, match=r"pytorch_model\.bin: .*been run"):
                torch_pickle.read(path)
        path.write_bytes(pickled)
        with pytest.raises(InputError, match=r"pytorch_model\.bin: "):
            torch_pickle.read(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps({"weight": Harmful(marker)}))
    with open(path, "rb") as file:  # the marker is where the pickle would have put it
        pickle.load(file)
    assert marker.exists()


def test_what_a_pickle_asks_for_is_named(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    pickled = program(call(name("numpy", "load"), text("x")))
    torch_writer.write_zip(path, pickled, {})
    with pytest.raises(InputError, match=r"asks for numpy\.load, which no dict of tensors needs"):
        torch_pickle.read(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor("0", 10**12, (4,)), "asks for a storage of 4,000,000,000,000 bytes, .* has 16"),
        (tensor("0", 4, (5,)), r"weight \(5,\).* reaches beyond its storage of 4 elements"),
        (tensor("0", 4, (10**9,), (0,)), "reaches beyond"),
        (tensor("0", 4, (2, 2), (3, 1)), "reaches beyond"),
        (tensor("0", 4, (2,), (1,), offset=3), "reaches beyond"),
        (tensor("0", 4, (2,), (-1,), offset=3), "no proper shape"),
        (tensor("0", 4, (2,), (1,), offset=-1), "no proper shape"),
        (tensor("0", 4, (2, 2), (1,)), "no proper shape"),
        (tensor("0", -1, (2,)), "refers to what is no storage"),
        (tensor("../../0", 4, (4,)), "no archive/data/../../0 in the archive"),
        (tensor("0", 4, (4,), storage="QInt8Storage"), r"asks for torch\.QInt8Storage"),
        (number(3), "holds no dict of tensors: 'weight' is a int"),
        (dictionary(inner=number(3)), "'weight' is a dict. Save model.state_dict"),
        (text("x") * 2, "damaged, or not a file of PyTorch"),
        (call(text("x"), number(1)), "calls what is no function"),
        (b"h\x07", "damaged, or not a file of PyTorch: KeyError"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, value, message):
    path = tmp_path / "pytorch_model.bin"
    torch_writer.write_zip(path, program(dictionary(weight=value)), {"0": ONES})
    with pytest.raises(InputError, match=rf"pytorch_model\.bin: .*{message}"):
        torch_pickle.read(path)


def test_a_storage_larger_than_an_old_file_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    pickled = program(dictionary(weight=tensor("0", 8, (8,), legacy=True)))
    torch_writer.write_legacy(path, pickled, {"0": ONES + ONES})
    assert torch_pickle.read(path)["weight"].tolist() == [1] * 8
    torch_writer.write_legacy(path, pickled, {"0": ONES})
    with pytest.raises(InputError, match="storage '0' is not one that the tensors are made of"):
        torch_pickle.read(path)
    torch_writer.write_legacy(path, pickled, {"0": ONES + ONES})
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(InputError, match="asks for a storage of 32 bytes, and the file has 16"):
        torch_pickle.read(path)


def test_other_byte_orders_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    pickled = program(dictionary(weight=tensor("0", 4, (4,))))
    torch_writer.write_zip(path, pickled, {"0": ONES}, byteorder="big")
    with pytest.raises(InputError, match="big-endian machine, which is not supported"):
        torch_pickle.read(path)
    torch_writer.write_legacy(path, pickled, {"0": ONES}, little_endian=False)
    with pytest.raises(InputError, match="big-endian machine, which is not supported"):
        torch_pickle.read(path)


def test_zip_bombs_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    pickled = program(dictionary(weight=tensor("0", 10**6, (10**6,))))
    storages = {"0": bytes(4 * 10**6)}
    torch_writer.write_zip(path, pickled, storages, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with pytest.raises(InputError, match=r"archive/byteorder is compressed or encrypted"):
        torch_pickle.read(path)
    # Two names for the same bytes of the archive, which is then smaller than what it holds.
    both = dictionary(a=tensor("0", 10**4, (10**4,)), b=tensor("1", 10**4, (10**4,)))
    torch_writer.write_zip(path, program(both), {"0": bytes(4 * 10**4), "1": b"1"})
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    first = content.index(b"archive/data/0", directory) - 46
    second = content.index(b"archive/data/1", directory) - 46
    entry = bytearray(content[first : first + 46])
    path.write_bytes(content[:second] + bytes(entry) + content[second + 46 :])
    with pytest.raises(InputError, match="say that they are larger than the file"):
        torch_pickle.read(path)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
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
