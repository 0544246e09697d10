"""Files of a corpus → documents, one part at a time.

Memory stays bounded for files, documents and lines of any size; only a line of JSON (up to
`MAX_JSON_BYTES`) and a value of a parquet file are held as a whole. A document that cannot be used
is skipped and counted. Damage to a file is an error, or is counted with
`ReadOptions.skip_damaged`.
"""

import codecs
import io
import itertools
import json
import lzma
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from common import remote
from common.fields import setting
from data.corpus.files import (
    DamagedError,
    StrictTarInfo,
    as_utf8,
    decompress,
    file_range,
    read_chunks,
    read_errors,
)
from data.corpus.lines import MAX_LINE_BYTES, group_lines, is_blank, split_lines, split_text
from data.corpus.parquet import read_values

# Parsing a line of JSON can take twelve times its size in memory.
MAX_JSON_BYTES = 16 << 20
# How many skipped documents are listed; all are counted.
MAX_LISTED = 100

# Reasons to skip a document, or the rest of a file.
NOT_UTF8 = "not UTF-8"
EMPTY = "empty"
NOT_JSON = "not JSON"
HALF_PAIR = "half a surrogate pair"
NOT_TXT = "no .txt file, in an archive"
NO_TEXT = "no such field, or no text in it"
TOO_LONG = f"too long (a line of JSON over {MAX_JSON_BYTES >> 20} MiB)"
DAMAGED = "damaged file (what follows the damage)"


@dataclass(frozen=True)
class ReadOptions:
    """How the files of a corpus are read."""

    text_field: str = setting("text", "field of .jsonl files that holds the text")
    text_column: str = setting("text", "column of .parquet files that holds the text")
    blanks_separate_docs: bool = True
    """Whether a blank line ends a document in a .txt file."""
    corpus_format: str | None = setting(
        None, "the type of all files, whatever their names", choices=("txt", "jsonl")
    )
    skip_damaged: bool = False
    """Whether to skip the rest of a damaged file, and count it, instead of failing."""


@dataclass(frozen=True, slots=True)  # slots: there can be millions
class TextSource:
    """A piece of the corpus that can be read independently: a file, or a range of one."""

    path: str
    """The file, or its URL."""
    name: str
    """Its name in messages, the same on every machine."""
    kind: str
    """archive (a tar.xz with one .txt file per document), text, jsonl or parquet."""
    offset: int
    """First byte in `path`; meaningless in a compressed tar."""
    size: int
    """Bytes, as stored."""
    compression: str = ""
    """Of text and jsonl: .bz2, .gz, .xz or .zst."""
    options: ReadOptions = field(default_factory=ReadOptions)


@dataclass
class Skipped:
    """What was skipped."""

    counts: dict[str, int] = field(default_factory=dict)
    """Reason → how often."""
    listed: list[list[str]] = field(default_factory=list)
    """The first `MAX_LISTED` cases: file, where in it, reason."""

    def add(self, source: TextSource, where: str, reason: str, detail: str = "") -> None:
        """Counts a document, or the rest of a file."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.listed) < MAX_LISTED:
            file = source.name.removesuffix(f":{source.offset}")  # `where` counts from the start
            self.listed.append([file, where, f"{reason}: {detail}" if detail else reason])


def read_lines(
    source: TextSource, content: bytes | None = None, skipped: Skipped | None = None
) -> Iterator[bytes | None]:
    """Yields the lines of a source, stripped and not empty, and None after each document.

    `content` is what `Corpus.stream` yields for the source, if it is read that way; `skipped`
    counts what is skipped.

    Raises:
        DamagedError: the file is damaged, and `ReadOptions.skip_damaged` is not set.
        InputError: the file cannot be read, or a parquet file does not have the text column.
    """
    skipped = Skipped() if skipped is None else skipped
    is_open = False  # whether a document has begun
    try:
        with (
            read_errors(source.name),
            remote.open_binary(source.path) if content is None else io.BytesIO(content) as file,
        ):
            start = source.offset if content is None else 0
            read = _READERS[source.kind]
            for lines in read(source, file_range(file, start, source.size), skipped):
                yield from lines
                is_open = lines[-1] is not None
    except DamagedError as error:
        if not source.options.skip_damaged:
            raise
        skipped.add(source, "", DAMAGED, str(error.__cause__).strip())
        if is_open:
            yield None


def _read_archive(source, file, skipped):
    with (
        lzma.open(file) as content,
        tarfile.open(fileobj=content, mode="r:", tarinfo=StrictTarInfo) as tar,
    ):
        extensions = set()
        for member in iter(tar.next, None):
            tar.members.clear()  # tarfile would keep them all in memory
            if not member.isfile():
                continue
            extension = os.path.splitext(member.name)[1].lower()
            extensions.add(extension)
            if extension != ".txt":
                skipped.add(source, member.name, NOT_TXT)
                continue
            text = tar.extractfile(member)
            if member.size > MAX_LINE_BYTES:
                parts = group_lines(line for _, line in split_lines(read_chunks(text)))
            else:
                parts = split_text(text.read())
            yield from _document(parts, source, member.name, skipped)
        for _ in read_chunks(content):
            pass  # the checksums are at the end
    if extensions and ".txt" not in extensions:
        found = ", ".join(sorted(extensions))
        raise tarfile.ReadError(f"it does not contain .txt files, only {found}")


def _chunks(source, file):
    chunks = decompress(file, source.compression)
    return chunks if source.offset else as_utf8(chunks)


def _read_text(source, file, skipped):
    lines = split_lines(_chunks(source, file))
    if source.options.blanks_separate_docs:
        documents = itertools.groupby(lines, key=lambda item: is_blank(item[1]))
    else:
        documents = [(False, lines)]
    is_empty = source.offset == 0
    for blank, document in documents:
        if not blank:
            is_empty = False
            offset, first = next(document, (0, b""))
            parts = group_lines(itertools.chain([first], (line for _, line in document)))
            yield from _document(parts, source, f"byte {source.offset + offset}", skipped)
    if is_empty:
        skipped.add(source, "", EMPTY)


def _read_jsonl(source, file, skipped):
    for offset, line in _json_lines(_chunks(source, file)):
        where = f"byte {source.offset + offset}"
        if line is None:
            skipped.add(source, where, TOO_LONG)
            continue
        if is_blank(line):
            continue
        try:
            record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
        except UnicodeDecodeError:
            skipped.add(source, where, NOT_UTF8)
            continue
        except (ValueError, RecursionError) as error:
            skipped.add(source, where, NOT_JSON, str(error))
            continue
        text = record.get(source.options.text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            skipped.add(source, where, NO_TEXT)
            continue
        try:
            parts = split_text(text.encode())
        except UnicodeEncodeError:
            skipped.add(source, where, HALF_PAIR)
            continue
        yield from _document(parts, source, where, skipped)


def _json_lines(chunks):
    """Yields the lines with their offsets in bytes; None for a line over `MAX_JSON_BYTES`."""
    offset, pieces, size = 0, [], 0
    for chunk in itertools.chain(chunks, [b"\n"]):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            size += len(line)
            yield offset, b"".join([*pieces, line]) if size <= MAX_JSON_BYTES else None
            offset, pieces, size = offset + size + 1, [], 0
        size += len(rest)
        pieces = [*pieces, rest] if size <= MAX_JSON_BYTES else []


def _read_parquet(source, file, skipped):
    place = file if remote.is_url(source.path) else source.path
    values = read_values(place, source.options.text_column, source.name)
    for row, text in enumerate(values):
        if text is None:
            skipped.add(source, f"row {row}", NO_TEXT)
        else:
            yield from _document(split_text(text), source, f"row {row}", skipped)


_READERS = {
    "archive": _read_archive,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


def _document(parts, source, where, skipped) -> Iterator[list[bytes | None]]:
    """Yields the parts of a document that are UTF-8, then None; counts the other parts."""
    is_used = is_counted = False
    for part in parts:
        try:
            b"\n".join(part).decode()
        except UnicodeDecodeError:
            is_counted = True
            skipped.add(source, where, NOT_UTF8)
        else:
            is_used = True
            yield part
    if is_used:
        yield [None]
    elif not is_counted:
        skipped.add(source, where, EMPTY)
