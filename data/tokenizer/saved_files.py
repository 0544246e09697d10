"""Reading and writing the files of a saved tokenizer, this project's or Hugging Face's."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from common import files
from common.errors import InputError
from common.remote import as_path
from data.tokenizer import tokenizer_json
from data.tokenizer.tokenizer_config import (
    CONFIG_FILE,
    SPECIAL_TOKEN_FIELDS,
    SPECIAL_TOKENS_FILE,
    check_added_tokens,
    check_special_tokens,
    read_json,
    stated_max_length,
    stated_options,
)
from data.tokenizer.tokenizer_json import JSON_FILE
from data.tokenizer.vocab_file import VOCAB_FILE, load_vocabulary


class Saved(NamedTuple):
    """A tokenizer's vocabulary, and its options under the names of `ConvBertTokenizer`."""

    vocab: list[str]
    options: dict[str, Any]


def vocabulary_file(directory: str | os.PathLike) -> Path:
    """The file in a directory that holds the vocabulary: vocab.txt, or else tokenizer.json."""
    vocab_file, json_file = Path(directory) / VOCAB_FILE, Path(directory) / JSON_FILE
    return json_file if json_file.exists() and not vocab_file.exists() else vocab_file


def check_vocab_size(directory: str | os.PathLike, num_tokens: int, vocab_size: int) -> None:
    """Raises an `InputError` if a vocabulary has more tokens than its model's `vocab_size`."""
    if num_tokens > vocab_size:
        raise InputError(
            f"{vocabulary_file(directory)} has {num_tokens} tokens, but the model's `vocab_size` "
            f"is {vocab_size}: it is not this model's vocabulary. Put the model's own there"
        )


def read(directory: str | os.PathLike) -> Saved:
    """Reads vocab.txt or tokenizer.json, and the files that say how text is treated.

    Raises:
        InputError: a file is missing or broken, contradicts another, or asks for something
            that `ConvBertTokenizer` cannot do.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory with a {VOCAB_FILE} or a {JSON_FILE}")
    options = stated_options(directory / CONFIG_FILE)
    check_special_tokens(directory / SPECIAL_TOKENS_FILE)
    found = directory / JSON_FILE
    if found.exists():
        vocab, described = tokenizer_json.read(found)
        if (directory / VOCAB_FILE).exists():
            vocab = _same_vocabulary(directory, vocab)
        _check_agreement(directory, options, described)
        options = described
    else:
        vocab = load_vocabulary(directory / VOCAB_FILE)
        options.setdefault("strip_accents", options.get("do_lower_case", True))  # as transformers
    check_added_tokens(directory, vocab)
    config = read_json(directory / CONFIG_FILE)
    options["clean_up_tokenization_spaces"] = bool(config.get("clean_up_tokenization_spaces"))
    length = stated_max_length(directory / CONFIG_FILE)
    return Saved(vocab, options if length is None else options | {"model_max_length": length})


def write_vocabulary(path: str | os.PathLike, vocab: list[str]) -> None:
    """Writes a vocabulary as `load_vocabulary` reads it."""
    files.write_text(path, "".join(token + "\n" for token in vocab))


def write(directory: str | os.PathLike, saved: Saved) -> tuple[str, ...]:
    """Writes the files for this project and transformers 4 and 5; returns their paths.

    `saved` has all options of `ConvBertTokenizer`. The directory is created if it is missing.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "ConvBertTokenizer",
        **saved.options,
        "tokenize_chinese_chars": True,
        **SPECIAL_TOKEN_FIELDS,
    }
    del config["max_word_length"]  # transformers has it in tokenizer.json only
    for name, content in (
        (SPECIAL_TOKENS_FILE, SPECIAL_TOKEN_FIELDS),
        (CONFIG_FILE, config),
        (JSON_FILE, tokenizer_json.describe(*saved)),
    ):
        files.write_json(directory / name, content, ensure_ascii=False)
    write_vocabulary(directory / VOCAB_FILE, saved.vocab)  # last: then all are there
    names = (CONFIG_FILE, SPECIAL_TOKENS_FILE, VOCAB_FILE, JSON_FILE)
    return tuple(str(directory / name) for name in names)


def _same_vocabulary(directory, described):
    """Returns the tokens of vocab.txt, which must have the ids of tokenizer.json."""
    vocab = load_vocabulary(directory / VOCAB_FILE)
    # Lines of vocab.txt are stripped.
    theirs = {token.strip(): index for index, token in enumerate(described) if token.strip()}
    ours = {token: index for index, token in enumerate(vocab) if token}
    if theirs != ours:
        tokens = [token for token in ours | theirs if ours.get(token) != theirs.get(token)]
        token = min(tokens, key=lambda token: min(ours.get(token, 1e9), theirs.get(token, 1e9)))
        raise InputError(
            f"{directory}: {VOCAB_FILE} ({len(vocab)} tokens) and {JSON_FILE} ({len(described)}) "
            f"have different vocabularies; the first difference is the id of {token!r}: "
            f"{ours.get(token)} and {theirs.get(token)}. Remove the file that is not the model's"
        )
    return vocab


def _check_agreement(directory, stated, described):
    for name, value in stated.items():
        if value != described[name]:
            raise InputError(
                f"{directory}: {name} is {json.dumps(value)} in {CONFIG_FILE}, but the normalizer "
                f"in {JSON_FILE} says {json.dumps(described[name])}. Correct the one that is wrong"
            )
