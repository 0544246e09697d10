"""Finds a corpus and lists its sources. Nothing is unpacked to disk.

A corpus is a file, a directory (including its subdirectories) or a glob pattern. Any of them can be
in an object store, or in a data set on the Hugging Face hub, which is downloaded: see
`common.remote` and `common.hub_datasets`. The ending of a file's name, in upper or lower case,
gives its type, unless `ReadOptions.corpus_format` does:
- `*.tar`: contains `*.xz` archives, like OpenWebText's single tar and the many tars of its public
  copy. A `*.tar.xz` can contain them, too, if the corpus is this file alone.
- any other `*.xz`: one of those archives, a tar.xz with one .txt file per document.
- `*.txt`: a blank line ends a document (unless this is switched off), and so does the end of file.
- `*.jsonl`: one document per line, in a field of the JSON object.
- `*.parquet`: one document per row, in a column.
.txt and .jsonl files can be compressed: `.bz2`, `.gz`, `.xz` or `.zst` follows.
"""

import contextlib
import dataclasses
import functools
import glob
import importlib.util
import io
import itertools
import lzma
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from common import hub_datasets, remote
from common.errors import InputError
from common.files import encoding_of
from common.remote import RemotePath
from data.corpus.files import DamagedError, StrictTarInfo, read_errors
from data.corpus.lines import MAX_LINE_BYTES, is_blank
from data.corpus.readers import ReadOptions, TextSource

DEFAULT_NAMES = ("openwebtext.tar", "openwebtext.tar.xz", "openwebtext", "subsets")

# Large text files are divided into ranges of about this size, at the ends of documents, so that one
# file can fill several shards.
TEXT_RANGE_BYTES = 8 << 20

_XZ_MAGIC = b"\xfd7zXZ\x00"
_XZ_END = b"YZ"
_COMPRESSIONS = (".bz2", ".gz", ".xz", ".zst")
_KINDS = "*.tar, *.xz, *.txt, *.jsonl (both also .bz2, .gz, .xz or .zst) or *.parquet"
_OTHER_NAMES = "--corpus-format txt or jsonl reads files of other names"


@dataclass(frozen=True)
class Corpus:
    """The sources of a corpus, in a fixed order."""

    path: Path | RemotePath
    sources: list[TextSource]
    is_stream: bool
    """Whether it is a compressed tar, whose members can only be read in order, with `stream`."""
    read_options: ReadOptions = field(default_factory=ReadOptions)
    origin: dict[str, str] = field(default_factory=dict)
    """`corpus` and `corpus_revision`, the address and the commit, if it is from the hub."""

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
            with read_errors(self.path), _opened(self.path, is_compressed=True) as file:
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
    """Finds a corpus and lists its sources. Of archives, only the first and last bytes are checked.

    `path` is a file, a directory, or a pattern such as `crawl/**/*.jsonl.gz`, also in a store or in
    a data set on the hub: `hf://datasets/OWNER/NAME/*.parquet`. By default, the corpus is
    OpenWebText in the data directory.

    Raises:
        InputError: there is no corpus or no text in it, a file or directory cannot be read, or the
            package that reads a file is missing.
        DamagedError: an archive is damaged, and `ReadOptions.skip_damaged` is not set.
    """
    options = options or ReadOptions()
    with read_errors(path or data_dir):
        if path is not None and not os.fspath(path):
            raise InputError("--corpus is empty")
        origin, files = {}, None
        if path is None:
            path = _default_path(data_dir)
        elif hub_datasets.is_address(path):
            path, files, origin = _fetch(os.fspath(path), options)
        path = remote.as_path(path)
        if isinstance(path, RemotePath):
            files, is_file = _find_remote_files(path, options)
        else:
            is_file = path.is_file()
        kind, _ = _kind_of(path.name, options)
        if is_file and kind in (None, "tar", "archive"):
            sources, is_stream = _list_single_tar(path, kind, options)
        else:
            files = files or ([(path, path.name)] if is_file else _find_files(path, options))
            sources = [source for file in files for source in _list_file(*file, options=options)]
            is_stream = False
    corpus = Corpus(path, sources, is_stream, options, origin)
    if not corpus.size:
        raise InputError(f"no text: every file of the corpus {path} is empty.")
    needing = [s.name for s in sources if s.kind == "parquet" or s.compression == ".zst"]
    if needing and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{needing[0]}: reading it needs pyarrow: pip install pyarrow")
    return corpus


def _fetch(
    address: str, options: ReadOptions
) -> tuple[str, list[tuple[Path, str]], dict[str, str]]:
    """Downloads the readable files at an address on the hub.

    Returns the file, or the directory of several; the files with their names; and `Corpus.origin`.
    """
    found = hub_datasets.fetch(address, lambda name: _kind_of(name, options)[0] is not None)
    _check_found(address, len(found.names), (_ending(Path(name)) for name in found.others))
    files = [(Path(found.directory, name), name) for name in found.names]
    path = files[0][0] if len(files) == 1 else found.directory
    return str(path), files, {"corpus": found.address, "corpus_revision": found.commit}


def _check_found(
    path: str | os.PathLike, count: int, others: Iterable[str], nothing: str = ""
) -> None:
    """Warns of the files that are passed over; raises an `InputError` if there are no others."""
    counts = Counter(others)
    listing = _listing(counts)
    if not count:
        found = f"has only {listing}" if counts else nothing or "does not match any file"
        raise InputError(f"no corpus: {path} {found}; expected {_KINDS}. {_OTHER_NAMES}.")
    if counts:
        logging.warning("%s: %d files; passed over %s. %s", path, count, listing, _OTHER_NAMES)


def _find_remote_files(
    path: RemotePath, options: ReadOptions
) -> tuple[list[tuple[RemotePath, str, int]], bool]:
    """Lists the files of a store, with names and sizes; also tells if `path` is a single file."""
    base, found = remote.match_files(str(path))
    if base != str(path) and [*found] == [path.name]:
        return [(path, path.name, found[path.name].size)], True
    base = RemotePath(base)
    names = [name for name in found if _is_meant(base / name, options)]
    _check_found(path, len(names), (_what_is(base / n) for n in found.keys() - set(names)))
    return [(base / name, name, found[name].size) for name in names], False


def _is_meant(file: Path | RemotePath, options: ReadOptions) -> bool:
    """Whether a file is part of the corpus if the user named only its folder or a pattern."""
    is_hidden = options.corpus_format and file.name.startswith(".")
    return bool(_kind_of(file.name, options)[0]) and not is_hidden and not _is_vocabulary(file)


def _default_path(data_dir: str | os.PathLike) -> Path | RemotePath:
    """OpenWebText in the data directory."""
    candidates = [remote.as_path(data_dir) / name for name in DEFAULT_NAMES]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise InputError(
        f"no corpus: none of {', '.join(map(str, candidates))} exists. Put OpenWebText there, or "
        "choose another corpus with --corpus."
    )


def _list_single_tar(
    path: Path | RemotePath, kind: str | None, options: ReadOptions
) -> tuple[list[TextSource], bool]:
    """Lists a tar of archives, or a single archive; also tells if it is a compressed tar."""
    with remote.open_binary(path) as file:
        is_compressed = file.read(len(_XZ_MAGIC)) == _XZ_MAGIC
        size = file.seek(0, os.SEEK_END)
    if kind is None and not is_compressed and not _is_tar(path):
        raise InputError(f"{path}: its name is none of {_KINDS}; {_OTHER_NAMES}.")
    sources = _list_tar(path, path.name, is_compressed, options)
    if sources:
        return sources, is_compressed
    if not is_compressed:
        raise InputError(f"{path}: does not contain *.xz archives, as OpenWebText's tar does.")
    return [TextSource(str(path), path.name, "archive", 0, size, options=options)], False


def _is_tar(path: Path | RemotePath) -> bool:
    with remote.open_binary(path) as file:
        try:
            tarfile.open(fileobj=file, mode="r:").close()
        except tarfile.ReadError:
            return False
    return True


def _find_files(path: Path, options: ReadOptions) -> list[tuple[Path, str]]:
    """Returns the files of a directory or pattern, in order, each with its name for messages."""
    base, *pattern = Path(), *path.parts
    while pattern and (base / pattern[0]).exists():  # a plain name, even if it looks like a pattern
        base /= pattern.pop(0)
    files, passed_over = set(), set()
    for match in _matches(base, pattern):
        for file in _files_in(match) if match.is_dir() else [match]:
            is_ours = not file.is_dir() and _is_meant(file, options)
            (files if is_ours else passed_over).add(file)
    nothing = "is empty" if path.is_dir() else "does not exist, or does not match any file"
    _check_found(path, len(files), map(_what_is, passed_over), nothing)
    return [(file, str(file.relative_to(base))) for file in sorted(files)]


def _matches(base: Path, pattern: list[str]) -> Iterator[Path]:
    """Yields what matches a pattern below `base`; an OSError if a directory cannot be listed."""
    if not pattern:
        yield base
        return
    for index, part in enumerate(pattern):  # `glob` itself would pass over such directories
        if glob.has_magic(part):
            above = os.path.join(*pattern[:index], "")
            for directory in glob.glob(above, root_dir=base, recursive=True) if above else [""]:
                os.scandir(base / directory).close()
    real = functools.cache(os.path.realpath)
    for name in glob.glob(os.path.join(*pattern), root_dir=base, recursive=True):
        match = base / name
        way = [match, *match.parents]
        directories = way[not match.is_dir() : way.index(base) + 1]
        # `**` follows a link that leads back to a directory above it again and again.
        if len(set(map(real, directories))) == len(directories):
            yield match


def _is_vocabulary(file: Path | RemotePath) -> bool:
    """Whether a file is the vocabulary of a data directory, which can be beside the texts."""
    if file.name != "vocab.txt" or not (remote.is_url(file) or file.is_file()):
        return False
    with remote.open_binary(file) as content:
        return b"[UNK]" in content.read(1 << 16).split()


def _files_in(directory: Path) -> Iterator[Path]:
    """Yields the files of a directory and its subdirectories, and links to directories."""

    def fail(error):
        raise error

    for parent, directories, names in os.walk(directory, onerror=fail):
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in [*names, *links])


def _kind_of(name: str, options: ReadOptions) -> tuple[str | None, str]:
    """Returns a file's kind (as in `TextSource`, "tar", or None) and its compression."""
    stem, compression = os.path.splitext(name.lower())
    if compression not in _COMPRESSIONS:
        stem, compression = name.lower(), ""
    ending = f".{options.corpus_format}" if options.corpus_format else os.path.splitext(stem)[1]
    kind = {".txt": "text", ".jsonl": "jsonl"}.get(ending)
    if kind:
        return kind, compression
    kinds = {".tar": "tar", ".xz": "archive", ".parquet": "parquet"}
    return kinds.get(os.path.splitext(name.lower())[1]), ""


def _what_is(file: Path | RemotePath) -> str:
    """Describes a file that is passed over, for messages."""
    if not remote.is_url(file) and file.is_dir():
        return "linked directory"
    return "vocab.txt with a vocabulary" if _is_vocabulary(file) else _ending(Path(file.name))


def _listing(counts: Counter) -> str:
    """The number of files with each ending, for messages."""
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return f"{counts.total()} others ({', '.join(f'{count} {ending}' for ending, count in common)})"


def _ending(file: Path) -> str:
    """The ending of a file's name, for messages."""
    suffixes = file.suffixes[-2:] if file.suffix.lower() in _COMPRESSIONS else file.suffixes[-1:]
    return f"*{''.join(suffixes)}" if suffixes else "without an ending"


def _archives_in(
    file: io.BufferedIOBase, passed_over: Counter | None = None
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            if member.isfile() and member.name.lower().endswith(".xz"):
                yield tar, member
            elif member.isfile() and passed_over is not None:
                passed_over[_ending(Path(member.name))] += 1


@contextlib.contextmanager
def _opened(path: Path | RemotePath, is_compressed: bool) -> Iterator[io.BufferedIOBase]:
    """Opens a tar, compressed or not."""
    with (
        remote.open_binary(path) as file,
        lzma.open(file) if is_compressed else contextlib.nullcontext(file) as content,
    ):
        yield content


def _list_tar(
    path: Path | RemotePath, name: str, is_compressed: bool, options: ReadOptions
) -> list[TextSource]:
    if is_compressed:
        logging.info("listing the compressed archive %s, which must be read once for that", path)
    make = functools.partial(TextSource, str(path), kind="archive", options=options)
    sources, passed_over = [], Counter()
    try:
        with read_errors(path), _opened(path, is_compressed) as file:
            for _, member in _archives_in(file, passed_over):
                source = make(f"{name}/{member.name}", offset=member.offset_data, size=member.size)
                sources.append(source)
            if not is_compressed and not options.skip_damaged and not remote.is_url(path):
                for source in sources:
                    _check_xz_ends(source, file)
    except DamagedError as error:
        if not options.skip_damaged:
            raise
        logging.warning("%s", error)
        if sources:
            # Stands for the archives that cannot be listed: its zero bytes are counted as damage.
            sources.append(make(f"{name}, after {len(sources)} archives", offset=0, size=0))
    if passed_over and (sources or not is_compressed):
        logging.warning("%s: passed over %s, which are not *.xz", path, _listing(passed_over))
    return sources


def _list_file(
    path: Path | RemotePath, name: str, size: int | None = None, *, options: ReadOptions
) -> list[TextSource]:
    """The sources of a file; with a `size`, it is in a store, and opened only if necessary."""
    kind, compression = _kind_of(path.name, options)
    is_remote = size is not None
    if not is_remote:
        status = path.stat()
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"cannot read {path}: it is a pipe or a device")
    if kind == "tar":
        return _list_tar(path, name, False, options)
    source = TextSource(str(path), name, kind, 0, size, compression, options)
    is_divisible = kind == "jsonl" or (kind == "text" and options.blanks_separate_docs)
    is_divisible = bool(is_divisible and size and not compression)
    if is_remote and is_divisible and size <= TEXT_RANGE_BYTES:
        return [dataclasses.replace(source, name=f"{name}:0")]  # as `_ranges` names it
    if is_remote and not is_divisible:
        return [source]
    with remote.open_binary(path) as file:  # a file that cannot be opened is an early error
        if is_divisible and encoding_of(file.read(2)) != "utf-16":
            return list(_ranges(source, file))
        if kind == "archive" and not options.skip_damaged:
            _check_xz_ends(source, file)
    return [source]


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


def _ranges(whole: TextSource, file: io.BufferedIOBase) -> Iterator[TextSource]:
    """Divides a file into ranges that each begin at the beginning of a document."""
    start, size = 0, whole.size
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
