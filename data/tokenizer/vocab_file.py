"""The file of a vocabulary, and what every vocabulary must have."""

import os
from collections.abc import Sequence

from absl import logging

from common.errors import InputError

VOCAB_FILE = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]
MAX_TOKEN_BYTES = 256  # tensorflow-text's limit


def load_vocabulary(vocab_file: str | os.PathLike) -> list[str]:
    """Reads a vocabulary: one token a line, its id the line's number from 0.

    Lines are stripped, as the original does; blank ones keep their number. Where a token is
    repeated, the last line gives its id, and a warning says so.

    Args:
        vocab_file: path of a UTF-8 text file.

    Returns:
        list of the V tokens, in the order of their ids.

    Raises:
        InputError: there is no such file, it is not UTF-8 text with a token a line, or a special
            token is missing.
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
        InputError: it is not so; `source` says where the vocabulary is from.
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
