import numpy as np
import pytest

from common.errors import InputError
from pipelines import FeatureExtractor, base
from scripts import extract_features
from tests.support.random_models import save


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    save(directory, FeatureExtractor.model_class, num_hidden_layers=1)
    return directory


def run(directory, *arguments):
    extract_features.main([str(directory), *map(str, arguments)])


def test_an_array(directory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(base, "TEXTS_AT_ONCE", 2)
    path = tmp_path / "v.npy"
    run(directory, "a", "b c", "d", "--output", path)
    assert capsys.readouterr().out == f"{path}: 3 vectors of 16 numbers\n"
    vectors = np.load(path, mmap_mode="r")
    assert vectors.dtype == np.float32
    expected = FeatureExtractor.from_pretrained(directory).encode(["a", "b c", "d"])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    run(directory, "aé\tb", "--output", path, "--pooling", "cls", "--layer", "0")
    extractor = FeatureExtractor.from_pretrained(directory, pooling="cls", layer=0)
    np.testing.assert_allclose(np.load(path), extractor.encode(["aé"], ["b"]), atol=1e-5)


def test_half_precision(directory, tmp_path, capsys):
    path = tmp_path / "v.npy"
    run(directory, "a", "b c", "--output", path, "--dtype", "mixed_bfloat16")
    assert ", mixed_bfloat16, " in capsys.readouterr().err
    expected = FeatureExtractor.from_pretrained(directory).encode(["a", "b c"])
    difference = np.abs(np.load(path) - expected).max()
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize(
    ("name", "batch_size", "message"),
    [("v.npy", 0, "`batch_size`"), ("v.parquet", 1, r"`--output` .*\.npy")],
)
def test_a_failure_leaves_no_file(directory, tmp_path, name, batch_size, message):
    with pytest.raises(InputError, match=message):
        run(directory, "a", "--batch-size", batch_size, "--output", tmp_path / name)
    assert list(tmp_path.iterdir()) == []
