"""Reading documents: from the files of a corpus to lines, a part at a time.

Memory stays bounded whatever a file, a document or a line measures. A document that cannot be used
is skipped and noted; damage to a file is an error, or is noted too (`Reading.skip_damaged`).
"""

import codecs
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from common.errors import InputError
from data.corpus.long_json import long_text
from data.corpus.parquet import ParquetError, read_values

# A line longer than this (a book without line ends) is cut at spaces.
MAX_LINE_BYTES = 1 << 20
# A longer document is checked, and if need be skipped, in parts of this size.
MAX_PART_BYTES = 4 << 20
# A line of JSON parsed in one piece takes up to twelve times its size. A longer one is read in
# parts, and what is not its text may not be more than this.
MAX_JSON_BYTES = 12 << 20
# How many skipped documents are listed; all are counted.
MAX_LISTED = 100

NOT_UTF8 = "not UTF-8"
EMPTY = "empty"
NOT_JSON = "not JSON"
NO_TEXT = "no such field, or no text in it"
TOO_LONG = f"a line of JSON with over {MAX_JSON_BYTES >> 20} MiB apart from its text"
UNREADABLE = "unreadable file"
DAMAGED = "damaged file (what follows the damage)"

_CHUNK_BYTES = 1 << 18
# zstandard gives all that its input expands to at once, 128 KiB for three bytes at worst.
_ZSTD_CHUNK_BYTES = 1 << 9
_CUTTING_MARKS = (b" ", "。".encode(), "，".encode())


class DamagedError(InputError):
    """A file of the corpus is damaged."""


class _DamagedContent(Exception):
    """Damage that a library reports by an error of its own."""


_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, _DamagedContent)


@dataclass(frozen=True)
class Reading:
    """How the files of a corpus are read."""

    text_field: str = "text"
    """The field of a line of JSON that holds the text."""
    text_column: str = "text"
    """The column of a parquet file that holds the text."""
    blanks_separate_docs: bool = True
    """Whether a blank line ends a document of plain text."""
    skip_damaged: bool = False
    """Whether damage is noted, and what follows it in its file left out, where it else stops."""


@dataclass(frozen=True)
class Source:
    """A piece of the corpus that can be read on its own: a file, or a range of one."""

    path: str
    """The file that holds it."""
    name: str
    """What messages call it, the same on every machine."""
    kind: str
    """archive (a tar.xz of one .txt a document), text, jsonl or parquet."""
    offset: int
    """First byte in `path`; without meaning for a member of a compressed tar."""
    size: int
    """Bytes, as stored."""
    compression: str = ""
    """Of text and jsonl: .gz, .xz or .zst."""
    reading: Reading = field(default_factory=Reading)


class Skipped:
    """What was left out, counted by reason; the first of it is listed.

    Attributes:
        counts: dict from reason to number.
        listed: [file, place in it, reason] of the first ones.
    """

    def __init__(self):
        self.counts: dict[str, int] = {}
        self.listed: list[list[str]] = []

    def add(self, source: Source, place: str, reason: str, detail: str = "") -> None:
        """Notes one document, or the rest of a file."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.listed) < MAX_LISTED:
            file = source.name.removesuffix(f":{source.offset}")  # places are counted in the file
            self.listed.append([file, place, f"{reason}: {detail}" if detail else reason])


def read_documents(
    source: Source, content: bytes | None = None, skipped: Skipped | None = None
) -> Iterator[list[bytes | None]]:
    """Yields the lines of a source in lists, with None after the last line of each document.

    A list holds a document, or a part of one: about `MAX_PART_BYTES` at most. Lines are stripped
    and never empty.

    Args:
        source: what to read.
        content: its bytes, where they come from `Corpus.stream`.
        skipped: takes note of what is skipped.

    Raises:
        DamagedError: the file is damaged, and `Reading.skip_damaged` is not set.
        InputError: a parquet file has no such column of text.
    """
    skipped = Skipped() if skipped is None else skipped
    try:
        file = _open(source, content)
    except OSError as error:
        skipped.add(source, "", UNREADABLE, error.strerror)
        return
    with file:
        is_open = False
        try:
            with damage_named(source.name):
                start = source.offset if content is None else 0
                for lines in _READERS[source.kind](
                    source, _Range(file, start, source.size), skipped
                ):
                    yield lines
                    is_open = lines[-1] is not None
        except DamagedError as error:
            if not source.reading.skip_damaged:
                raise
            skipped.add(source, "", DAMAGED, str(error.__cause__).strip())
            if is_open:
                yield [None]


def _open(source: Source, content: bytes | None) -> io.BufferedIOBase:
    if content is not None:
        return io.BytesIO(content)
    return open(source.path, "rb")


def read_lines(source: Source, content: bytes | None = None) -> Iterator[bytes | None]:
    """Yields the same as `read_documents`, line by line."""
    return itertools.chain.from_iterable(read_documents(source, content))


@contextlib.contextmanager
def damage_named(name: str | os.PathLike) -> Iterator[None]:
    """Makes damage found in the `with` block a `DamagedError` that names the file."""
    try:
        yield
    except _DAMAGE as error:
        raise DamagedError(
            f"the file {name} is damaged or is not what its name says: {str(error).strip()}. "
            "Download it again, or leave what cannot be read of it out with --skip-damaged."
        ) from error


class StrictTarInfo(tarfile.TarInfo):
    """Makes a damaged header an error; tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar):
        """Reads the next header."""
        try:
            return super().fromtarfile(tar)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            raise  # the two ways in which an archive ends
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"bad header at byte {tar.offset}: {error}") from error


class _Range(io.RawIOBase):
    """A range of a file, as a file."""

    def __init__(self, file: io.BufferedIOBase, start: int, size: int):
        self._file, self._start, self._size, self._position = file, start, size, 0
        self._file.seek(start)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self._position = offset + (0, self._position, self._size)[whence]
        self._file.seek(self._start + self._position)
        return self._position

    def readinto(self, buffer):
        wanted = max(0, min(len(buffer), self._size - self._position))
        chunk = self._file.read(wanted)
        if wanted and not chunk:
            raise EOFError("it became shorter while it was read")
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def _read_archive(source, file, skipped):
    with (
        lzma.open(file) as content,
        tarfile.open(fileobj=content, mode="r:", tarinfo=StrictTarInfo) as tar,
    ):
        endings = set()
        for member in iter(tar.next, None):
            tar.members.clear()  # they would grow with the archive
            if not member.isfile():
                continue
            ending = os.path.splitext(member.name)[1]
            endings.add(ending)
            if ending != ".txt":
                continue
            text = tar.extractfile(member)
            if member.size > MAX_LINE_BYTES:
                parts = _parts(line for _, line in _lines(_read_chunks(text)))
            else:
                parts = _short_parts(text.read())
            yield from _document(parts, member.name, source, skipped)
        for _ in _read_chunks(content):
            pass  # the checksums are at the end
    if endings and ".txt" not in endings:
        raise _DamagedContent(f"it holds no .txt files, but {', '.join(sorted(endings))}")


def _read_text(source, file, skipped):
    lines = _lines(_decompressed(source, file))
    if source.reading.blanks_separate_docs:
        documents = itertools.groupby(lines, key=lambda item: is_blank(item[1]))
    else:
        documents = [(False, lines)]
    is_empty = source.offset == 0
    for blank, document in documents:
        if not blank:
            is_empty = False
            offset, first = next(document, (0, b""))
            rest = (line for _, line in document)
            parts = _parts(itertools.chain([first], rest))
            place = f"byte {source.offset + offset}"
            yield from _document(parts, place, source, skipped)
    if is_empty:
        skipped.add(source, "", EMPTY)


def _read_jsonl(source, file, skipped):
    for offset, chunks in _line_chunks(_decompressed(source, file)):
        place = f"byte {source.offset + offset}"
        beginning, size = [], 0
        for chunk in chunks:
            beginning.append(chunk)
            size += len(chunk)
            if size > MAX_JSON_BYTES:
                break
        if size > MAX_JSON_BYTES:
            yield from _long_json_document(
                itertools.chain(beginning, chunks), place, source, skipped
            )
            continue
        line = b"".join(beginning)
        if is_blank(line):
            continue
        try:
            record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
        except (ValueError, RecursionError) as error:
            _note_bad_json(error, place, source, skipped)
            continue
        text = record.get(source.reading.text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            skipped.add(source, place, NO_TEXT)
            continue
        # JSON can name half a surrogate pair, which is no UTF-8: the check will find it.
        text = text.encode(errors="surrogatepass")
        if len(text) > MAX_LINE_BYTES:
            parts = _parts(line for _, line in _lines([text]))
        else:
            parts = _short_parts(text)
        yield from _document(parts, place, source, skipped)


def _long_json_document(chunks, place, source, skipped):
    pieces = long_text(chunks, source.reading.text_field, MAX_JSON_BYTES)

    def noted():
        try:
            yield from pieces
        except (ValueError, RecursionError, LookupError, OverflowError) as error:
            _note_bad_json(error, place, source, skipped)

    text = noted()
    first = next(text, None)
    if first is not None:
        parts = _parts(line for _, line in _lines(itertools.chain([first], text)))
        yield from _document(parts, place, source, skipped)
    for _ in chunks:
        pass  # of what is no JSON, to the line's end


def _note_bad_json(error, place, source, skipped):
    if isinstance(error, UnicodeDecodeError):
        skipped.add(source, place, NOT_UTF8)
    elif isinstance(error, LookupError):
        skipped.add(source, place, NO_TEXT)
    elif isinstance(error, OverflowError):
        skipped.add(source, place, TOO_LONG)
    else:
        skipped.add(source, place, NOT_JSON, str(error))


def _read_parquet(source, file, skipped):
    column, row = source.reading.text_column, 0
    try:
        for pieces in read_values(source.path, column, MAX_LINE_BYTES):
            place = f"row {row}"
            row += 1
            if pieces is None:
                skipped.add(source, place, NO_TEXT)
                continue
            text = next(pieces, b"")
            if len(text) < MAX_LINE_BYTES:
                parts = _short_parts(text)
            else:
                parts = _parts(line for _, line in _lines(itertools.chain([text], pieces)))
            yield from _document(parts, place, source, skipped)
    except ParquetError as error:
        if error.kind == "no column":
            raise InputError(
                f"{source.name} has no column {column!r}; it has {error.detail}. Name one with "
                "--text-column."
            ) from error
        if error.kind == "no text":
            raise InputError(
                f"the column {column!r} of {source.name} holds no text. Name another with "
                "--text-column."
            ) from error
        raise _DamagedContent(error.detail) from error


_READERS = {
    "archive": _read_archive,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


def _document(
    parts: Iterable[list[bytes]], place: str, source: Source, skipped: Skipped
) -> Iterator[list[bytes | None]]:
    """Yields the usable parts of a document, None after the last, and notes the others."""
    usable = noted = False
    for part in parts:
        if _is_utf8(b"\n".join(part)):
            usable = True
            yield part
        else:
            noted = True
            skipped.add(source, place, NOT_UTF8)
    if usable:
        yield [None]
    elif not noted:
        skipped.add(source, place, EMPTY)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_blank(line: bytes) -> bool:
    """Whether a line holds white space only, Unicode's included."""
    line = line.strip()
    return not line or (line[0] >= 0x80 and not line.decode(errors="replace").strip())


def _short_parts(text: bytes) -> list[list[bytes]]:
    """Cuts a text of at most `MAX_LINE_BYTES` into lines: one part, or none."""
    lines = [line for line in map(bytes.strip, text.split(b"\n")) if line]
    return [lines] if lines else []


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Gathers lines, but for empty ones, to parts of `MAX_PART_BYTES`."""
    part, size = [], 0
    for line in lines:
        if not line:
            continue
        part.append(line)
        size += len(line)
        if size >= MAX_PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cuts chunks into stripped lines, each with its offset in bytes; blank ones are empty.

    A line over `MAX_LINE_BYTES` comes in pieces, none of which is empty.
    """
    offset, tail, is_rest = 0, b"", False
    for chunk in itertools.chain(chunks, [b"\n"]):
        *lines, tail = (tail + chunk).split(b"\n")
        for line in lines:
            rest = line
            while len(rest) > MAX_LINE_BYTES:
                piece, rest = _cut(rest)
                if not is_blank(piece):
                    yield offset, piece.strip()
                offset, is_rest = offset + len(piece), True
            stripped = rest.strip()
            if stripped or not is_rest:
                yield offset, stripped
            offset, is_rest = offset + len(rest) + 1, False
        while len(tail) > MAX_LINE_BYTES:
            piece, tail = _cut(tail)
            if not is_blank(piece):
                yield offset, piece.strip()
            offset, is_rest = offset + len(piece), True


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """Cuts the first piece off a line that is too long: at a space, or between characters."""
    for mark in _CUTTING_MARKS:
        position = line.rfind(mark, 1, MAX_LINE_BYTES)
        if position > 0:
            end = position + len(mark)
            break
    else:
        end = MAX_LINE_BYTES
        while end > MAX_LINE_BYTES - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
    return line[:end], line[end:]


def _line_chunks(chunks: Iterable[bytes]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Yields each line's offset and its chunks, which must be exhausted before the next line."""
    chunks = iter(chunks)
    chunk, start, before = next(chunks, None), 0, 0

    def line():
        nonlocal chunk, start, before
        end = -1
        while end < 0 and chunk is not None:
            end = chunk.find(b"\n", start)
            if end >= 0:
                yield chunk[start:end]
                start = end + 1
            else:
                yield chunk[start:]
                chunk, start, before = next(chunks, None), 0, before + len(chunk)

    while chunk is not None:
        yield before + start, line()


def _decompressed(source: Source, file: io.RawIOBase) -> Iterator[bytes]:
    if source.compression == ".zst":
        return _zstd_chunks(file)
    openers = {"": io.BufferedReader, ".gz": gzip.open, ".xz": lzma.open}
    return _read_chunks(openers[source.compression](file))


def _read_chunks(file: io.BufferedIOBase) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _zstd_chunks(file: io.RawIOBase) -> Iterator[bytes]:
    """Decompresses the frames of a file; unlike the package's reader, it sees a truncated one."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor().decompressobj()
    started, pending, size = False, [], 0
    try:
        for compressed in _read_chunks(io.BufferedReader(file, 1 << 20)):
            for start in range(0, len(compressed), _ZSTD_CHUNK_BYTES):
                data = compressed[start : start + _ZSTD_CHUNK_BYTES]
                while data:
                    if decompressor.eof:
                        decompressor = zstandard.ZstdDecompressor().decompressobj()
                    pending.append(decompressor.decompress(data))
                    size += len(pending[-1])
                    data = decompressor.unused_data if decompressor.eof else b""
                    started = True
                if size >= _CHUNK_BYTES:
                    yield b"".join(pending)
                    pending, size = [], 0
    except zstandard.ZstdError as error:
        raise _DamagedContent(str(error)) from error
    yield b"".join(pending)
    if started and not decompressor.eof:
        raise EOFError("it ends inside a compressed frame")
