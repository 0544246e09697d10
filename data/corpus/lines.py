"""Chunks of bytes → lines → parts of documents."""

import itertools
from collections.abc import Iterable, Iterator

# A longer line (a book without line ends) is split at spaces.
MAX_LINE_BYTES = 1 << 20
# A longer document is read in parts of about this size.
MAX_PART_BYTES = 4 << 20

_BREAKS = (b" ", "。".encode(), "，".encode())


def is_blank(line: bytes) -> bool:
    """Whether a line holds only white space, including Unicode's."""
    line = line.strip()
    return not line or (line[0] >= 0x80 and not line.decode(errors="replace").strip())


def split_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields the stripped lines of a text with their offsets in bytes; blank lines are empty.

    A line over `MAX_LINE_BYTES` is split into pieces that are not empty.
    """
    offset, rest, is_split = 0, b"", False
    for chunk in itertools.chain(chunks, [b"\n"]):
        *lines, rest = (rest + chunk).split(b"\n")
        lines.append(rest)
        for index, line in enumerate(lines, start=1):
            while len(line) > MAX_LINE_BYTES:
                piece, line = _split_long_line(line)  # noqa: PLW2901
                if not is_blank(piece):
                    yield offset, piece.strip()
                offset, is_split = offset + len(piece), True
            if index == len(lines):
                rest = line  # the next chunk continues it
                break
            stripped = line.strip()
            if stripped or not is_split:
                yield offset, stripped
            offset, is_split = offset + len(line) + 1, False


def _split_long_line(line: bytes) -> tuple[bytes, bytes]:
    """Splits a long line in two: after a space if possible, otherwise between two characters."""
    for mark in _BREAKS:
        position = line.rfind(mark, 1, MAX_LINE_BYTES)
        if position > 0:
            end = position + len(mark)
            break
    else:
        end = MAX_LINE_BYTES
        while end > MAX_LINE_BYTES - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
    return line[:end], line[end:]


def group_lines(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Gathers the lines that are not empty into parts of about `MAX_PART_BYTES`."""
    part, size = [], 0
    for line in filter(None, lines):
        part.append(line)
        size += len(line)
        if size >= MAX_PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def split_text(text: bytes) -> Iterator[list[bytes]]:
    """Splits a text into lines, gathered as `group_lines` does."""
    if len(text) > MAX_LINE_BYTES:
        yield from group_lines(line for _, line in split_lines([text]))
    elif lines := [line for line in map(bytes.strip, text.split(b"\n")) if line]:
        yield lines
