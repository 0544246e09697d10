"""The benchmark of records, on a corpus of known size."""

import pytest

from benchmarks import data
from tests.support.corpora import archive_of, write_vocab

LINES = "Ba da\n\nfa   ga xyzzy\n"  # 5 and 13 bytes


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "openwebtext"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}_data.xz").write_bytes(archive_of([LINES] * 10))
    return str(folder)


def test_builds(corpus, tmp_path):
    vocab = str(write_vocab(tmp_path / "vocab.txt"))
    options = ("--corpus", corpus, "--vocab-file", vocab, "--num-processes", 1)
    row = data.in_new_process(data.build, options, 2)
    assert row["text_bytes_per_second"] * row["seconds"] == pytest.approx(2 * 30 * (5 + 13))
    assert row["bytes_per_token"] > 1 and row["cores_busy"] > 0 and row["peak_bytes"] > 100e6


def test_tokenizers_reads_the_same_text(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    row = data.tokenize(corpus, str(write_vocab(tmp_path / "vocab.txt")), 1)
    assert row["text_bytes_per_second"] * row["seconds"] == pytest.approx(30 * (5 + 13))
