import hashlib
import json
import logging
import lzma
import pathlib
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from data.tokenizer.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer, truncate_pair
from tests.support.wordpiece import reference_ids, reference_places

ROOT = pathlib.Path(__file__).parents[3]
GOLDENS = ROOT / "tests/goldens/tokenizer"
BERT_VOCAB = ROOT / "data/vocab/bert_uncased.txt"
RELEASE_SHA256 = "ce0ab0a373c6ce1fe777eea87d927294379f2ce187e240f0a9e24d4e9ac22fa0"
MODES = [(True, True), (True, False), (False, False)]


def write_vocab(path, tokens, end="\n"):
    path.write_bytes("".join(token + end for token in tokens).encode())
    return path


def mapping(tokenizer):
    return {token: index for index, token in enumerate(tokenizer.vocab)}


@pytest.fixture(scope="module")
def golden():
    return json.loads(lzma.decompress((GOLDENS / "original.json.xz").read_bytes()))


@pytest.fixture(scope="module")
def vocab_files(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    release = BERT_VOCAB.read_text(encoding="utf-8").splitlines()
    for index, token in golden["release_vocab_changes"].items():
        release[int(index)] = token
    return {
        "release": write_vocab(folder / "release.txt", release, "\r\n"),
        "multi": write_vocab(folder / "multi.txt", golden["multi_vocab"]),
    }


@pytest.fixture(scope="module")
def bert():
    return ConvBertTokenizer(BERT_VOCAB)


@pytest.fixture(scope="module")
def every_character(tmp_path_factory):
    """All code points of Unicode 14, and a vocabulary that tells them all apart."""
    points = []
    for item in (GOLDENS / "unicode14_assigned.txt").read_text().split():
        first, _, last = item.partition("-")
        points += range(int(first, 16), int(last or first, 16) + 1)
    tokens = [chr(point) for point in points if unicodedata.category(chr(point))[0] not in "CZ"]
    tokens = [*SPECIAL_TOKENS, *tokens, *(f"##{token}" for token in tokens)]
    return points, write_vocab(tmp_path_factory.mktemp("all") / "vocab.txt", tokens)


@pytest.mark.parametrize("index", range(6))
def test_ids_equal_the_originals(golden, vocab_files, index):
    case = golden["sets"][index]
    tokenizer = ConvBertTokenizer(
        vocab_files[case["vocab"]], case["do_lower_case"], case["strip_accents"]
    )
    ids = tokenizer.tokenize(golden["strings"]).to_list()
    assert len(ids) == 318
    for string, got, wanted in zip(golden["strings"], ids, case["ids"], strict=True):
        assert got == wanted, string


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_every_assigned_code_point_inside_a_word(every_character, lower, strip):
    points, vocab_file = every_character
    assert len(points) == 144_762
    tokenizer = ConvBertTokenizer(vocab_file, lower, strip)
    vocab = mapping(tokenizer)
    texts = [f"aB{chr(point)}Cd" for point in points]
    wrong = [
        f"U+{point:04X}: {got}"
        for point, text, got in zip(points, texts, tokenizer.tokenize(texts).to_list(), strict=True)
        if got != reference_ids(text, vocab, lower, strip)
    ]
    assert wrong == []


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_any_vocabulary(tmp_path, lower, strip):
    """Random tokens, with punctuation, spaces, repeats and bare prefixes among them."""
    rng = np.random.default_rng(3)
    alphabet = [*"aabbcd'-.#[]中国é\u3000\u0301ΣσÅİ한\x01\ue000\u00ad\ufffd1 ", "##", "[UNK]"]
    for trial in range(20):
        tokens = [
            rng.choice(["", "##"]) + "".join(rng.choice(alphabet, rng.integers(1, 5)))
            for _ in range(rng.integers(0, 60))
        ]
        file = write_vocab(tmp_path / f"{trial}.txt", [*SPECIAL_TOKENS, *tokens])
        tokenizer = ConvBertTokenizer(file, lower, strip)
        vocab = mapping(tokenizer)
        texts = ["".join(rng.choice(alphabet, rng.integers(0, 30))) for _ in range(40)]
        for text, got in zip(texts, tokenizer.tokenize(texts).to_list(), strict=True):
            assert got == reference_ids(text, vocab, lower, strip), (text, tokens)


@pytest.mark.parametrize("char", "aéहก한\U0001f600字")
def test_words_over_200_characters_are_unknown(every_character, char):
    tokenizer = ConvBertTokenizer(every_character[1], do_lower_case=False)
    vocab = mapping(tokenizer)
    texts = [f"x {char * 200} y", f"x {char * 201} y", f"x-{char * 150}\u0301\x01{char * 50}、y"]
    ids = tokenizer.tokenize(texts).to_list()
    assert ids == [reference_ids(text, vocab, False) for text in texts]
    if char != "字":
        assert len(ids[0]) == 202 and ids[1] == [vocab["x"], vocab["[UNK]"], vocab["y"]]


def check_places(tokenizer, texts, lower=True, strip=True):
    found = tokenizer.tokenize_with_offsets(texts)
    wanted = tokenizer.tokenize(texts).to_list()
    assert [pieces.ids.tolist() for pieces in found] == wanted
    for text, ids, pieces in zip(texts, wanted, found, strict=True):
        places = list(zip(pieces.starts.tolist(), pieces.ends.tolist(), strict=True))
        assert places == reference_places(text, ids, tokenizer.vocab, lower, strip), text


@pytest.mark.parametrize("index", range(6))
def test_places_of_pieces_in_the_text(golden, vocab_files, index):
    case = golden["sets"][index]
    options = case["do_lower_case"], case["strip_accents"]
    tokenizer = ConvBertTokenizer(vocab_files[case["vocab"]], *options)
    check_places(tokenizer, golden["strings"], *options)


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_places_around_every_assigned_code_point(every_character, lower, strip):
    points, vocab_file = every_character
    tokenizer = ConvBertTokenizer(vocab_file, lower, strip)
    check_places(tokenizer, [f"aB{chr(point)}Cd" for point in points[::23]], lower, strip)


def test_places_of_what_the_clean_up_changes(bert):
    texts = ["Crème cafe\u0301!", "İstanbul", "a\u00adb \x00x", "한국", f"é {'x' * 250} y", ""]
    found = [
        [(bert.vocab[piece], text[start:end]) for piece, start, end in zip(*pieces, strict=True)]
        for text, pieces in zip(texts, bert.tokenize_with_offsets(texts), strict=True)
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
    assert [len(pieces.ids) for pieces in bert.tokenize_with_offsets(["", "\u0301"])] == [0, 0]


def test_ids_do_not_depend_on_the_batch(golden, bert):
    texts = [*golden["strings"], "plain words", "", "𐕰 Ⱟ", "x" * 300, b"bad \xff byte", "Σ ΑΣ"]
    together = bert.tokenize(texts).to_list()
    assert together == [bert.tokenize([text]).to_list()[0] for text in texts]
    assert bert.tokenize(texts[::-1]).to_list() == together[::-1]
    assert bert.tokenize([]).to_list() == []


def test_bytes_that_are_not_utf8_are_dropped(bert):
    texts = [b"foo\xffbar", b"foo\xed\xa0\x80bar", b"foo\xe2\x82 bar", "na\u00efve".encode()]
    assert (
        bert.tokenize(texts).to_list()
        == bert.tokenize(["foobar", "foobar", "foo bar", "naive"]).to_list()
    )


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


def test_the_releases_vocabulary_loads_with_a_warning(vocab_files, caplog):
    file = vocab_files["release"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == RELEASE_SHA256
    with caplog.at_level(logging.WARNING, logger="absl"):
        tokenizer = ConvBertTokenizer(file)
    assert tokenizer.vocab_size == 30522
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(file) in message and "30522 of 30522" in message and "1008" in message


def test_a_repeated_token_has_its_last_id(tmp_path):
    file = write_vocab(
        tmp_path / "v.txt", ["dog", *SPECIAL_TOKENS, "dog", "", "##s", "cat ", "##s"]
    )
    tokenizer = ConvBertTokenizer(file)
    assert tokenizer.tokenize(["dogs cat"]).to_list() == [[6, 10, 9]]
    assert tokenizer.convert_tokens_to_ids(["dog", "##s", "bird"]) == [6, 10, tokenizer.unk_id]
    assert tokenizer.convert_ids_to_tokens([0, 6, 7]) == ["dog", "dog", ""]


def test_line_ends_change_no_hash_and_a_clean_file_gives_no_warning(bert, tmp_path, caplog):
    crlf = write_vocab(tmp_path / "v.txt", bert.vocab, "\r\n")
    assert ConvBertTokenizer(crlf).vocab_sha256 == bert.vocab_sha256
    other = write_vocab(tmp_path / "w.txt", [*bert.vocab[:-1], "[new]"])
    with caplog.at_level(logging.WARNING, logger="absl"):
        caplog.clear()
        assert ConvBertTokenizer(other).vocab_sha256 != bert.vocab_sha256
    assert caplog.records == []


@pytest.mark.parametrize("missing", [["[PAD]"], ["[UNK]"], ["[CLS]", "[SEP]", "[MASK]"]])
def test_missing_special_tokens_are_named(tmp_path, missing):
    tokens = [token for token in SPECIAL_TOKENS if token not in missing]
    file = write_vocab(tmp_path / "v.txt", [*tokens, "a"])
    with pytest.raises(InputError) as caught:
        ConvBertTokenizer(file)
    assert str(file) in str(caught.value) and f"no {', '.join(missing)} among" in str(caught.value)


def test_unusable_vocabulary_files(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.txt: No such file"):
        ConvBertTokenizer(tmp_path / "none.txt")
    with pytest.raises(InputError, match="Is a directory"):
        ConvBertTokenizer(tmp_path)
    (tmp_path / "binary").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(InputError, match="binary, line 2: not UTF-8"):
        ConvBertTokenizer(tmp_path / "binary")
    with pytest.raises(InputError, match="line 6: a token of over 256 bytes"):
        ConvBertTokenizer(write_vocab(tmp_path / "long", [*SPECIAL_TOKENS, "x" * 257]))


def test_batches_are_padded(bert):
    batch = bert(["a dog", "the dog sat"], padding="longest")
    cls, sep, pad = bert.cls_id, bert.sep_id, bert.pad_id
    a, dog, the, sat = bert.convert_tokens_to_ids(["a", "dog", "the", "sat"])
    assert batch["input_ids"].tolist() == [[cls, a, dog, sep, pad], [cls, the, dog, sat, sep]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["segment_ids"].tolist() == [[0] * 5] * 2
    assert {array.dtype for array in batch.values()} == {np.dtype("int32")}
    longer = bert(["a dog"], ["the"], max_length=8, padding="max_length")
    assert longer["input_ids"].tolist() == [[cls, a, dog, sep, the, sep, pad, pad]]
    assert longer["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    assert longer["input_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert bert(["the dog sat"], max_length=4)["input_ids"].tolist() == [[cls, the, dog, sep]]
    assert bert([])["input_ids"].shape == (0, 0)


def test_a_pairs_longer_side_is_cut_and_a_tie_cuts_the_second(bert):
    for first in range(7):
        for second in range(7):
            for room in range(14):
                kept = [first, second]
                while sum(kept) > room:
                    kept[0 if kept[0] > kept[1] else 1] -= 1
                got = truncate_pair(range(first), range(second), room)
                assert got == (range(kept[0]), range(kept[1]))
    cls, sep = bert.cls_id, bert.sep_id
    ids = bert.convert_tokens_to_ids([*"abcdef"])
    batch = bert(["a b c"], ["d e f"], max_length=8)
    assert batch["input_ids"].tolist() == [[cls, *ids[:3], sep, *ids[3:5], sep]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one"}, r"write \[text\]"),
        ({"texts": ["a", 3]}, "at index 1: int"),
        ({"texts": ["a", None]}, "at index 1: NoneType"),
        ({"texts": tf.constant([1.0])}, "float32"),
        ({"texts": tf.constant([["a"]])}, r"shape \(1, 1\)"),
        ({"texts": ["a"], "text_pairs": ["b", "c"]}, "1 `texts`, but 2 `text_pairs`"),
        ({"texts": ["a"], "max_length": 1}, "max_length=1"),
        ({"texts": ["a"], "text_pairs": ["b"], "max_length": 2}, "max_length=2"),
        ({"texts": ["a"], "padding": "max_length"}, "needs a `max_length`"),
        ({"texts": ["a"], "padding": "left"}, "Received: 'left'"),
        ({"texts": ["a"], "truncation": "first"}, r"`truncation` must be .*Received: 'first'"),
        ({"texts": b"a", "parse_special_tokens": True}, "must be a list of `str`"),
        ({"texts": [b"a"], "return_offsets_mapping": True}, "must be a list of `str`"),
        ({"texts": tf.constant(["a"]), "return_offsets_mapping": True}, "must be a list of `str`"),
    ],
)
def test_wrong_arguments_are_named(bert, arguments, message):
    with pytest.raises(InputError, match=message):
        bert(**arguments)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("The quick brown fox jumps over the lazy dog.", None),
        ("don't, you've", "don ' t, you ' ve"),
        ("3.14159265358979323846", "3. 14159265358979323846"),
        ("Português: ação", "portugues : acao"),
        ("'x' 10:30am (no!)", "' x ' 10 : 30am ( no! )"),
        ("…", "…"),
        ("", ""),
    ],
)
def test_decode_spaces_as_hugging_face_does(bert, text, decoded):
    ids = bert([text])["input_ids"][0]
    assert bert.decode(ids) == (text.lower() if decoded is None else decoded)


def test_decode_special_tokens(bert):
    ids = [bert.cls_id, *bert.convert_tokens_to_ids(["the", "[MASK]", ".", "##s", "[SEP]"])]
    assert bert.decode(ids) == "the.s"
    assert bert.decode(ids, skip_special_tokens=False) == "[CLS] the [MASK].s [SEP]"
    with pytest.raises(InputError, match="id 30522 is not in the vocabulary of 30522"):
        bert.decode([30522])
    with pytest.raises(InputError, match="id -1"):
        bert.decode([-1])


def test_spaces_around_apostrophes(bert):
    ids = bert.encode("Don't, you've: it's 'x'!", add_special_tokens=False)
    assert bert.decode(ids) == "don ' t, you ' ve : it ' s ' x '!"
    assert bert.decode(ids, clean_up_tokenization_spaces=True) == "don't, you've : it's'x '!"


def test_ids_and_tokens_one_or_many(bert):
    assert bert.convert_ids_to_tokens(1996) == "the" == bert.convert_ids_to_tokens(np.int32(1996))
    assert bert.convert_tokens_to_ids("the") == 1996
    assert bert.convert_tokens_to_ids(["the", "[MASK]"]) == [1996, 103]
    assert len(bert) == bert.vocab_size == 30522
    assert bert.get_vocab()["the"] == 1996 and len(bert.get_vocab()) == 30522
    assert (bert.mask_token, bert.mask_token_id) == ("[MASK]", 103)
    names = ("pad", "unk", "cls", "sep", "mask")
    ids = [getattr(bert, f"{name}_token_id") for name in names]
    assert ids == [getattr(bert, f"{name}_id") for name in names] == bert.all_special_ids
    assert tuple(getattr(bert, f"{name}_token") for name in names) == bert.all_special_tokens
    assert bert.batch_decode([[101, 1996], [102]], skip_special_tokens=False) == [
        "[CLS] the",
        "[SEP]",
    ]


def test_special_tokens_around_ids(bert):
    cls, sep = bert.cls_id, bert.sep_id
    for pair in ((), ([9, 10],)):
        row = bert.build_inputs_with_special_tokens([7, 8], *pair)
        segments = bert.create_token_type_ids_from_sequences([7, 8], *pair)
        mask = bert.get_special_tokens_mask([7, 8], *pair)
        assert row == [cls, 7, 8, sep, *([9, 10, sep] if pair else [])]
        assert segments == [0, 0, 0, 0, *([1, 1, 1] if pair else [])]
        assert mask == [1, 0, 0, 1, *([0, 0, 1] if pair else [])]
        assert bert.get_special_tokens_mask(row, already_has_special_tokens=True) == mask
        assert bert.num_special_tokens_to_add(bool(pair)) == sum(mask)
    with pytest.raises(InputError, match="`ids1` must be None"):
        bert.get_special_tokens_mask([7], [8], already_has_special_tokens=True)


def test_encode_gives_a_rows_ids(bert):
    cls, sep = bert.cls_id, bert.sep_id
    a, b, c, d = bert.convert_tokens_to_ids(["a", "b", "c", "d"])
    assert bert.encode("a b") == [cls, a, b, sep]
    assert bert.encode("a b", "c") == [cls, a, b, sep, c, sep]
    assert bert.encode("a b", "c", False) == [a, b, c]
    assert bert.encode("a b", "c d", max_length=6) == [cls, a, b, sep, c, sep]
    longest_first = bert.encode("a b", "c d", max_length=6, truncation="longest_first")
    assert longest_first == [cls, a, sep, c, d, sep]
    assert bert.encode("a b", "c d", max_length=6, truncation="only_second")[-2:] == [c, sep]
    assert len(bert.encode("a b", "c d", max_length=3, truncation=False)) == 7
    assert bert.encode("a [MASK]", parse_special_tokens=True) == [cls, a, bert.mask_id, sep]
    assert bert.encode("") == [cls, sep] and bert.encode("", "", False) == []


def test_rows_without_padding(bert):
    padded = bert(["a b", "c"], padding=True)
    rows = bert(["a b", "c"], padding=False)
    assert rows["input_ids"] == [padded["input_ids"][0].tolist(), [101, 1039, 102]]
    assert rows["input_mask"] == [[1, 1, 1, 1], [1, 1, 1]]
    assert rows["segment_ids"] == [[0, 0, 0, 0], [0, 0, 0]]
    assert bert([], padding=False)["input_ids"] == []


def test_places_and_added_tokens_in_a_batch(bert):
    texts, pairs = ["Crème [MASK]", ""], ["x  [SEP]y", "z"]
    batch = bert(
        texts, pairs, 9, "max_length", parse_special_tokens=True,
        return_offsets_mapping=True, return_special_tokens_mask=True,
    )  # fmt: skip
    tokens = [bert.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    first = ["[CLS]", "cr", "##eme", "[MASK]", "[SEP]", "x", "[SEP]", "y", "[SEP]"]
    assert tokens == [first, ["[CLS]", "[SEP]", "z", "[SEP]", *["[PAD]"] * 5]]
    none = (0, 0)
    places = [
        [none, (0, 2), (2, 5), (6, 12), none, (0, 1), (3, 8), (8, 9), none],
        [none, none, (0, 1), *[none] * 6],
    ]
    assert [[tuple(place) for place in row] for row in batch["offset_mapping"]] == places
    assert batch["special_tokens_mask"].tolist() == [
        [1, 0, 0, 0, 1, 0, 0, 0, 1],
        [1, 1, 0, 1, 1, 1, 1, 1, 1],
    ]
    assert {array.dtype for array in batch.values()} == {np.dtype("int32")}
    plain = bert(texts, pairs, parse_special_tokens=True)
    assert list(plain) == ["input_ids", "input_mask", "segment_ids"]
    np.testing.assert_array_equal(plain["input_ids"], batch["input_ids"])
    cut = bert(texts, pairs, 5, return_offsets_mapping=True, parse_special_tokens=True)
    assert cut["offset_mapping"].tolist()[0] == [[0, 0], [0, 2], [0, 0], [0, 1], [0, 0]]


def test_special_tokens_in_text_are_text_unless_parsed(bert):
    text = "[MASK][MASK] [mask] a[SEP]\u0301b [[PAD]]"
    tokens = bert.convert_ids_to_tokens(bert.encode(text, None, False, parse_special_tokens=True))
    parsed = ["[MASK]", "[MASK]", "[", "mask", "]", "a", "[SEP]", "b", "[", "[PAD]", "]"]
    assert tokens == parsed
    assert bert.encode(text, None, False) == bert.tokenize([text]).to_list()[0]
    assert bert.mask_id not in bert.encode(text)


def test_shorter_words_may_be_the_limit(bert):
    tokenizer = ConvBertTokenizer(bert.vocab, max_word_length=3)
    texts = ["cat cats c.a.t", "日本語日本語 cat", "Ünd", "한국"]
    unknown = tokenizer.unk_id
    ids = tokenizer.tokenize(texts).to_list()
    assert ids[0] == [4937, unknown, *bert.tokenize(["c.a.t"]).to_list()[0]]
    assert ids[1:3] == bert.tokenize(texts[1:3]).to_list()
    assert ids[3] == [unknown]  # six letters, once decomposed
    assert [row.ids.tolist() for row in tokenizer.tokenize_with_offsets(texts)] == ids
    for length in (0, 201):
        with pytest.raises(InputError, match=f"Received: {length}"):
            ConvBertTokenizer(bert.vocab, max_word_length=length)


def test_a_list_of_tokens_is_a_vocabulary(bert):
    assert ConvBertTokenizer(bert.vocab).vocab_sha256 == bert.vocab_sha256
    with pytest.raises(InputError, match=r"list of tokens has no \[UNK\], \[CLS\]"):
        ConvBertTokenizer(["[PAD]", "a"])
    for token in (7, "a\nb", "x" * 257):
        with pytest.raises(InputError, match="token 5 must be a line of at most 256 bytes, not"):
            ConvBertTokenizer([*SPECIAL_TOKENS, token])


@pytest.mark.parametrize(("lower", "strip"), MODES)
def test_save_and_load(bert, tmp_path, lower, strip):
    saved = ConvBertTokenizer(BERT_VOCAB, lower, strip)
    saved.save_pretrained(tmp_path / "model", model_max_length=128)
    loaded = ConvBertTokenizer.from_pretrained(tmp_path / "model")
    assert (loaded.do_lower_case, loaded.strip_accents) == (lower, strip)
    assert loaded.vocab == bert.vocab and loaded.vocab_sha256 == bert.vocab_sha256
    texts = ["Ünïcode CAFÉ"]
    assert loaded.tokenize(texts).to_list() == saved.tokenize(texts).to_list()
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    special = "special_tokens_map.json"
    assert files == [special, "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert json.loads((tmp_path / "model/tokenizer_config.json").read_text()) == {
        "tokenizer_class": "ConvBertTokenizer",
        "do_lower_case": lower,
        "strip_accents": strip,
        "tokenize_chinese_chars": True,
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }


def test_from_pretrained_reads_hugging_faces_configurations(bert, tmp_path):
    write_vocab(tmp_path / "vocab.txt", bert.vocab)
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, True)

    def load(text):
        (tmp_path / "tokenizer_config.json").write_text(text)
        return ConvBertTokenizer.from_pretrained(tmp_path)

    tokenizer = load('{"do_lower_case": false, "strip_accents": null}')
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (False, False)
    for text, message in (
        ("{", "tokenizer_config.json: not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"do_lower_case": false, "strip_accents": true}', "strip_accents without do_lower_case"),
        ('{"tokenize_chinese_chars": false}', "tokenize_chinese_chars=false"),
        ('{"do_lower_case": "no"}', "do_lower_case must be true or false"),
    ):
        with pytest.raises(InputError, match=message):
            load(text)
    with pytest.raises(InputError, match=r"no such directory: .*nowhere"):
        ConvBertTokenizer.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty/vocab\.txt: No such file"):
        ConvBertTokenizer.from_pretrained(tmp_path / "empty")
