import pathlib
import random
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from data import ConvBertTokenizer
from data.tokenizer.vocab_file import SPECIAL_TOKENS
from tests.support.wordpiece import reference_ids, reference_offsets

UNICODE_14 = pathlib.Path(__file__).parents[2] / "goldens/tokenizer/unicode14_assigned.txt"
MODES = [(True, True), (True, False), (False, False)]
ODD_TEXTS = [
    "",
    " \t\n",
    "Ångström e\u0301te\u0301 Ελλάς ΣΑΣ straße İstanbul \ufb01n",
    "한국어 中文字 日本語\u3000カタカナ ไทย",
    "\u0301a\u0301\u0302 b\u200b\u00adc\ufffd\u0000d\u0085e",
    "x" * 201 + " " + "y" * 200 + "," + "É" * 201 + "." + "z" * 300,
    "emoji 😀😀 and 𐐀𐐁 \U0001e900",
    "a" * 150 + "\u0301" * 60 + "b" * 60,
]
ODD_PARTS = [*"abcXYZ ,.-'\t\n1é中한İΣ😀ß\u0301\u200b\ufb01", "x" * 70]


def ids_of(tokens):
    return {token: index for index, token in enumerate(tokens)}


def check_offsets(tokenizer, texts, lower, strip):
    expected = tokenizer.tokenize(texts).to_list()
    found = tokenizer.tokenize_with_offsets(texts)
    for text, ids, tokens in zip(texts, expected, found, strict=True):
        assert tokens.ids.tolist() == ids
        offsets = list(zip(tokens.starts.tolist(), tokens.ends.tolist(), strict=True))
        assert offsets == reference_offsets(text, ids, tokenizer.vocab, lower, strip), text


@pytest.fixture(scope="module")
def every_character():
    """All code points of Unicode 14, and a vocabulary that tells them all apart."""
    points = []
    for item in UNICODE_14.read_text().split():
        first, _, last = item.partition("-")
        points += range(int(first, 16), int(last or first, 16) + 1)
    tokens = [chr(point) for point in points if unicodedata.category(chr(point))[0] not in "CZ"]
    return points, [*SPECIAL_TOKENS, *tokens, *(f"##{token}" for token in tokens)]


@pytest.mark.parametrize("index", range(6))
def test_ids_equal_the_originals(original, release_vocab, index):
    case = original["sets"][index]
    vocab = {"release": release_vocab, "multi": original["multi_vocab"]}[case["vocab"]]
    options = case["do_lower_case"], case["strip_accents"]
    tokenizer = ConvBertTokenizer(vocab, *options)
    ids = tokenizer.tokenize(original["strings"]).to_list()
    assert len(ids) == 318
    for string, got, wanted in zip(original["strings"], ids, case["ids"], strict=True):
        assert got == wanted, string
    check_offsets(tokenizer, original["strings"], *options)


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_every_assigned_code_point_inside_a_word(every_character, lower, strip):
    points, tokens = every_character
    assert len(points) == 144_762
    tokenizer, vocab = ConvBertTokenizer(tokens, lower, strip), ids_of(tokens)
    texts = [f"aB{chr(point)}Cd" for point in points]
    wrong = [
        f"U+{point:04X}: {got}"
        for point, text, got in zip(points, texts, tokenizer.tokenize(texts).to_list(), strict=True)
        if got != reference_ids(text, vocab, lower, strip)
    ]
    assert wrong == []
    check_offsets(tokenizer, texts[::23], lower, strip)


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_any_vocabulary(lower, strip):
    """Random tokens, with punctuation, spaces, repeats and bare prefixes among them."""
    rng = np.random.default_rng(3)
    alphabet = [*"aabbcd'-.#[]中国é\u3000\u0301ΣσÅİ한\x01\ue000\u00ad\ufffd1 ", "##", "[UNK]"]
    for _ in range(20):
        tokens = [
            (rng.choice(["", "##"]) + "".join(rng.choice(alphabet, rng.integers(1, 5)))).strip()
            for _ in range(rng.integers(0, 60))
        ]
        tokenizer = ConvBertTokenizer([*SPECIAL_TOKENS, *tokens], lower, strip)
        texts = ["".join(rng.choice(alphabet, rng.integers(0, 30))) for _ in range(40)]
        for text, got in zip(texts, tokenizer.tokenize(texts).to_list(), strict=True):
            wanted = reference_ids(text, ids_of(tokenizer.vocab), lower, strip)
            assert got == wanted, (text, tokens)


@pytest.mark.parametrize("char", "aéहก한\U0001f600字")
def test_words_over_200_characters_are_unknown(char):
    letters = [*"xy-、\u0301", char]
    tokens = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer, vocab = ConvBertTokenizer(tokens, do_lower_case=False), ids_of(tokens)
    texts = [f"x {char * 200} y", f"x {char * 201} y", f"x-{char * 150}\u0301\x01{char * 50}、y"]
    ids = tokenizer.tokenize(texts).to_list()
    assert ids == [reference_ids(text, vocab, False) for text in texts]
    if char != "字":
        assert len(ids[0]) == 202 and ids[1] == [vocab["x"], vocab["[UNK]"], vocab["y"]]


def test_a_lower_limit_of_word_length(bert):
    tokenizer = ConvBertTokenizer(bert.vocab, max_word_length=3)
    texts = ["cat cats c.a.t", "日本語日本語 cat", "Ünd", "한국"]
    ids = tokenizer.tokenize(texts).to_list()
    assert ids[0] == [4937, bert.unk_id, *bert.tokenize(["c.a.t"]).to_list()[0]]
    assert ids[1:3] == bert.tokenize(texts[1:3]).to_list()
    assert ids[3] == [bert.unk_id]  # six letters, once decomposed
    for length in (0, 201):
        with pytest.raises(InputError, match=f"`max_word_length` .*Received: {length}"):
            ConvBertTokenizer(bert.vocab, max_word_length=length)


@pytest.mark.parametrize("options", [*MODES, (True, True, 100), (True, True, 3)])
def test_offsets_in_odd_texts(bert, options):
    draw = random.Random(0)
    texts = ["".join(draw.choices(ODD_PARTS, k=draw.randrange(60))) for _ in range(200)]
    check_offsets(ConvBertTokenizer(bert.vocab, *options), ODD_TEXTS + texts, *options[:2])


def test_offsets_of_what_the_clean_up_changes(bert):
    texts = ["Crème cafe\u0301!", "İstanbul", "a\u00adb \x00x", "한국", f"é {'x' * 250} y", ""]
    found = [
        [(bert.vocab[index], text[start:end]) for index, start, end in zip(*tokens, strict=True)]
        for text, tokens in zip(texts, bert.tokenize_with_offsets(texts), strict=True)
    ]
    assert found == [
        [("cr", "Cr"), ("##eme", "ème"), ("cafe", "cafe\u0301"), ("!", "!")],
        [("istanbul", "İstanbul")],
        [("ab", "a\u00adb"), ("x", "x")],
        [(p, "한국"[i > 2]) for i, p in enumerate(["ᄒ", "##ᅡ", "##ᆫ", "##ᄀ", "##ᅮ", "##ᆨ"])],
        [("e", "é"), ("[UNK]", "x" * 250), ("y", "y")],
        [],
    ]
    assert bert.tokenize_with_offsets([]) == []
    assert [len(tokens.ids) for tokens in bert.tokenize_with_offsets(["", "\u0301"])] == [0, 0]


def test_ids_do_not_depend_on_the_batch(original, bert):
    texts = [*original["strings"], "plain words", "", "𐕰 Ⱟ", "x" * 300, b"bad \xff byte", "Σ ΑΣ"]
    together = bert.tokenize(texts).to_list()
    assert together == [bert.tokenize([text]).to_list()[0] for text in texts]
    assert bert.tokenize(texts[::-1]).to_list() == together[::-1]
    assert bert.tokenize([]).to_list() == []


def test_bytes_that_are_not_utf8_are_dropped(bert):
    texts = [b"foo\xffbar", b"foo\xed\xa0\x80bar", b"foo\xe2\x82 bar", "na\u00efve".encode()]
    expected = bert.tokenize(["foobar", "foobar", "foo bar", "naive"]).to_list()
    assert bert.tokenize(texts).to_list() == expected


def test_works_in_tf_data_and_in_a_saved_function(bert, tmp_path):
    texts = ["The [MASK] sat.", "", "Übergröße " + "x" * 250, "國 Ⱟ"]
    wanted = bert.tokenize(texts).to_list()
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(3).map(bert.tokenize)
    assert [row for batch in dataset for row in batch.to_list()] == wanted

    module = tf.Module()
    module.tokenize = tf.function(
        lambda texts: bert.tokenize(texts).to_tensor(-1),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved")).tokenize(tf.constant(texts))
    assert [[i for i in row if i >= 0] for row in loaded.numpy().tolist()] == wanted
