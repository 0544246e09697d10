"""Finding a corpus and listing its sources. Nothing is ever unpacked to disk.

A corpus is a file, a folder (searched with its sub-folders) or a glob pattern. What a file holds
is known by its name:
- `*.tar`: archives `*.xz`, as OpenWebText's one tar, or the many of its public copy, have them.
  Alone, a `*.tar.xz` may hold them too.
- any other `*.xz`: one of those archives, a tar.xz with one .txt file a document.
- `*.txt`: a blank line ends a document, unless that is switched off, and the file's end always.
- `*.jsonl`: a document a line, in a field of the JSON object.
- `*.parquet`: a document a row, in a column.
.txt and .jsonl may be compressed, with a further `.gz`, `.xz` or `.zst`.
"""

import glob
import importlib.util
import io
import itertools
import lzma
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from common.errors import InputError
from data.corpus.readers import (
    MAX_LINE_BYTES,
    DamagedError,
    Reading,
    Source,
    StrictTarInfo,
    damage_named,
    is_blank,
)

DEFAULT_NAMES = ("openwebtext.tar", "openwebtext.tar.xz", "openwebtext", "subsets")

# Large text files are cut into ranges of about this size, at the ends of documents, so that one
# file can fill several shards and processes.
TEXT_RANGE_BYTES = 8 << 20

_XZ_MAGIC = b"\xfd7zXZ\x00"
_XZ_END = b"YZ"
_COMPRESSIONS = (".gz", ".xz", ".zst")
_ENDINGS = "*.tar, *.xz, *.txt, *.jsonl (both also .gz, .xz or .zst) or *.parquet"


@dataclass(frozen=True)
class Corpus:
    """The sources of a corpus, in a fixed order."""

    path: Path
    sources: list[Source]
    is_stream: bool
    """A compressed tar: its members can only be read one after the other, by `stream`."""
    reading: Reading = field(default_factory=Reading)

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return sum(source.size for source in self.sources)

    @property
    def options(self) -> dict:
        """Those of the options of `Reading` that decide what is read of these sources."""
        names = {
            "text": "blanks_separate_docs",
            "jsonl": "text_field",
            "parquet": "text_column",
        }
        kinds = {source.kind for source in self.sources}
        return {name: getattr(self.reading, name) for kind, name in names.items() if kind in kinds}

    def stream(self) -> Iterator[bytes]:
        """Yields the contents of each source in order; for a compressed tar.

        Raises:
            DamagedError: the tar is damaged. Skipping damage, what follows it is empty.
        """
        count = 0
        try:
            with damage_named(self.path), lzma.open(self.path) as file:
                for tar, member in _archives_in(file):
                    content = tar.extractfile(member).read()
                    count += 1
                    yield content
        except DamagedError:
            if not self.reading.skip_damaged:
                raise
        yield from itertools.repeat(b"", len(self.sources) - count)


def find_corpus(
    data_dir: str | os.PathLike,
    path: str | os.PathLike | None = None,
    reading: Reading | None = None,
) -> Corpus:
    """Finds and lists the corpus at `path`, by default OpenWebText in the data directory.

    Archives are checked for being complete (start and end marks), not for every byte.

    Args:
        data_dir: where OpenWebText is sought.
        path: a file, a folder, or a pattern such as `crawl/**/*.jsonl.gz`.
        reading: how files are read.

    Raises:
        InputError: there is no corpus, or it holds no text, or an archive is damaged (unless
            damage is skipped), or a package is missing that reads such files.
    """
    reading = reading or Reading()
    if path is None:
        candidates = [Path(data_dir, name) for name in DEFAULT_NAMES]
        found = [candidate for candidate in candidates if candidate.exists()]
        if not found:
            raise InputError(
                f"no corpus: none of {', '.join(map(str, candidates))} exists. Put OpenWebText "
                "there, or name a corpus with --corpus."
            )
        path = found[0]
    path = Path(path)
    if path.is_file() and _kind(path.name)[0] in (None, "tar", "archive"):
        sources, is_stream = _list_archive(path, reading)
    else:
        is_stream = False
        sources = [
            source for file, name in _find_files(path) for source in _list_file(file, name, reading)
        ]
    corpus = Corpus(path, sources, is_stream, reading)
    if not corpus.size:
        raise InputError(f"no text: every file of the corpus {path} is empty.")
    _check_packages(corpus)
    return corpus


def _find_files(path: Path) -> list[tuple[Path, str]]:
    """Returns the files of a corpus with the names that messages call them by, in order."""
    if path.is_dir():
        base, found = path, [path]
    elif path.exists():
        return [(path, path.name)]
    else:
        # The pattern's part before the first special character is the folder that names begin at.
        base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = map(Path, glob.glob(str(path), recursive=True))
    files = set()
    for match in found:
        inside = match.rglob("*") if match.is_dir() else [match]
        # A link to nothing is not left out here: it is reported as a file that cannot be read.
        files.update(file for file in inside if not file.is_dir() and _kind(file.name)[0])
    if not files:
        if path.is_dir():
            raise InputError(f"the folder {path} holds no text: no {_ENDINGS}.")
        raise InputError(f"no corpus: {path} does not exist, or matches no {_ENDINGS}.")
    return [(file, str(file.relative_to(base))) for file in sorted(files)]


def _kind(name: str) -> tuple[str | None, str]:
    """Returns a file's kind, as in `Source` or "tar", and compression; None for other files."""
    stem, compression = os.path.splitext(name)
    if compression not in _COMPRESSIONS:
        stem, compression = name, ""
    kinds = {".txt": "text", ".jsonl": "jsonl"}
    kind = kinds.get(os.path.splitext(stem)[1])
    if kind:
        return kind, compression
    return {".tar": "tar", ".xz": "archive", ".parquet": "parquet"}.get(Path(name).suffix), ""


def _list_archive(path: Path, reading: Reading) -> tuple[list[Source], bool]:
    """Lists a tar of archives, compressed or not, or a single archive."""
    with damage_named(path), path.open("rb") as file:
        is_stream = file.read(len(_XZ_MAGIC)) == _XZ_MAGIC
    if is_stream:
        logging.info("listing the compressed archive %s: it must be read once for that", path)
    sources = _list_tar(path, path.name, is_stream, reading)
    if not sources and is_stream:
        source = Source(str(path), path.name, "archive", 0, path.stat().st_size, reading=reading)
        return [source], False
    if not sources:
        raise InputError(f"the archive {path} holds no *.xz archives, as OpenWebText's does.")
    return sources, is_stream


def _archives_in(file: io.BufferedIOBase) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".xz"):
                yield tar, member


def _list_tar(path: Path, name: str, is_compressed: bool, reading: Reading) -> list[Source]:
    sources = []
    try:
        with damage_named(path), (lzma.open if is_compressed else open)(path, "rb") as file:
            for _, member in _archives_in(file):
                place = (member.offset_data, member.size)
                member_name = f"{name}/{member.name}"
                sources.append(Source(str(path), member_name, "archive", *place, reading=reading))
            if not is_compressed and not reading.skip_damaged:
                for source in sources:
                    _check_xz_ends(source, file)
    except DamagedError as error:
        if not reading.skip_damaged:
            raise
        logging.warning("%s", error)
        if sources:
            # It stands for what cannot be listed: reading nothing of it will be noted as damage.
            rest = f"{name}, after {len(sources)} archives"
            sources.append(Source(str(path), rest, "archive", 0, 0, reading=reading))
    return sources


def _list_file(path: Path, name: str, reading: Reading) -> list[Source]:
    kind, compression = _kind(path.name)
    if kind == "tar":
        return _list_tar(path, name, False, reading)
    try:
        size = path.stat().st_size
        is_divisible = not compression and (
            kind == "jsonl" or (kind == "text" and reading.blanks_separate_docs)
        )
        if is_divisible and size:
            return list(_ranges(path, name, kind, size, reading))
        source = Source(str(path), name, kind, 0, size, compression, reading)
        if kind == "archive" and not reading.skip_damaged:
            with path.open("rb") as file:
                _check_xz_ends(source, file)
    except OSError:  # reading will find out too, and note it
        source = Source(str(path), name, kind, 0, 0, compression, reading)
    return [source]


def _check_xz_ends(source: Source, file: io.BufferedIOBase) -> None:
    """Finds archives that were cut short, or are something else, before any work is done."""
    file.seek(source.offset)
    start = file.read(min(len(_XZ_MAGIC), source.size))
    file.seek(source.offset + max(0, source.size - 32))
    end = file.read(min(32, source.size)).rstrip(b"\0")  # a stream may be padded with zeros
    if start != _XZ_MAGIC or not end.endswith(_XZ_END):
        raise DamagedError(
            f"the archive {source.name} (in {source.path}) is damaged: it does not "
            f"{'end' if start == _XZ_MAGIC else 'begin'} as an .xz file does. Download it again, "
            "or leave what cannot be read of it out with --skip-damaged."
        )


def _ranges(path: Path, name: str, kind: str, size: int, reading: Reading) -> Iterator[Source]:
    """Cuts a file into ranges that begin where a document begins."""
    start = 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start + TEXT_RANGE_BYTES)
            _read_line(file)  # a line's tail is no blank line
            while kind == "text" and not is_blank(_read_line(file)) and file.tell() < size:
                pass
            end = min(file.tell(), size)
            yield Source(str(path), f"{name}:{start}", kind, start, end - start, reading=reading)
            start = end


def _read_line(file: io.BufferedIOBase) -> bytes:
    """Reads a line; of one over `MAX_LINE_BYTES`, returns only that much."""
    line = rest = file.readline(MAX_LINE_BYTES)
    while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
        rest = file.readline(MAX_LINE_BYTES)
    return line


def _check_packages(corpus: Corpus) -> None:
    for source in corpus.sources:
        needed = {"parquet": "pyarrow"}.get(source.kind)
        if source.compression == ".zst":
            needed = "zstandard"
        if needed and importlib.util.find_spec(needed) is None:
            raise InputError(
                f"{source.name} can only be read with the package {needed}: install it with "
                f"pip install {needed}."
            )
