"""Finds a corpus and lists its sources. Nothing is unpacked to disk.

A corpus is a file, a directory (including its subdirectories) or a glob pattern. The name of a file
gives its type:
- `*.tar`: contains `*.xz` archives, like OpenWebText's single tar and the many tars of its public
  copy. On its own, a `*.tar.xz` can contain them too.
- any other `*.xz`: one of those archives, a tar.xz with one .txt file per document.
- `*.txt`: a blank line ends a document (unless this is switched off), and so does the end of file.
- `*.jsonl`: one document per line, in a field of the JSON object.
- `*.parquet`: one document per row, in a column.
.txt and .jsonl files can be compressed: `.gz`, `.xz` or `.zst` follows.
"""

import dataclasses
import functools
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
from data.corpus.files import DamagedError, StrictTarInfo, damage_errors
from data.corpus.lines import MAX_LINE_BYTES, is_blank
from data.corpus.readers import ReadOptions, TextSource

DEFAULT_NAMES = ("openwebtext.tar", "openwebtext.tar.xz", "openwebtext", "subsets")

# Large text files are divided into ranges of about this size, at the ends of documents, so that one
# file can fill several shards.
TEXT_RANGE_BYTES = 8 << 20

_XZ_MAGIC = b"\xfd7zXZ\x00"
_XZ_END = b"YZ"
_COMPRESSIONS = (".gz", ".xz", ".zst")
_KINDS = "*.tar, *.xz, *.txt, *.jsonl (both also .gz, .xz or .zst) or *.parquet"


@dataclass(frozen=True)
class Corpus:
    """The sources of a corpus, in a fixed order."""

    path: Path
    sources: list[TextSource]
    is_stream: bool
    """A compressed tar: its members can only be read in order, with `stream`."""
    read_options: ReadOptions = field(default_factory=ReadOptions)

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return sum(source.size for source in self.sources)

    @property
    def relevant_options(self) -> dict:
        """The `read_options` that matter for these sources."""
        names = {"text": "blanks_separate_docs", "jsonl": "text_field", "parquet": "text_column"}
        kinds = {source.kind for source in self.sources}
        values = vars(self.read_options)
        return {name: values[name] for kind, name in names.items() if kind in kinds}

    def stream(self) -> Iterator[bytes]:
        """Yields the content of each source of a compressed tar, in order.

        Damage is a `DamagedError`; with `ReadOptions.skip_damaged`, the sources after it are empty.
        """
        count = 0
        try:
            with damage_errors(self.path), lzma.open(self.path) as file:
                for tar, member in _archives_in(file):
                    content = tar.extractfile(member).read()
                    count += 1
                    yield content
        except DamagedError:
            if not self.read_options.skip_damaged:
                raise
        yield from itertools.repeat(b"", len(self.sources) - count)


def find_corpus(
    data_dir: str | os.PathLike,
    path: str | os.PathLike | None = None,
    options: ReadOptions | None = None,
) -> Corpus:
    """Finds a corpus and lists it. Of archives, only the first and the last bytes are checked.

    `path` is a file, a directory, or a pattern such as `crawl/**/*.jsonl.gz`. By default, the
    corpus is OpenWebText in the data directory.

    Raises:
        InputError: there is no corpus or no text in it, an archive is damaged (unless damage is
            skipped), or the package that reads a file is missing.
    """
    options = options or ReadOptions()
    if path is None:
        candidates = [Path(data_dir, name) for name in DEFAULT_NAMES]
        path = next((candidate for candidate in candidates if candidate.exists()), None)
        if path is None:
            raise InputError(
                f"no corpus: none of {', '.join(map(str, candidates))} exists. Put OpenWebText "
                "there, or choose another corpus with --corpus."
            )
    path = Path(path)
    is_stream = False
    if path.is_file() and _kind_of(path.name)[0] in (None, "tar", "archive"):
        # A tar of archives, compressed or not, or a single archive, which is compressed too.
        with damage_errors(path), path.open("rb") as file:
            is_compressed = file.read(len(_XZ_MAGIC)) == _XZ_MAGIC
        sources = _list_tar(path, path.name, is_compressed, options)
        is_stream = is_compressed and bool(sources)
        if not sources and is_compressed:
            size = path.stat().st_size
            sources = [TextSource(str(path), path.name, "archive", 0, size, options=options)]
        if not sources:
            raise InputError(f"{path}: does not contain *.xz archives, as OpenWebText's tar does.")
    else:
        sources = [s for found in _find_files(path) for s in _list_file(*found, options)]
    corpus = Corpus(path, sources, is_stream, options)
    if not corpus.size:
        raise InputError(f"no text: every file of the corpus {path} is empty.")
    needing = [s.name for s in sources if s.kind == "parquet" or s.compression == ".zst"]
    if needing and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{needing[0]}: reading it needs pyarrow: pip install pyarrow")
    return corpus


def _find_files(path: Path) -> list[tuple[Path, str]]:
    """Returns the files of a corpus, in order, each with its name for messages."""
    if path.is_dir():
        base, matches = path, [path]
    elif path.exists():
        return [(path, path.name)]
    else:
        # Names are relative to the part of the pattern without special characters.
        base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        matches = map(Path, glob.glob(str(path), recursive=True))
    files = set()
    for match in matches:
        inside = match.rglob("*") if match.is_dir() else [match]
        # Includes broken links: they are counted as unreadable files later.
        files.update(file for file in inside if not file.is_dir() and _kind_of(file.name)[0])
    if not files:
        if path.is_dir():
            raise InputError(f"no text: the directory {path} does not contain {_KINDS}.")
        raise InputError(f"no corpus: {path} does not exist, or does not match any {_KINDS}.")
    return [(file, str(file.relative_to(base))) for file in sorted(files)]


def _kind_of(name: str) -> tuple[str | None, str]:
    """Returns a file's kind (as in `TextSource`, "tar", or None) and its compression."""
    stem, compression = os.path.splitext(name)
    if compression not in _COMPRESSIONS:
        stem, compression = name, ""
    kind = {".txt": "text", ".jsonl": "jsonl"}.get(os.path.splitext(stem)[1])
    if kind:
        return kind, compression
    return {".tar": "tar", ".xz": "archive", ".parquet": "parquet"}.get(Path(name).suffix), ""


def _archives_in(file: io.BufferedIOBase) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".xz"):
                yield tar, member


def _list_tar(path: Path, name: str, is_compressed: bool, options: ReadOptions) -> list[TextSource]:
    if is_compressed:
        logging.info("listing the compressed archive %s, which must be read once for that", path)
    make = functools.partial(TextSource, str(path), kind="archive", options=options)
    sources = []
    try:
        with damage_errors(path), (lzma.open if is_compressed else open)(path, "rb") as file:
            for _, member in _archives_in(file):
                source = make(f"{name}/{member.name}", offset=member.offset_data, size=member.size)
                sources.append(source)
            if not is_compressed and not options.skip_damaged:
                for source in sources:
                    _check_xz_ends(source, file)
    except DamagedError as error:
        if not options.skip_damaged:
            raise
        logging.warning("%s", error)
        if sources:
            # Stands for the archives that cannot be listed: its zero bytes are counted as damage.
            sources.append(make(f"{name}, after {len(sources)} archives", offset=0, size=0))
    return sources


def _list_file(path: Path, name: str, options: ReadOptions) -> list[TextSource]:
    kind, compression = _kind_of(path.name)
    if kind == "tar":
        return _list_tar(path, name, False, options)
    source = TextSource(str(path), name, kind, 0, 0, compression, options)
    try:
        whole = dataclasses.replace(source, size=path.stat().st_size)
        is_divisible = kind == "jsonl" or (kind == "text" and options.blanks_separate_docs)
        if is_divisible and whole.size and not compression:
            return list(_ranges(whole))
        if kind == "archive" and not options.skip_damaged:
            with path.open("rb") as file:
                _check_xz_ends(whole, file)
    except OSError:
        return [source]  # the reader will fail to open it, and count it as unreadable
    return [whole]


def _check_xz_ends(source: TextSource, file: io.BufferedIOBase) -> None:
    """Detects archives that were cut short, or are something else, before any work is done."""
    file.seek(source.offset)
    start = file.read(min(len(_XZ_MAGIC), source.size))
    file.seek(source.offset + max(0, source.size - 32))
    end = file.read(min(32, source.size)).rstrip(b"\0")  # zeros can follow as padding
    if start != _XZ_MAGIC or not end.endswith(_XZ_END):
        raise DamagedError(
            f"{source.name} (in {source.path}): damaged: it does not "
            f"{'end' if start == _XZ_MAGIC else 'begin'} like an .xz file. Download it again, or "
            "skip what cannot be read with --skip-damaged."
        )


def _ranges(whole: TextSource) -> Iterator[TextSource]:
    """Divides a file into ranges, each of which begins at the beginning of a document."""
    start, size = 0, whole.size
    with open(whole.path, "rb") as file:
        while start < size:
            file.seek(start + TEXT_RANGE_BYTES)
            _read_line(file)  # the rest of a line is not a blank line
            while whole.kind == "text" and not is_blank(_read_line(file)) and file.tell() < size:
                pass
            end = min(file.tell(), size)
            name = f"{whole.name}:{start}"
            yield dataclasses.replace(whole, name=name, offset=start, size=end - start)
            start = end


def _read_line(file: io.BufferedIOBase) -> bytes:
    """Reads a line, and returns at most `MAX_LINE_BYTES` of it."""
    line = rest = file.readline(MAX_LINE_BYTES)
    while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
        rest = file.readline(MAX_LINE_BYTES)
    return line
