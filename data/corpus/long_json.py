"""The text of a JSON object that is too large to be parsed in one piece.

Parsing takes up to twelve times the object's size, and a document may be a whole archive. Here its
text goes by a chunk at a time; of the rest of the object only the skeleton is kept, and parsed at
the end, so that the same objects are found to be no JSON as by `json.loads`.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator

# No field's name is longer; of other strings, so much is kept at least.
_MAX_KEY_BYTES = 1 << 16

_OUTSIDE = re.compile(rb'[^"{}\[\]:,]*+')
# Whole characters of a string: neither an escape sequence nor a surrogate pair of two is cut.
_INSIDE = re.compile(
    rb"""(?: [^"\\]++ | \\[^u] | \\u(?![dD][89abAB])[0-9A-Fa-f]{4}
    | \\u[dD][89abAB][0-9A-Fa-f]{2}
      (?: \\u[dD][c-fC-F][0-9A-Fa-f]{2} | (?= [^\\] | \\[^u] | \\u[^dD] | \\u[dD][^c-fC-F] ) )
    )*+""",
    re.VERBOSE,
)
_PAIR_BYTES = 12


def long_text(chunks: Iterable[bytes], field: str, max_skeleton_bytes: int) -> Iterator[bytes]:
    """Yields the string in a field of a JSON object, in pieces; the first may be empty.

    Args:
        chunks: the object, UTF-8; bytes that are not come through as they are.
        field: its name; where it occurs twice, the first.
        max_skeleton_bytes: most that may be there apart from strings.

    Raises:
        ValueError: it is no JSON, which shows at the latest after the last piece.
        LookupError: the object holds no such field, or no string in it.
        OverflowError: the skeleton is too large.
    """
    reader = _Reader(chunks)
    skeleton, depth, key, is_found = bytearray(), 0, None, False
    is_value = False  # of a field of the object itself
    while not reader.at_end:
        skeleton += reader.match(_OUTSIDE)
        mark = reader.take()
        if mark == b'"':
            pieces = _decoded(reader.string())
            if depth == 1 and is_value and key == field and not is_found:
                is_found = True
                yield from pieces
            else:
                content = _beginning(pieces)
                if depth == 1 and not is_value:
                    key = content.decode(errors="replace")
            skeleton += b'""'
        else:
            skeleton += mark
            depth += (mark in (b"{", b"[")) - (mark in (b"}", b"]"))
            if depth == 1 and mark in (b":", b","):
                is_value = mark == b":"
        if len(skeleton) > max_skeleton_bytes:
            raise OverflowError("too much apart from strings")
    if not isinstance(json.loads(skeleton), dict) or not is_found:
        raise LookupError(field)


class _Reader:
    """A window on chunks, that moves forward."""

    def __init__(self, chunks: Iterable[bytes]):
        self._chunks = filter(None, chunks)
        self._window, self._start = b"", 0
        self.at_end = False
        self._more()

    def _more(self) -> bool:
        """Adds a chunk to what is left of the window."""
        chunk = next(self._chunks, None)
        self._window = self._window[self._start :] + (chunk or b"")
        self._start = 0
        self.at_end = chunk is None and not self._window
        return chunk is not None

    def match(self, pattern: re.Pattern) -> bytes:
        """Takes what a pattern matches in the window."""
        found = pattern.match(self._window, self._start).group()
        self._move(len(found))
        return found

    def take(self) -> bytes:
        """Takes one byte; none at the end."""
        byte = self._window[self._start : self._start + 1]
        self._move(1)
        return byte

    def _move(self, count: int) -> None:
        self._start += count
        if self._start >= len(self._window):
            self._more()

    def string(self) -> Iterator[bytes]:
        """Yields the rest of a string, as it is written, and takes its closing mark."""
        while True:
            found = self.match(_INSIDE)
            yield found
            if self._window[self._start : self._start + 1] == b'"':
                self.take()
                return
            is_stuck = len(self._window) - self._start >= _PAIR_BYTES
            if not found and (is_stuck or not self._more()):
                raise ValueError("a string has no end, or holds a bad escape sequence")


def _decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Resolves the escape sequences of a string; yields something even of an empty one."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for piece in pieces:
        yield _resolved(decoder.decode(piece))
    yield _resolved(decoder.decode(b"", final=True))


def _resolved(text: str) -> bytes:
    # A half pair, and a byte that is no UTF-8, give bytes that are none: the reader will find it.
    return json.loads(f'"{text}"').encode(errors="surrogatepass")


def _beginning(pieces: Iterable[bytes]) -> bytes:
    """Exhausts a string; returns it, or of a long one no more than shows that it is long."""
    beginning = b""
    for piece in pieces:
        if len(beginning) <= _MAX_KEY_BYTES:
            beginning += piece
    return beginning
