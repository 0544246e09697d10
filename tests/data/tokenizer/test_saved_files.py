import json

import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.tokenizer import saved_files
from data.tokenizer.tokenizer import SPECIAL_TOKENS

VOCAB = [*SPECIAL_TOKENS, *"abcé", "##b", "##é"]
TEXTS = ["Ab É cab", "a" + "b" * 120, "[MASK] a"]


@pytest.fixture
def saved(tmp_path):
    """A directory as this project writes it."""
    ConvBertTokenizer(VOCAB).save_pretrained(tmp_path)
    return tmp_path


def edit(path, **fields):
    """Sets fields of a JSON file, "a.b" inside the object "a"; None stays null."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, value in fields.items():
        part = content
        *parents, last = name.split("__")
        for parent in parents:
            part = part[parent]
        part[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("keep", ("all", "vocab.txt", "tokenizer.json"))
@pytest.mark.parametrize(("lower", "strip"), [(True, True), (True, False), (False, False)])
def test_options_and_ids_come_back(tmp_path, lower, strip, keep):
    options = {"clean_up_tokenization_spaces": True, "model_max_length": 77}
    tokenizer = ConvBertTokenizer(VOCAB, lower, strip, 100, **options)
    paths = tokenizer.save_pretrained(tmp_path)
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
    for name in {"vocab.txt", "tokenizer.json"} - {keep}:
        if keep != "all":
            (tmp_path / name).unlink()
    loaded = ConvBertTokenizer.from_pretrained(tmp_path)
    assert loaded.vocab == VOCAB and loaded.vocab_sha256 == tokenizer.vocab_sha256
    assert (loaded.do_lower_case, loaded.strip_accents) == (lower, strip)
    assert loaded.clean_up_tokenization_spaces is True and loaded.model_max_length == 77
    # vocab.txt alone cannot say it, and is read as the original does.
    assert loaded.max_word_length == (200 if keep == "vocab.txt" else 100)
    if keep != "vocab.txt":
        assert loaded.tokenize(TEXTS).to_list() == tokenizer.tokenize(TEXTS).to_list()
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded.save_pretrained(tmp_path / "again")
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    if keep == "all":
        assert again == written


def test_what_transformers_5_writes(saved):
    """tokenizer.json and tokenizer_config.json alone, with null where the case decides."""
    (saved / "vocab.txt").unlink()
    (saved / "special_tokens_map.json").unlink()
    edit(saved / "tokenizer.json", normalizer__strip_accents=None)
    edit(saved / "tokenizer.json", model__max_input_chars_per_word=100)
    edit(saved / "tokenizer_config.json", strip_accents=None, model_max_length=10**30)
    tokenizer = ConvBertTokenizer.from_pretrained(saved)
    assert (tokenizer.do_lower_case, tokenizer.strip_accents) == (True, True)
    assert tokenizer.tokenize(TEXTS).to_list()[1] == [tokenizer.unk_id]
    assert tokenizer.model_max_length == 512
    edit(saved / "tokenizer.json", normalizer__lowercase=False)
    (saved / "tokenizer_config.json").unlink()
    assert not ConvBertTokenizer.from_pretrained(saved).strip_accents
    assert saved_files.vocabulary_file(saved) == saved / "tokenizer.json"


def test_files_of_transformers_4(saved):
    (saved / "tokenizer.json").unlink()
    mask = {"content": "[MASK]", "lstrip": False, "__type": "AddedToken"}
    added = {str(VOCAB.index(token)): {"content": token} for token in SPECIAL_TOKENS}
    edit(
        saved / "tokenizer_config.json", mask_token=mask, added_tokens_decoder=added,
        tokenizer_class="ElectraTokenizerFast", never_split=None, do_basic_tokenize=True,
        additional_special_tokens=[], name_or_path="x", padding_side="right", add_bos_token=False,
    )  # fmt: skip
    edit(saved / "special_tokens_map.json", mask_token=mask)
    edit(saved / "added_tokens.json", **{"[MASK]": 4})
    tokenizer = ConvBertTokenizer.from_pretrained(saved)
    assert tokenizer.vocab == VOCAB and tokenizer.max_word_length == 200


def test_a_vocabulary_with_repeated_and_blank_lines(tmp_path):
    vocab = ["a", *SPECIAL_TOKENS, "", "a", "b", "", "##b"]
    ConvBertTokenizer(vocab).save_pretrained(tmp_path)
    assert ConvBertTokenizer.from_pretrained(tmp_path).vocab == vocab
    (tmp_path / "vocab.txt").unlink()
    tokenizer = ConvBertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab == ["", *vocab[1:]]
    assert tokenizer.tokenize(["abb"]).to_list() == [[7, 10, 10]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__type": "BPE"}, "model.type must be 'WordPiece' or None, not 'BPE'"),
        ({"model__unk_token": "<unk>"}, "model.unk_token must be"),
        ({"model__continuing_subword_prefix": "@@"}, "continuing_subword_prefix must be '##'"),
        ({"model__max_input_chars_per_word": 201}, "must be a number from 1 to 200, not 201"),
        ({"model__max_input_chars_per_word": None}, "max_input_chars_per_word must be"),
        ({"model__vocab": ["a"]}, "model.vocab must give each token its id"),
        ({"model__vocab": {"a": -1}}, "model.vocab must give each token its id"),
        ({"model__vocab": {"a": 0}}, r"model.vocab has no \[PAD\], \[UNK\]"),
        ({"normalizer": None}, "normalizer.type must be 'BertNormalizer', not None"),
        ({"normalizer__clean_text": False}, "normalizer.clean_text must be True, not False"),
        ({"normalizer__handle_chinese_chars": False}, "normalizer.handle_chinese_chars"),
        ({"normalizer__lowercase": 1}, "normalizer.lowercase must be"),
        ({"normalizer__lowercase": False}, "strip_accents must be false where lowercase is false"),
        ({"pre_tokenizer__type": "Whitespace"}, "pre_tokenizer.type must be 'BertPreTokenizer'"),
        ({"decoder__prefix": ""}, "decoder.prefix"),
        ({"padding": {"direction": "Left"}}, "padding.direction must be 'Right'"),
        ({"post_processor": None}, "post_processor must make"),
        ({"post_processor__single": []}, "post_processor must make"),
        ({"added_tokens": [{"id": 11, "content": "[NEW]"}]}, r"added_tokens has '\[NEW\]' with id"),
        ({"added_tokens": [{"id": 1, "content": "[PAD]"}]}, r"has '\[PAD\]' with id 1"),
        (
            {"added_tokens": [{"id": 4, "content": "[MASK]", "single_word": True}]},
            r"single_word of \[MASK\] must be false",
        ),
    ],
)
def test_other_tokenizers_are_refused(saved, fields, message):
    (saved / "vocab.txt").unlink()
    edit(saved / "tokenizer.json", **fields)
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{message}"):
        ConvBertTokenizer.from_pretrained(saved)


def test_an_older_post_processor(saved):
    older = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    edit(saved / "tokenizer.json", post_processor=older)
    assert ConvBertTokenizer.from_pretrained(saved).vocab == VOCAB


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("tokenizer_config", {"do_basic_tokenize": False}, "do_basic_tokenize=false is not"),
        ("tokenizer_config", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars=false"),
        ("tokenizer_config", {"never_split": ["ab"]}, r"never_split=\['ab'\] is not supported"),
        ("tokenizer_config", {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is"),
        ("tokenizer_config", {"padding_side": "left"}, 'padding_side must be "right"'),
        ("tokenizer_config", {"cls_token": "<s>"}, "cls_token is '<s>'"),
        ("tokenizer_config", {"cls_token": "[SEP]"}, r"cls_token is '\[SEP\]'"),
        ("tokenizer_config", {"eos_token": "</s>"}, "eos_token is '</s>'"),
        ("tokenizer_config", {"extra_special_tokens": ["<e>"]}, "extra_special_tokens is '<e>'"),
        ("special_tokens_map", {"additional_special_tokens": ["<e>"]}, "special_tokens is '<e>'"),
        ("special_tokens_map", {"mask_token": {"content": "<m>"}}, "mask_token is '<m>'"),
        (
            "tokenizer_config",
            {"added_tokens_decoder": {"11": {"content": "<e>"}}},
            "added_tokens_decoder has '<e>' with id 11",
        ),
        ("added_tokens", {"<e>": 11}, " has '<e>' with id 11"),
        ("added_tokens", {"[PAD]": 11}, r" has '\[PAD\]' with id 11"),
    ],
)
def test_options_that_cannot_be_are_named(saved, name, fields, message):
    edit(saved / f"{name}.json", **fields)
    with pytest.raises(InputError, match=rf"{name}\.json:?.*{message}"):
        ConvBertTokenizer.from_pretrained(saved)


def test_files_that_contradict_each_other(saved):
    edit(saved / "tokenizer_config.json", strip_accents=False)
    with pytest.raises(InputError, match=r"strip_accents is false in tokenizer_config.*says true"):
        ConvBertTokenizer.from_pretrained(saved)
    edit(saved / "tokenizer_config.json", strip_accents=True)
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
