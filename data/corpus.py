"""Finding a corpus and streaming its documents. Nothing is ever unpacked to disk.

Three layouts are read:
- OpenWebText as downloaded: a tar (or tar.xz) of archives `*.xz`, each a tar.xz with one .txt file
  a document. Blank lines do not separate documents.
- a folder of those archives.
- a .txt file, or a folder of them (searched with its sub-folders). A blank line ends a document,
  and so does the end of a file.
"""

import contextlib
import io
import lzma
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from errors import InputError

_XZ_MAGIC = b"\xfd7zXZ\x00"
_XZ_END = b"YZ"
_DAMAGE = (tarfile.TarError, lzma.LZMAError, EOFError)

# Large text files are cut into ranges of about this size, at the ends of documents, so that one
# file can fill several shards and processes.
TEXT_RANGE_BYTES = 8 << 20
# A line longer than this (a book without line ends) is cut at spaces: memory stays bounded.
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """A piece of the corpus that can be read on its own: an archive, or a range of a text file."""

    path: str
    """The file that holds it."""
    name: str
    """What messages call it, the same on every machine."""
    is_archive: bool
    offset: int
    """First byte in `path`; without meaning for a member of a compressed tar."""
    size: int
    """Bytes, as stored."""


@dataclass(frozen=True)
class Corpus:
    """The sources of a corpus, in a fixed order."""

    path: Path
    sources: list[Source]
    is_stream: bool
    """A compressed tar: its members can only be read one after the other, by `stream`."""

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return sum(source.size for source in self.sources)

    def stream(self) -> Iterator[bytes]:
        """Yields the contents of each source in order; for a compressed tar."""
        with _damage_named(self.path), lzma.open(self.path) as file:
            yield from (tar.extractfile(member).read() for tar, member in _archives_in(file))


def find_corpus(data_dir: str | os.PathLike, path: str | os.PathLike | None = None) -> Corpus:
    """Finds and lists the corpus at `path`, by default OpenWebText in the data directory.

    Archives are checked for being complete (start and end marks), not for every byte.

    Raises:
        InputError: there is no corpus, or it holds no text, or an archive is damaged.
    """
    if path is None:
        names = ("openwebtext.tar", "openwebtext.tar.xz", "openwebtext")
        candidates = [Path(data_dir, name) for name in names]
        found = [candidate for candidate in candidates if candidate.exists()]
        if not found:
            raise InputError(
                f"no corpus: none of {', '.join(map(str, candidates))} exists. Put OpenWebText's "
                "archive there, or name a corpus with --corpus."
            )
        path = found[0]
    path = Path(path)
    if not path.exists():
        raise InputError(f"no corpus: {path} does not exist.")
    if path.is_dir():
        corpus = Corpus(path, _list_folder(path), False)
    elif path.suffix == ".txt":
        corpus = Corpus(path, list(_text_ranges(path, path.name)), False)
    else:
        with path.open("rb") as file:
            is_stream = file.read(len(_XZ_MAGIC)) == _XZ_MAGIC
        corpus = Corpus(path, _list_tar(path, is_stream), is_stream)
    if not corpus.size:
        raise InputError(f"no text: every file of the corpus {path} is empty.")
    return corpus


def read_lines(source: Source, content: bytes | None = None) -> Iterator[bytes | None]:
    """Yields the lines of a source, stripped and never empty, and None after each document.

    Args:
        source: what to read.
        content: its bytes, where they come from `Corpus.stream`.

    Raises:
        InputError: the source is damaged.
    """
    if not source.is_archive:
        yield from _read_text_range(source)
        return
    if content is None:
        with open(source.path, "rb") as file:
            file.seek(source.offset)
            content = file.read(source.size)
    with _damage_named(source.name):
        archive = io.BytesIO(lzma.decompress(content))
        with tarfile.open(fileobj=archive, mode="r:", tarinfo=_StrictTarInfo) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".txt"):
                    lines = tar.extractfile(member).read().split(b"\n")
                    yield from _split_long(line for line in map(bytes.strip, lines) if line)
                    yield None


class _StrictTarInfo(tarfile.TarInfo):
    """Makes a damaged header an error; tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            raise  # the two ways in which an archive ends
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"bad header at byte {tar.offset}: {error}") from error


@contextlib.contextmanager
def _damage_named(name: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            f"the archive {name} is damaged or is no tar of the expected kind: {error}. "
            "Download it again."
        ) from error


def _archives_in(file: io.BufferedIOBase) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".xz"):
                yield tar, member


def _list_tar(path: Path, is_stream: bool) -> list[Source]:
    if is_stream:
        logging.info("listing the compressed archive %s: it must be read once for that", path)
    with _damage_named(path), (lzma.open if is_stream else open)(path, "rb") as file:
        sources = [
            Source(str(path), f"{path.name}/{member.name}", True, member.offset_data, member.size)
            for _, member in _archives_in(file)
        ]
        if not is_stream:
            for source in sources:
                _check_xz_ends(source, file)
    if not sources:
        raise InputError(f"the archive {path} holds no *.xz archives, as OpenWebText's does.")
    return sources


def _list_folder(folder: Path) -> list[Source]:
    archives = sorted(folder.rglob("*.xz"))
    texts = sorted(folder.rglob("*.txt"))
    if archives and texts:
        raise InputError(
            f"the folder {folder} holds both archives ({archives[0].name}) and plain text "
            f"({texts[0].name}). Keep them in two folders."
        )
    if not archives and not texts:
        raise InputError(f"the folder {folder} holds neither *.xz archives nor *.txt files.")
    sources = []
    for path in archives:
        name = str(path.relative_to(folder))
        sources.append(Source(str(path), name, True, 0, path.stat().st_size))
        with path.open("rb") as file:
            _check_xz_ends(sources[-1], file)
    for path in texts:
        sources.extend(_text_ranges(path, str(path.relative_to(folder))))
    return sources


def _check_xz_ends(source: Source, file: io.BufferedIOBase) -> None:
    """Finds archives that were cut short, or are something else, before any work is done."""
    file.seek(source.offset)
    start = file.read(min(len(_XZ_MAGIC), source.size))
    file.seek(source.offset + max(0, source.size - 32))
    end = file.read(min(32, source.size)).rstrip(b"\0")  # a stream may be padded with zeros
    if start != _XZ_MAGIC or not end.endswith(_XZ_END):
        raise InputError(
            f"the archive {source.name} (in {source.path}) is damaged: it does not "
            f"{'end' if start == _XZ_MAGIC else 'begin'} as an .xz file does. Download it again."
        )


def _text_ranges(path: Path, name: str) -> Iterator[Source]:
    """Cuts a text file into ranges that begin where a document begins."""
    size = path.stat().st_size
    start = 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start + TEXT_RANGE_BYTES)
            file.readline()  # a line's tail is no blank line
            while not _is_blank(file.readline()) and file.tell() < size:
                pass
            end = min(file.tell(), size)
            yield Source(str(path), f"{name}:{start}", False, start, end - start)
            start = end


def _read_text_range(source: Source) -> Iterator[bytes | None]:
    has_text = False
    with open(source.path, "rb") as file:
        file.seek(source.offset)
        remaining = source.size
        while remaining > 0:
            line = file.readline(remaining)
            if not line:
                raise InputError(f"{source.path} became shorter while it was read.")
            remaining -= len(line)
            if not _is_blank(line):
                has_text = True
                yield from _split_long([line.strip()])
            elif has_text:
                has_text = False
                yield None
    if has_text:
        yield None


def _is_blank(line: bytes) -> bool:
    """Whether a line holds white space only, Unicode's included."""
    line = line.strip()
    return not line or (line[0] >= 0x80 and not line.decode("utf-8", "ignore").strip())


def _split_long(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        start = 0
        while len(line) - start > MAX_LINE_BYTES:
            space = line.rfind(b" ", start + 1, start + MAX_LINE_BYTES)
            if space < 0:  # Chinese, say: keep the rest whole rather than cut a word
                break
            yield line[start:space]
            start = space + 1
        yield line[start:] if start else line
