import numpy as np
import pytest

from common.errors import InputError
from pipelines import command_line
from scripts import extract_features


class Extractor:
    """Gives each text the vector of its length, that of its pair, and its number."""

    hidden_size = 3

    def encode_chunks(self, texts, pairs=None, batch_size=32):
        lengths = [len(pair) for pair in pairs] if pairs else [0] * len(texts)
        rows = zip(map(len, texts), lengths, range(len(texts)), strict=True)
        vectors = np.array(list(rows), np.float32)
        for begin in range(0, len(texts), 2):
            if texts[begin] == "fail":
                raise InputError("failed")
            yield vectors[begin : begin + 2]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script with a stand-in for the model; returns the model's options and the output."""

    def run(*arguments):
        options = {}
        monkeypatch.setattr(
            command_line, "load_pipeline", lambda *_, **given: options.update(given) or Extractor()
        )
        extract_features.main([str(tmp_path), *map(str, arguments)])
        return options, capsys.readouterr().out

    return run


def test_an_array(run, tmp_path):
    path = tmp_path / "v.npy"
    options, printed = run("a", "bcd", "ef", "--output", path)
    assert options == {"pooling": "mean", "layer": -1}
    assert printed == f"{path}: 3 vectors of 3 numbers\n"
    vectors = np.load(path, mmap_mode="r")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 0, 0], [3, 0, 1], [2, 0, 2]])
    options, _ = run("aé\tb", "--output", path, "--pooling", "cls", "--layer", "0")
    assert options == {"pooling": "cls", "layer": 0}
    np.testing.assert_array_equal(np.load(path), [[2, 1, 0]])


def test_a_failure_leaves_no_file(run, tmp_path):
    with pytest.raises(InputError, match="failed"):
        run("a", "b", "fail", "--output", tmp_path / "v.npy")
    assert list(tmp_path.iterdir()) == []


def test_wrong_output(run, tmp_path):
    with pytest.raises(InputError, match=r"`--output` .*\.npy"):
        run("a", "--output", tmp_path / "v.parquet")
