"""Reading vocab.txt, and checking the tokens of a vocabulary."""

import os
from collections.abc import Sequence

from absl import logging

from common.errors import InputError

VOCAB_FILE = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]
MAX_TOKEN_BYTES = 256  # tensorflow-text's limit


def load_vocabulary(vocab_file: str | os.PathLike) -> list[str]:
    """Reads a vocabulary, a UTF-8 text file with one token a line; returns the tokens in id order.

    The id of a token is the number of its line, from 0. Lines are stripped, as in the original, and
    blank ones count. The last line of a repeated token gives its id; a warning is logged.

    Raises:
        InputError: the file cannot be read, is not UTF-8 text with one token a line, or lacks a
            special token.
    """
    try:
        with open(vocab_file, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the vocabulary {vocab_file}: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()
    tokens = []
    for number, line in enumerate(lines, start=1):
        try:
            tokens.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{vocab_file}, line {number}: not UTF-8 ({line!r:.80}); a vocabulary is a UTF-8 "
                "text file with one token a line"
            ) from error
        if len(tokens[-1].encode()) > MAX_TOKEN_BYTES:
            raise InputError(
                f"{vocab_file}, line {number}: a token of over {MAX_TOKEN_BYTES} bytes "
                f"({tokens[-1]!r:.80}); a vocabulary is a text file with one token a line"
            )
    check_tokens(tokens, vocab_file)
    crlf = sum(line.endswith(b"\r") for line in lines)
    repeated = len(tokens) - len(set(tokens))
    if crlf or repeated:
        logging.warning(
            "%s: %d of %d lines end in CRLF (read as LF), %d lines repeat a token (the last wins)",
            vocab_file,
            crlf,
            len(tokens),
            repeated,
        )
    return tokens


def check_tokens(tokens: Sequence[str], source: str | os.PathLike) -> None:
    """Checks that a vocabulary has all special tokens, and no token that is too long.

    Raises:
        InputError: a token is missing or too long; `source` says where the vocabulary is from.
    """
    for index, token in enumerate(tokens):
        is_line = isinstance(token, str) and "\n" not in token
        if not is_line or len(token.encode()) > MAX_TOKEN_BYTES:
            raise InputError(
                f"{source}: token {index} must be a line of at most {MAX_TOKEN_BYTES} bytes, "
                f"not {token!r:.80}"
            )
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise InputError(
            f"{source} has no {', '.join(missing)} among its {len(tokens)} tokens; a BERT "
            f"vocabulary has one token a line, {', '.join(SPECIAL_TOKENS)} among them"
        )
