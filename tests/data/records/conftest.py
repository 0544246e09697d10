import pytest

from data.corpus.sources import find_corpus
from data.records.build_shard import BuildOptions
from tests.support.corpora import openwebtext_of, random_archives, write_vocab


@pytest.fixture
def options(tmp_path):
    """Four shards."""
    vocab = write_vocab(tmp_path / "vocab.txt")
    return BuildOptions(str(vocab), max_seq_length=32, num_out_files=4)


@pytest.fixture
def corpus(tmp_path):
    """Six archives with eight documents each."""
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(random_archives(6, 8)))
    return find_corpus(tmp_path)
