import json
import lzma

import pytest

from data import ConvBertTokenizer
from data.records.command_line import BERT_VOCAB
from tests.support.processes import ROOT


@pytest.fixture(scope="package")
def bert():
    return ConvBertTokenizer(BERT_VOCAB)


@pytest.fixture(scope="package")
def original():
    """What the original's tokenizer makes of many strings."""
    path = ROOT / "tests/goldens/tokenizer/original.json.xz"
    return json.loads(lzma.decompress(path.read_bytes()))


@pytest.fixture(scope="package")
def release_vocab(original):
    """The tokens of the original's damaged vocabulary."""
    tokens = BERT_VOCAB.read_text(encoding="utf-8").splitlines()
    for index, token in original["release_vocab_changes"].items():
        tokens[int(index)] = token
    return tokens
