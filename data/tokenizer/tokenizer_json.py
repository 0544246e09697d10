"""tokenizer.json, the file in which Hugging Face's `tokenizers` keeps all of a tokenizer.

Of the many tokenizers that such a file can describe, `ConvBertTokenizer` is one: BERT's.
"""

from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from data.tokenizer.tokenizer_config import read_json
from data.tokenizer.vocab_file import MAX_WORD_LENGTH, SPECIAL_TOKENS

JSON_FILE = "tokenizer.json"
# What each field may be. None: the field, or what it is part of, may be missing or null.
_ALLOWED = {
    "model.type": ("WordPiece", None),
    "model.unk_token": ("[UNK]",),
    "model.continuing_subword_prefix": ("##",),
    "normalizer.type": ("BertNormalizer",),
    "normalizer.clean_text": (True,),
    "normalizer.handle_chinese_chars": (True,),
    "normalizer.strip_accents": (True, False, None),
    "normalizer.lowercase": (True, False),
    "pre_tokenizer.type": ("BertPreTokenizer",),
    "decoder.type": ("WordPiece", None),
    "decoder.prefix": ("##", None),
    "decoder.cleanup": (True, None),
    "padding.direction": ("Right", None),
    "truncation.direction": ("Right", None),
}


class Description(NamedTuple):
    """What a tokenizer.json says; the names are those of `ConvBertTokenizer`'s arguments."""

    vocab: list[str]
    do_lower_case: bool
    strip_accents: bool
    max_word_length: int


def read(path: Path) -> Description:
    """Reads a tokenizer.json.

    An id that no token has, as where a vocabulary repeats a token, becomes "".

    Raises:
        InputError: the file is broken, or describes a tokenizer that is not BERT's.
    """
    content = read_json(path)
    for field, allowed in _ALLOWED.items():
        value = _field(content, field)
        # JSON's numbers are no substitute for true and false.
        if not any(value is one or (value == one and isinstance(one, str)) for one in allowed):
            raise _wrong(path, field, value, " or ".join(map(repr, allowed)))
    lower, strip = (
        _field(content, f"normalizer.{name}") for name in ("lowercase", "strip_accents")
    )
    if strip and not lower:
        raise _wrong(path, "normalizer.strip_accents", strip, "false where lowercase is false")
    length = _field(content, "model.max_input_chars_per_word")
    if type(length) is not int or not 1 <= length <= MAX_WORD_LENGTH:
        expected = f"a number from 1 to {MAX_WORD_LENGTH}"
        raise _wrong(path, "model.max_input_chars_per_word", length, expected)
    ids = _field(content, "model.vocab")
    _check_ids(path, ids)
    vocab = [""] * (max(ids.values()) + 1)
    for token, index in ids.items():
        vocab[index] = token
    _check_added_tokens(path, content.get("added_tokens") or [], ids)
    _check_post_processor(path, content.get("post_processor"), ids)
    return Description(vocab, lower, lower if strip is None else strip, length)


def describe(ids: dict[str, int], description: Description) -> dict[str, Any]:
    """Returns the content of a tokenizer.json, as transformers 5 would write it.

    Args:
        ids: of the tokens; where the vocabulary repeats one, its last.
        description: the tokenizer.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in sorted(SPECIAL_TOKENS, key=ids.get)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": description.strip_accents,
            "lowercase": description.do_lower_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(ids),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": description.max_word_length,
            "vocab": ids,
        },
    }


def _template(ids):
    """Says that a text becomes [CLS] a [SEP], and a pair [CLS] a [SEP] b [SEP]."""

    def part(kind, name, segment):
        return {kind: {"id": name, "type_id": segment}}

    single = [
        part("SpecialToken", "[CLS]", 0),
        part("Sequence", "A", 0),
        part("SpecialToken", "[SEP]", 0),
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("Sequence", "B", 1), part("SpecialToken", "[SEP]", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]}
            for token in ("[CLS]", "[SEP]")
        },
    }


def _check_ids(path, ids):
    is_fine = isinstance(ids, dict) and all(type(index) is int for index in ids.values())
    if not is_fine or min(ids.values(), default=0) < 0 or max(ids.values(), default=0) > 10**7:
        raise InputError(f"{path}: model.vocab must give each token its id, a number from 0")
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"{path}: model.vocab has no {', '.join(missing)}")


def _check_added_tokens(path, added, ids):
    for token in added:
        name, index = _field(token, "content"), _field(token, "id")
        if name not in SPECIAL_TOKENS or ids[name] != index:
            raise InputError(
                f"{path}: added_tokens has {name!r} with id {index}; no tokens but "
                f"{', '.join(SPECIAL_TOKENS)} can be added, with their ids in model.vocab"
            )
        for flag in ("single_word", "normalized"):
            if token.get(flag):
                raise _wrong(path, f"added_tokens: {flag} of {name}", True, "false")


def _check_post_processor(path, found, ids):
    """The older of the two forms says the same with two pairs of token and id."""
    pairs = {name: [token, ids[token]] for name, token in (("sep", "[SEP]"), ("cls", "[CLS]"))}
    if found not in (_template(ids), {"type": "BertProcessing"} | pairs):
        raise InputError(
            f"{path}: post_processor must make [CLS] a [SEP] of a text and [CLS] a [SEP] b [SEP] "
            f"of a pair, with segment 1 from b on, not {found!r:.200}"
        )


def _field(content, name):
    """The field of nested objects that a dotted name means; None where there is none."""
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _wrong(path, field, value, expected):
    return InputError(f"{path}: {field} must be {expected}, not {value!r}")
