"""The benchmark of records, on a corpus of known size."""

import pytest

from benchmarks import data
from tests.support.corpora import archive_of, write_vocab
from tests.support.files import write

LINES = "Ba da\n\nfa   ga xyzzy\n"  # 5 and 13 bytes


def test_builds_and_tokenizers_read_the_same_text(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    corpus, vocab = str(tmp_path / "openwebtext"), str(write_vocab(tmp_path / "vocab.txt"))
    for index in range(3):
        write(tmp_path / "openwebtext" / f"{index}_data.xz", archive_of([LINES] * 10))
    options = ("--corpus", corpus, "--vocab-file", vocab, "--num-processes", 1)
    row = data.in_new_process(data.build, options, 2)
    assert row["text_bytes_per_second"] * row["seconds"] == pytest.approx(2 * 30 * (5 + 13))
    assert row["bytes_per_token"] > 1 and row["cores_busy"] > 0 and row["peak_bytes"] > 100e6
    row = data.tokenize(corpus, vocab, 1)
    assert row["text_bytes_per_second"] * row["seconds"] == pytest.approx(30 * (5 + 13))
