"""Reading vocab.txt, and checking the tokens of a vocabulary."""

import os
from collections.abc import Sequence

from absl import logging

from common.errors import InputError
from common.files import read_small_text

VOCAB_FILE = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]
MAX_TOKEN_BYTES = 256  # tensorflow-text's limit
MAX_FILE_BYTES = 64 << 20


def load_vocabulary(vocab_file: str | os.PathLike) -> list[str]:
    """Reads a vocabulary, a UTF-8 text file with one token a line; returns the tokens in id order.

    The id of a token is the number of its line, from 0. Lines are stripped, as in the original, and
    blank ones count, except at the end of the file. The last line of a repeated token gives its id.
    A warning is logged about unusual lines.

    Raises:
        InputError: the file cannot be read, is not text with one token a line, or lacks a special
            token.
    """
    text = read_small_text(vocab_file, MAX_FILE_BYTES)
    lines = (text if "\n" in text else text.replace("\r", "\n")).removesuffix("\n").split("\n")
    length = len(lines)
    while lines and not lines[-1].strip("\r"):
        lines.pop()
    tokens = [line.strip() for line in lines]
    for number, token in enumerate(tokens, start=1):
        if len(token.encode()) > MAX_TOKEN_BYTES:
            raise InputError(
                f"{vocab_file}, line {number}: a token of over {MAX_TOKEN_BYTES} bytes "
                f"({token!r:.80}); a vocabulary is a text file with one token a line"
            )
    check_tokens(tokens, vocab_file)
    crlf = sum(line.endswith("\r") for line in lines)
    repeated = len(tokens) - len(set(tokens))
    if crlf or repeated or length > len(lines):
        logging.warning(
            "%s: %d of %d lines end in CRLF (read as LF), %d lines repeat a token (the last wins), "
            "%d blank lines at the end are left out",
            vocab_file,
            crlf,
            len(tokens),
            repeated,
            length - len(lines),
        )
    return tokens


def check_tokens(tokens: Sequence[str], source: str | os.PathLike) -> None:
    """Checks that a vocabulary has all special tokens, and that each token can be in a file.

    Raises:
        InputError: a special token is missing, or a token is too long, has a line break, or is no
            text; `source` is where the vocabulary is.
    """
    for index, token in enumerate(tokens):
        if not _is_line(token):
            raise InputError(
                f"{source}: token {index} must be a line of at most {MAX_TOKEN_BYTES} bytes of "
                f"UTF-8, not {token!r:.80}"
            )
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise InputError(
            f"{source} has no {', '.join(missing)} among its {len(tokens)} tokens; a BERT "
            f"vocabulary has one token a line, {', '.join(SPECIAL_TOKENS)} among them"
        )


def warn_of_capitals(tokens: Sequence[str]) -> None:
    """Warns if a vocabulary for lower-cased text looks cased."""
    capitals = sum(token != token.lower() and token[:1] != "[" for token in tokens)
    if capitals > len(tokens) // 100:
        logging.warning(
            "%d of %d tokens have capital letters, which lower-cased text never has. If the "
            'vocabulary is cased, say so: "do_lower_case": false in tokenizer_config.json beside '
            "it, or --cased for build_data.sh",
            capitals,
            len(tokens),
        )


def _is_line(token):
    try:
        return "\n" not in token and len(token.encode()) <= MAX_TOKEN_BYTES
    except (AttributeError, TypeError, UnicodeEncodeError):  # no string; half a surrogate pair
        return False
