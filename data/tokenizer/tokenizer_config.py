"""The options of a tokenizer in the files of Hugging Face: tokenizer_config.json and older ones.

special_tokens_map.json and added_tokens.json, of transformers 4 and older, are only checked: they
must describe what `ConvBertTokenizer` does anyway.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.fields import require, require_one_of
from common.files import read_json_object
from data.tokenizer.vocab_file import SPECIAL_TOKENS

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
MAX_JSON_BYTES = 256 << 20
# The names of the special tokens in these files: "cls_token" and so on.
SPECIAL_TOKEN_FIELDS = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}

_BOOLEANS = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "do_basic_tokenize",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
)
# Tokenizers that equal BERT's. Others may have other rules.
_CLASSES = ("Bert", "ConvBert", "DistilBert", "Electra")
_CLASS_NAMES = {
    *(f"{name}Tokenizer{ending}" for name in _CLASSES for ending in ("", "Fast")),
    *("PreTrainedTokenizerFast", "TokenizersBackend"),  # all is in tokenizer.json
}


def stated_options(path: Path) -> dict[str, bool]:
    """Returns do_lower_case and strip_accents, if the file exists and has them.

    Raises:
        InputError: the file is broken, or asks for something that `ConvBertTokenizer` cannot do.
    """
    config = read_json(path)
    for name in _BOOLEANS:
        value = config.get(name)
        require(isinstance(value, bool | None), name, "true or false", value, path)
    if config.get("strip_accents") and not config.get("do_lower_case", True):
        raise InputError(f"{path}: strip_accents without do_lower_case is not supported")
    for name in ("tokenize_chinese_chars", "do_basic_tokenize"):
        if config.get(name) is False:
            raise InputError(f"{path}: {name}=false is not supported")
    name = config.get("tokenizer_class")
    if name is not None:
        require_one_of("tokenizer_class", name, sorted(_CLASS_NAMES), path)
    for name in ("padding_side", "truncation_side"):
        value = config.get(name)
        require(value in (None, "right"), name, '"right"', value, path)
    unsplit = config.get("never_split") or []
    if not isinstance(unsplit, list) or not set(map(str, unsplit)).issubset(SPECIAL_TOKENS):
        raise InputError(f"{path}: never_split={unsplit!r} is not supported")
    check_special_tokens(path)
    options = {name: config.get(name) for name in ("do_lower_case", "strip_accents")}
    return {name: value for name, value in options.items() if value is not None}


def stated_max_length(path: Path) -> int | None:
    """Returns model_max_length, the most tokens that the model takes; None if it is not stated.

    Raises:
        InputError: the file is broken, or the value is not a whole number from 1.
    """
    length = read_json(path).get("model_max_length")
    is_number = isinstance(length, int | float) and not isinstance(length, bool)
    is_length = length is None or (is_number and length >= 1 and length == length // 1)
    require(is_length, "model_max_length", "a whole number, at least 1", length, path)
    # Hugging Face writes 10^30 where there is no limit.
    return None if length is None or length >= 10**9 else int(length)


def check_special_tokens(path: Path) -> None:
    """Checks the special tokens that tokenizer_config.json or special_tokens_map.json names.

    Raises:
        InputError: the file is broken, or one of the tokens is not BERT's.
    """
    for field, value in read_json(path).items():
        if field.endswith("_special_tokens") and isinstance(value, list | dict):
            tokens = value.values() if isinstance(value, dict) else value
        elif field.endswith("_token") and isinstance(value, str | dict):
            tokens = [value]
        else:
            continue
        for token in map(_content, tokens):
            if token != SPECIAL_TOKEN_FIELDS.get(field, token) or token not in SPECIAL_TOKENS:
                raise InputError(
                    f"{path}: {field} has {token!r}; this tokenizer's special tokens are "
                    f"{', '.join(SPECIAL_TOKENS)}. Others would be ordinary text here: if your "
                    "texts have none of them, remove them from the file"
                )


def check_added_tokens(directory: Path, vocab: list[str]) -> None:
    """Checks the tokens that tokenizer_config.json and added_tokens.json add to the vocabulary.

    Raises:
        InputError: a file is broken, or adds a token that is not a special token with its id.
    """
    ids = {token: str(index) for index, token in enumerate(vocab)}
    path = directory / CONFIG_FILE
    added = read_json(path).get("added_tokens_decoder") or {}
    require(isinstance(added, dict), "added_tokens_decoder", "an object", added, path)
    for index, token in added.items():
        check_added_token(f"{path}: added_tokens_decoder", _content(token), index, ids)
    path = directory / ADDED_TOKENS_FILE
    for token, index in read_json(path).items():
        check_added_token(path, token, str(index), ids)


def check_added_token(
    source: str | Path, token: Any, index: int | str, ids: Mapping[str, int | str]
) -> None:
    """Checks that `token` is a special token with its id in the vocabulary.

    Raises:
        InputError: it is not; `source` is the file, or the file and field, that has it.
    """
    if token not in SPECIAL_TOKENS or ids[token] != index:
        raise InputError(
            f"{source} has {token!r} with id {index}; only {', '.join(SPECIAL_TOKENS)} can be "
            "added, with their ids in the vocabulary. Others would be ordinary text here: if your "
            "texts have none of them, remove them from the file"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one if the file does not exist.

    Raises:
        InputError: the file contains anything else, or cannot be read.
    """
    return read_json_object(path, max_bytes=MAX_JSON_BYTES) if path.exists() else {}


def _content(token):
    """The text of a token, which may be an object with further properties."""
    return token.get("content") if isinstance(token, dict) else token
