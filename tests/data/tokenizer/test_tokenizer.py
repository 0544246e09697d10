import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one"}, r"write \[text\]"),
        ({"texts": ["a", 3]}, "at index 1: int"),
        ({"texts": ["a", None]}, "at index 1: NoneType"),
        ({"texts": None}, "`texts` must be .*: NoneType"),
        ({"texts": np.array("a")}, "`texts` must be .*: ndarray"),
        ({"texts": {"text": ["a"]}}, "`texts` must be .*: dict"),
        ({"texts": ["a", "b \ud83d"]}, "at index 1, character 2: half a surrogate pair"),
        ({"texts": ["a", "[SEP] \ud83d"], "parse_special_tokens": True}, "index 1, character 6"),
        ({"texts": ["a", "\udc00"], "return_offsets_mapping": True}, "index 1, character 0"),
        ({"texts": tf.constant([1.0])}, "float32"),
        ({"texts": tf.constant([["a"]])}, r"shape \(1, 1\)"),
        ({"texts": ["a"], "text_pairs": ["b", "c"]}, "1 `texts`, but 2 `text_pairs`"),
        ({"texts": ["a"], "max_length": 1}, "`max_length` .*Received: 1"),
        ({"texts": ["a"], "text_pairs": ["b"], "max_length": 2}, "`max_length` .*Received: 2"),
        ({"texts": ["a"], "padding": "max_length"}, "needs a `max_length`"),
        ({"texts": ["a"], "padding": "left"}, '`padding` .*Received: "left"'),
        ({"texts": ["a"], "truncation": "first"}, '`truncation` .*Received: "first"'),
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
    decoded = bert.batch_decode([[101, 1996], [102]], skip_special_tokens=False)
    assert decoded == ["[CLS] the", "[SEP]"]


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


def test_offsets_and_added_tokens_in_a_batch(bert):
    texts, pairs = ["Crème [MASK]", ""], ["x  [SEP]y", "z"]
    parsed = {"parse_special_tokens": True}
    extras = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    batch = bert(texts, pairs, 9, "max_length", **parsed, **extras)
    tokens = [bert.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    first = ["[CLS]", "cr", "##eme", "[MASK]", "[SEP]", "x", "[SEP]", "y", "[SEP]"]
    assert tokens == [first, ["[CLS]", "[SEP]", "z", "[SEP]", *["[PAD]"] * 5]]
    none = (0, 0)
    offsets = [
        [none, (0, 2), (2, 5), (6, 12), none, (0, 1), (3, 8), (8, 9), none],
        [none, none, (0, 1), *[none] * 6],
    ]
    assert [[tuple(pair) for pair in row] for row in batch["offset_mapping"]] == offsets
    mask = [[1, 0, 0, 0, 1, 0, 0, 0, 1], [1, 1, 0, 1, 1, 1, 1, 1, 1]]
    assert batch["special_tokens_mask"].tolist() == mask
    assert {array.dtype for array in batch.values()} == {np.dtype("int32")}
    plain = bert(texts, pairs, **parsed)
    assert list(plain) == ["input_ids", "input_mask", "segment_ids"]
    np.testing.assert_array_equal(plain["input_ids"], batch["input_ids"])
    cut = bert(texts, pairs, 5, return_offsets_mapping=True, **parsed)
    assert cut["offset_mapping"].tolist()[0] == [[0, 0], [0, 2], [0, 0], [0, 1], [0, 0]]
    assert bert([], **extras)["offset_mapping"].shape == (0, 0, 2)
    assert bert([], **extras)["special_tokens_mask"].shape == (0, 0)


def test_special_tokens_in_text_are_text_unless_parsed(bert):
    text = "[MASK][MASK] [mask] a[SEP]\u0301b [[PAD]]"
    tokens = bert.convert_ids_to_tokens(bert.encode(text, None, False, parse_special_tokens=True))
    parsed = ["[MASK]", "[MASK]", "[", "mask", "]", "a", "[SEP]", "b", "[", "[PAD]", "]"]
    assert tokens == parsed
    assert bert.encode(text, None, False) == bert.tokenize([text]).to_list()[0]
    assert bert.mask_id not in bert.encode(text)
