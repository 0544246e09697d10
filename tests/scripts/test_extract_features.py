import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from common.errors import InputError
from pipelines import FeatureExtractor
from scripts import extract_features

WIDTH = 3


class Extractor:
    """Gives each text the vector of its length, that of its pair, and its number."""

    hidden_size = WIDTH

    def encode_chunks(self, texts, pairs, batch_size):
        lengths = [len(pair) for pair in pairs] if pairs else [0] * len(texts)
        rows = zip(map(len, texts), lengths, range(len(texts)), strict=True)
        vectors = np.array(list(rows), np.float32)
        self.batch_size = batch_size
        for begin in range(0, len(texts), 2):
            if texts[begin] == "fail":
                raise InputError("failed")
            yield vectors[begin : begin + 2]


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the script with a stand-in model: what it was made with, and printed."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setattr("data.tensorflow_setup.prepare_tensorflow", lambda *_: None)

    def run(*arguments):
        asked = []
        monkeypatch.setattr(
            FeatureExtractor, "from_pretrained", lambda *given: asked.append(given) or Extractor()
        )
        extract_features.main(["model", *map(str, arguments)])
        return asked[0], capsys.readouterr().out

    return run


def test_an_array(run, tmp_path):
    path = tmp_path / "v.npy"
    asked, printed = run("a", "bcd", "ef", "--output", path)
    assert asked == ("model", "mean", -1)
    assert printed == f"{path}: 3 vectors of 3 numbers\n"
    vectors = np.load(path, mmap_mode="r")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 0, 0], [3, 0, 1], [2, 0, 2]])
    assert run("a", "--output", path, "--pooling", "cls", "--layer", "0")[0][1:] == ("cls", 0)
    assert np.load(path).shape == (1, WIDTH)


def test_a_table(run, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"x": "aé", "y": "b"}\n' * 2 + '{"y": "ccc", "x": "d"}\n')
    arguments = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "v.parquet", "--columns"]
    run(*arguments, "x", "y")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), WIDTH)
    assert table.to_pydict() == {
        "text": ["aé", "aé", "d"],
        "text_pair": ["b", "b", "ccc"],
        "vector": [[2, 1, 0], [2, 1, 1], [1, 3, 2]],
    }
    run(*arguments, "y")
    assert parquet.read_table(tmp_path / "v.parquet").column_names == ["text", "vector"]


@pytest.mark.parametrize("ending", extract_features.FORMATS)
def test_a_failure_leaves_no_file(run, tmp_path, ending):
    with pytest.raises(InputError, match="failed"):
        run("a", "b", "fail", "--output", tmp_path / f"v.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(run, tmp_path):
    with pytest.raises(InputError, match=r"--output must end in \.npy or \.parquet"):
        run("a", "--output", tmp_path / "v.tsv")
    with pytest.raises(InputError, match="--output: no such folder"):
        run("a", "--output", tmp_path / "no" / "v.npy")
