import random

import pytest
import tensorflow as tf

from data import ConvBertTokenizer
from data.tokenizer.graph_offsets import tokenize_with_places

TEXTS = [
    "",
    " \t\n",
    "A fine film, isn't it?",
    "Ångström e\u0301te\u0301 Ελλάς ΣΑΣ straße İstanbul \ufb01n",
    "한국어 中文字 日本語\u3000カタカナ ไทย",
    "\u0301a\u0301\u0302 b\u200b\u00adc\ufffd\u0000d\u0085e",
    "x" * 201 + " " + "y" * 200 + "," + "É" * 201 + "." + "z" * 300,
    "emoji 😀😀 and 𐐀𐐁 \U0001e900",
    "a" * 150 + "\u0301" * 60 + "b" * 60,
]
ALPHABET = [
    *"abcXYZ ,.-'\t\n1é中",
    "\u0301",
    "\u200b",
    "한",
    "İ",
    "Σ",
    "😀",
    "\ufb01",
    "ß",
    "x" * 70,
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    vocab = "data/vocab/bert_uncased.txt"
    return [
        ConvBertTokenizer(vocab),
        ConvBertTokenizer(vocab, strip_accents=False),
        ConvBertTokenizer(vocab, do_lower_case=False),
        ConvBertTokenizer(vocab, max_word_length=100),
    ]


@pytest.mark.parametrize("number", range(4), ids=("stripped", "lower", "cased", "shorter"))
def test_places_are_those_of_the_tokenizer(tokenizers, number):
    tokenizer = tokenizers[number]
    draw = random.Random(0)
    texts = TEXTS + ["".join(draw.choices(ALPHABET, k=draw.randrange(60))) for _ in range(200)]
    graph = tf.function(lambda texts: tokenize_with_places(tokenizer, texts))
    found = [ragged.to_list() for ragged in graph(tf.constant(texts))]
    expected = tokenizer.tokenize_with_offsets(texts)
    assert sum(len(pieces.ids) for pieces in expected) > 3000
    for text, pieces, *columns in zip(texts, expected, *found, strict=True):
        assert columns == [array.tolist() for array in pieces], repr(text)


def test_no_texts(tokenizers):
    found = tokenize_with_places(tokenizers[0], tf.constant([], tf.string))
    assert [ragged.to_list() for ragged in found] == [[], [], []]
