import functools
import json
import operator
import re

import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.tokenizer import saved_files
from data.tokenizer.vocab_file import SPECIAL_TOKENS

VOCAB = [*SPECIAL_TOKENS, *"abcé", "##b", "##é"]
IDS = {token: index for index, token in enumerate(VOCAB)}
TEXTS = ["Ab É cab", "a" + "b" * 120, "[MASK] a"]


@pytest.fixture
def saved(tmp_path):
    """A directory as this project writes it."""
    ConvBertTokenizer(VOCAB).save_pretrained(tmp_path)
    return tmp_path


def edit(path, **fields):
    """Sets fields of a JSON file; "a.b" is field "b" of the object "a"."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        functools.reduce(operator.getitem, parents, content)[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("missing", (None, "vocab.txt", "tokenizer.json"))
@pytest.mark.parametrize(("lower", "strip"), [(True, True), (True, False), (False, False)])
def test_options_and_ids_come_back(tmp_path, lower, strip, missing):
    options = {"clean_up_tokenization_spaces": True, "model_max_length": 77}
    tokenizer = ConvBertTokenizer(VOCAB, lower, strip, 100, **options)
    paths = tokenizer.save_pretrained(tmp_path)
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if missing:
        (tmp_path / missing).unlink()
    loaded = ConvBertTokenizer.from_pretrained(tmp_path)
    assert loaded.vocab == VOCAB and loaded.vocab_sha256 == tokenizer.vocab_sha256
    assert (loaded.do_lower_case, loaded.strip_accents) == (lower, strip)
    assert loaded.clean_up_tokenization_spaces is True and loaded.model_max_length == 77
    # vocab.txt alone does not record the limit, and is read as in the original.
    assert loaded.max_word_length == (200 if missing == "tokenizer.json" else 100)
    if missing != "tokenizer.json":
        assert loaded.tokenize(TEXTS).to_list() == tokenizer.tokenize(TEXTS).to_list()
        loaded.save_pretrained(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_the_configuration(tmp_path):
    ConvBertTokenizer(VOCAB, True, False).save_pretrained(tmp_path, model_max_length=128)
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    special = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == special
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == special | {
        "tokenizer_class": "ConvBertTokenizer",
        "do_lower_case": True,
        "strip_accents": False,
        "tokenize_chinese_chars": True,
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
    }


def test_what_transformers_5_writes(saved):
    """tokenizer.json and tokenizer_config.json alone, with null where the case decides."""
    (saved / "vocab.txt").unlink()
    (saved / "special_tokens_map.json").unlink()
    fields = {"normalizer.strip_accents": None, "model.max_input_chars_per_word": 100}
    edit(saved / "tokenizer.json", **fields)
    edit(saved / "tokenizer_config.json", strip_accents=None, model_max_length=10**30)
    tokenizer = ConvBertTokenizer.from_pretrained(saved)
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, True)
    assert tokenizer.tokenize(TEXTS).to_list()[1] == [tokenizer.unk_id]
    assert tokenizer.model_max_length == 512
    edit(saved / "tokenizer.json", **{"normalizer.lowercase": False})
    (saved / "tokenizer_config.json").unlink()
    assert not ConvBertTokenizer.from_pretrained(saved).strip_accents
    assert saved_files.vocabulary_file(saved) == saved / "tokenizer.json"


def test_files_of_transformers_4(saved):
    (saved / "tokenizer.json").unlink()
    mask = {"content": "[MASK]", "lstrip": False, "__type": "AddedToken"}
    config = {
        "mask_token": mask,
        "added_tokens_decoder": {str(IDS[token]): {"content": token} for token in SPECIAL_TOKENS},
        "tokenizer_class": "ElectraTokenizerFast",
        "never_split": None,
        "do_basic_tokenize": True,
        "additional_special_tokens": [],
        "name_or_path": "x",
        "padding_side": "right",
        "add_bos_token": False,
    }
    edit(saved / "tokenizer_config.json", **config)
    edit(saved / "special_tokens_map.json", mask_token=mask)
    edit(saved / "added_tokens.json", **{"[MASK]": 4})
    tokenizer = ConvBertTokenizer.from_pretrained(saved)
    assert tokenizer.vocab == VOCAB and tokenizer.max_word_length == 200


def test_a_vocabulary_alone_is_bert_uncased(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, True)
    edit(tmp_path / "tokenizer_config.json", model_max_length=77.0)
    assert ConvBertTokenizer.from_pretrained(tmp_path).model_max_length == 77
    edit(tmp_path / "tokenizer_config.json", do_lower_case=False, strip_accents=None)
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (False, False)


def test_a_vocabulary_with_repeated_and_blank_lines(tmp_path):
    vocab = ["a", *SPECIAL_TOKENS, "", "a", "b", "", "##b"]
    ConvBertTokenizer(vocab).save_pretrained(tmp_path)
    assert ConvBertTokenizer.from_pretrained(tmp_path).vocab == vocab
    (tmp_path / "vocab.txt").unlink()
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab == ["", *vocab[1:]]
    assert tokenizer.tokenize(["abb"]).to_list() == [[7, 10, 10]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.type", "BPE"),
        ("model.unk_token", "<unk>"),
        ("model.continuing_subword_prefix", "@@"),
        ("model.max_input_chars_per_word", 201),
        ("model.max_input_chars_per_word", None),
        ("model.vocab", ["a"]),
        ("model.vocab", IDS | {"a": -1}),
        ("model.vocab", {"a": 0}),
        ("model.vocab", {}),
        ("model.vocab", IDS | {"a": 10**7}),
        ("model.vocab", IDS | {"a": IDS["b"]}),
        ("model.vocab", IDS | {"\ud83d": len(IDS)}),
        ("normalizer", None),
        ("normalizer.clean_text", False),
        ("normalizer.handle_chinese_chars", False),
        ("normalizer.lowercase", 1),
        ("normalizer.lowercase", False),  # while accents are stripped
        ("pre_tokenizer.type", "Whitespace"),
        ("decoder.prefix", ""),
        ("padding", {"direction": "Left"}),
        ("post_processor", None),
        ("post_processor", {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 3]}),
        ("added_tokens", 5),
        ("added_tokens", [5]),
        ("added_tokens", {"content": "[PAD]", "id": 0}),
        ("added_tokens", [{"id": 11, "content": "[NEW]"}]),
        ("added_tokens", [{"id": 1, "content": "[PAD]"}]),
        ("added_tokens", [{"id": 4, "content": "[MASK]", "single_word": True}]),
    ],
)
def test_other_tokenizers_are_refused(saved, field, value):
    (saved / "vocab.txt").unlink()
    edit(saved / "tokenizer.json", **{field: value})
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{re.escape(field)}"):
        ConvBertTokenizer.from_pretrained(saved)


def test_an_older_post_processor(saved):
    older = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    edit(saved / "tokenizer.json", post_processor=older)
    assert ConvBertTokenizer.from_pretrained(saved).vocab == VOCAB


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tokenizer_config", "do_lower_case", "no"),
        ("tokenizer_config", "do_basic_tokenize", False),
        ("tokenizer_config", "tokenize_chinese_chars", False),
        ("tokenizer_config", "never_split", ["ab"]),
        ("tokenizer_config", "tokenizer_class", "BertJapaneseTokenizer"),
        ("tokenizer_config", "padding_side", "left"),
        ("tokenizer_config", "cls_token", "<s>"),
        ("tokenizer_config", "cls_token", "[SEP]"),
        ("tokenizer_config", "eos_token", "</s>"),
        ("tokenizer_config", "extra_special_tokens", ["<e>"]),
        ("special_tokens_map", "additional_special_tokens", ["<e>"]),
        ("special_tokens_map", "mask_token", {"content": "<m>"}),
        ("tokenizer_config", "added_tokens_decoder", {"11": {"content": "<e>"}}),
        ("tokenizer_config", "added_tokens_decoder", [1]),
        *(("tokenizer_config", "model_max_length", value) for value in ("512", 0, -1, 12.5, True)),
        ("tokenizer_config", "added_tokens_decoder", {"5": [1]}),
        ("tokenizer_config", "additional_special_tokens", [["<e>"]]),
        ("added_tokens", "<e>", 11),
        ("added_tokens", "[PAD]", 11),
    ],
)
def test_options_that_cannot_be_are_named(saved, name, field, value):
    edit(saved / f"{name}.json", **{field: value})
    with pytest.raises(InputError, match=rf"/{name}\.json.*{re.escape(field)}"):
        ConvBertTokenizer.from_pretrained(saved)


def test_files_that_contradict_each_other(saved):
    edit(saved / "tokenizer_config.json", strip_accents=False)
    with pytest.raises(InputError, match=r"strip_accents is false in tokenizer_config.*says true"):
        ConvBertTokenizer.from_pretrained(saved)
    edit(saved / "tokenizer_config.json", do_lower_case=False, strip_accents=True)
    with pytest.raises(InputError, match=r"tokenizer_config\.json: strip_accents without"):
        ConvBertTokenizer.from_pretrained(saved)
    edit(saved / "tokenizer_config.json", do_lower_case=True)
    (saved / "vocab.txt").write_text("\n".join(VOCAB).replace("c\n", "d\n"))
    with pytest.raises(InputError, match=r"different vocabularies.* id of 'd': 7 and None"):
        ConvBertTokenizer.from_pretrained(saved)


def test_a_vocabulary_alone_is_written_by_name(tmp_path):
    tokenizer = ConvBertTokenizer(VOCAB)
    assert tokenizer.save_vocabulary(tmp_path) == (str(tmp_path / "vocab.txt"),)
    assert tokenizer.save_vocabulary(tmp_path, "my") == (str(tmp_path / "my-vocab.txt"),)
    assert (tmp_path / "my-vocab.txt").read_text() == "\n".join(VOCAB) + "\n"
    assert ConvBertTokenizer(tmp_path / "vocab.txt").vocab == VOCAB
    with pytest.raises(InputError, match="nowhere is not a directory"):
        tokenizer.save_vocabulary(tmp_path / "nowhere")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match=r"no such directory: .*nowhere"):
        ConvBertTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no such file: .*/vocab\.txt"):
        ConvBertTokenizer.from_pretrained(tmp_path)
    names = ("tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens")
    for path in (tmp_path / f"{name}.json" for name in names):
        ConvBertTokenizer(VOCAB).save_pretrained(tmp_path)
        for content in (b"{", b"[1]", b"[" * 100_000, b"{\xff}"):
            path.write_bytes(content)
            with pytest.raises(InputError, match=path.name):
                ConvBertTokenizer.from_pretrained(tmp_path)
        path.unlink()


def test_files_with_a_byte_order_mark(saved):
    expected = ConvBertTokenizer.from_pretrained(saved).vocab
    for encoding in ("utf-8-sig", "utf-16"):
        for path in saved.iterdir():
            text = json.dumps(json.loads(path.read_bytes())) if path.suffix == ".json" else None
            text = text or "\n".join(VOCAB)
            path.write_bytes(text.encode(encoding))
        assert ConvBertTokenizer.from_pretrained(saved).vocab == expected
