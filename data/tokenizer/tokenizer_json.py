"""tokenizer.json: Hugging Face's `tokenizers` keeps a whole tokenizer in this file.

Of the many tokenizers that such a file can describe, `ConvBertTokenizer` is one: BERT's.
"""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.fields import require
from data.tokenizer.tokenizer_config import check_added_token, read_json
from data.tokenizer.vocab_file import MAX_WORD_LENGTH, SPECIAL_TOKENS, check_tokens

JSON_FILE = "tokenizer.json"
# The allowed values of each field. None: it, or the object around it, may be missing or null.
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


def read(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Reads a tokenizer.json: its vocabulary, and its options by `ConvBertTokenizer`'s names.

    An id has the token "" if it has none in the file, for example after a repeated token.

    Raises:
        InputError: the file is broken, or describes a tokenizer that is not BERT's.
    """
    content = read_json(path)
    for field, allowed in _ALLOWED.items():
        value = _field(content, field)
        # 1 equals True, but is not a boolean in JSON.
        is_allowed = any(value is one or (value == one and isinstance(one, str)) for one in allowed)
        require(is_allowed, field, " or ".join(map(json.dumps, allowed)), value, path)
    lower = _field(content, "normalizer.lowercase")
    strip = _field(content, "normalizer.strip_accents")
    expected = "false where normalizer.lowercase is false"
    require(lower or not strip, "normalizer.strip_accents", expected, strip, path)
    field = "model.max_input_chars_per_word"
    length = _field(content, field)
    is_length = type(length) is int and 1 <= length <= MAX_WORD_LENGTH
    require(is_length, field, f"a number from 1 to {MAX_WORD_LENGTH}", length, path)
    ids = _field(content, "model.vocab")
    _check_ids(path, ids)
    vocab = [""] * (max(ids.values(), default=0) + 1)
    for token, index in ids.items():
        vocab[index] = token
    check_tokens(vocab, f"{path}: model.vocab")
    added = content.get("added_tokens") or []
    require(isinstance(added, list), "added_tokens", "a list", added, path)
    for token in added:
        _check_added_token(path, token, ids)
    _check_post_processor(path, content.get("post_processor"), ids)
    strip = lower if strip is None else strip
    return vocab, {"do_lower_case": lower, "strip_accents": strip, "max_word_length": length}


def describe(vocab: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a tokenizer.json, as transformers 5 would write it; see `read`."""
    ids = {token: index for index, token in enumerate(vocab)}
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
            "strip_accents": options["strip_accents"],
            "lowercase": options["do_lower_case"],
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(ids),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": options["max_word_length"],
            "vocab": ids,
        },
    }


def _template(ids):
    """The post-processor that makes [CLS] a [SEP] or [CLS] a [SEP] b [SEP]."""

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
    # Repeated tokens leave gaps, but one large number must not cost memory.
    highest = 100 + 10 * len(ids) if is_fine else 0
    if not is_fine or not all(0 <= index <= highest for index in ids.values()):
        raise InputError(f"{path}: model.vocab must give each token its id, a number from 0")
    if len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: model.vocab has two tokens with the same id")


def _check_added_token(path, token, ids):
    name, index = _field(token, "content"), _field(token, "id")
    check_added_token(f"{path}: added_tokens", name, index, ids)
    for flag in ("single_word", "normalized"):
        require(not token.get(flag), f"added_tokens: {flag} of {name}", "false", True, path)


def _check_post_processor(path, found, ids):
    # The older of the two forms has just the tokens and their ids.
    pairs = {name: [token, ids[token]] for name, token in (("sep", "[SEP]"), ("cls", "[CLS]"))}
    if found not in (_template(ids), {"type": "BertProcessing"} | pairs):
        raise InputError(
            f"{path}: post_processor must make [CLS] a [SEP] of a text and [CLS] a [SEP] b [SEP] "
            f"of a pair, with segment 1 from b on, not {found!r:.200}"
        )


def _field(content, name):
    """Looks up a dotted name in nested objects; None if it is missing."""
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
