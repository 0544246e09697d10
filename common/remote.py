"""Files in object stores, by URLs that fsspec knows: s3://, gs://, hdfs://, memory:// and others.

The packages for some of them (s3fs, gcsfs) are extras, and find credentials and endpoints as usual.
After a temporary error, such as a lost connection or a busy server, a request is tried again. Any
other error of a store becomes an `InputError` that names the URL.
"""

import contextlib
import dataclasses
import errno
import fnmatch
import functools
import io
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from common.errors import InputError
from common.fields import shortened

DELAYS = (0.5, 1, 2, 4, 8)  # seconds before each further try
MIN_BLOCK, MAX_BLOCK = 1 << 16, 8 << 20  # bytes in a request
# A reader that skips fewer bytes than this will need most of what follows.
_NEAR = 1 << 20

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# In these stores, a file gets its name only when all of it is written.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "memory"}
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError)
_FINAL += (NotADirectoryError, NotImplementedError, ImportError, TypeError, ValueError)
# Names of error classes; each package has its own.
_CREDENTIALS, _INVALID = re.compile("Credential|ProfileNotFound|RefreshError"), "Validation"
# Fields in the answers of different stores that tell two versions of a file apart.
_TAGS = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "mtime", "LastModified", "created")


class File(NamedTuple):
    """A file in a store: its size in bytes, and a tag that changes with its content."""

    size: int
    tag: str


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is a URL, not a local path."""
    return bool(_URL.match(os.fspath(path)))


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath(os.PathLike):
    """A URL, with the methods of `pathlib.Path` that are used here."""

    url: str

    def __fspath__(self):
        return self.url

    __str__ = __fspath__

    def __truediv__(self, name):
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.url)

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> "RemotePath":
        """The folder."""
        return RemotePath(posixpath.dirname(self.url))

    def with_name(self, name: str) -> "RemotePath":
        """Another file in the same folder."""
        return self.parent / name

    def glob(self, pattern: str) -> "list[RemotePath]":
        """The files in the folder whose names match."""
        return [self / name for name in fnmatch.filter(list_files(self.url), pattern)]

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        system, path = _system(self.url)
        system.invalidate_cache()
        return _attempt(self.url, lambda: system.exists(path))

    def read_bytes(self) -> bytes:
        """The content of a file."""
        system, path = _system(self.url)
        return _attempt(self.url, lambda: system.cat_file(path))

    def read_text(self, errors: str = "strict") -> str:
        """The content of a text file in UTF-8."""
        return self.read_bytes().decode(errors=errors)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file."""
        if not missing_ok or self.exists():
            remove([self.url])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: `put` makes folders where a store has any."""


def as_path(path: str | os.PathLike) -> Path | RemotePath:
    """A path as an object, here or in a store."""
    return RemotePath(os.fspath(path).rstrip("/")) if is_url(path) else Path(path)


def _system(url):
    """The file system of a URL, and the path there."""
    with _explained(url):
        system = _open_system("/".join(url.split("/")[:3]), os.getpid())
        path = system._strip_protocol(url)  # as fsspec.url_to_fs does
    if ".." in path.split("/"):
        raise InputError(f"{url}: `..` cannot be used in a URL")
    return system, path.rstrip("/")


@functools.lru_cache
def _open_system(root, process_id):
    """The file system of all URLs that begin with `root`; fsspec itself has one in each thread."""
    import fsspec

    return fsspec.url_to_fs(root)[0]


def list_files(url: str) -> dict[str, File]:
    """The files in a folder and its subfolders by their names there; a file alone has the name "".

    If nothing is there, the result is empty. It takes one listing, however many files there are.
    """
    system, path = _system(url)
    found = _find(url, system, lambda: system.find(path, detail=True))
    if [*found] == [path]:
        return {"": found[path]}
    return _below(path, found)


def match_files(pattern: str) -> tuple[str, dict[str, File]]:
    """The files that a URL stands for: one file, those below a folder, or what a pattern matches.

    Returns:
        The URL of the folder that the names are relative to, and the files by their names.
    """
    scheme = _URL.match(pattern)[0]
    parts = pattern.removeprefix(scheme).rstrip("/").split("/")
    magic = next((i for i, part in enumerate(parts) if re.search(r"[*?[]", part)), None)
    found = list_files(pattern)  # first as a plain name, even if it looks like a pattern
    if "" in found:
        return scheme + "/".join(parts[:-1]), {parts[-1]: found[""]}
    if found or magic is None:
        return scheme + "/".join(parts), found
    base = scheme + "/".join(parts[:magic])
    system, path = _system(base)
    below = "/".join([path, *parts[magic:]])
    return base, _below(path, _find(base, system, lambda: system.glob(below, detail=True)))


def _below(path, found):
    return {posixpath.relpath(name, path or "/"): file for name, file in sorted(found.items())}


def _find(url, system, find):
    def look():
        system.invalidate_cache()  # others write there, too
        found = find()
        return {
            name: info if info.get("size") is not None else system.info(name)
            for name, info in found.items()
        }

    found = _attempt(url, look)
    return {
        name: _file(info)
        for name, info in found.items()
        if info["type"] == "file" and not name.endswith("/")  # which marks a folder in some stores
    }


def _file(info):
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    return File(int(info["size"]), tag)


def open_binary(path: str | os.PathLike) -> io.BufferedIOBase:
    """Opens a file, here or in a store, for reading; the result can seek."""
    if not is_url(path):
        return open(path, "rb")
    url = os.fspath(path)
    system, path = _system(url)
    size = _attempt(url, lambda: system.info(path))["size"]
    return io.BufferedReader(_Stream(url, size), MIN_BLOCK)


class _Stream(io.RawIOBase):
    """A file in a store. Requests grow while it is read in order, so that few are needed."""

    def __init__(self, url, size):
        self._url, self._size, self._position = url, size, 0
        self._block, self._start, self._want = b"", 0, MIN_BLOCK // 2

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer):
        if self._position >= self._size:
            return 0
        end = self._start + len(self._block)
        if not self._start <= self._position < end:
            is_near = 0 <= self._position - end < _NEAR
            self._want = min(2 * self._want, MAX_BLOCK) if is_near else MIN_BLOCK
            self._start = self._position
            stop = min(self._size, self._start + self._want)
            self._block = read_range(self._url, self._start, stop)
        offset = self._position - self._start
        part = self._block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Reads a file from byte `start` up to `stop`, in smaller requests after an error."""
    system, path = _system(url)
    content, size, delays = bytearray(), stop - start, iter(DELAYS)
    with _explained(url):
        while (begin := start + len(content)) < stop:
            try:
                part = system.cat_file(path, start=begin, end=min(stop, begin + size))
                if not part:
                    raise OSError(f"it became shorter than {stop:,} bytes during reading")
                content += part
                delays = iter(DELAYS)
            except Exception as error:
                _wait(url, error, delays)
                size = max(MIN_BLOCK, size // 4)
    return bytes(content)


@contextlib.contextmanager
def written_whole(url: str) -> Iterator[str]:
    """Yields the name of a local file, which becomes the file at `url` at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="convbert-") as folder:
        path = os.path.join(folder, posixpath.basename(url))
        yield path
        put(path, url)


def put(path: str, url: str) -> None:
    """Sends a local file. It gets its name in the store when all of it is there."""
    system, target = _system(url)

    def send():
        if _URL.match(url)[1].lower() in _WHOLE_PUTS:
            system.put_file(path, target)
            return
        folder, name = posixpath.split(target)
        temporary = f"{folder}/.{name}.{os.uname().nodename}-{os.getpid()}.convbert-tmp"
        system.makedirs(folder, exist_ok=True)
        try:
            system.put_file(path, temporary)
            if system.exists(target):  # some stores do not replace a file
                system.rm_file(target)
            system.mv(temporary, target)
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm_file(temporary)
            raise

    _attempt(url, send, "write")


def remove(urls: list[str]) -> None:
    """Removes files of one store, many in one request if the store allows it."""
    if urls:
        system, _ = _system(urls[0])
        paths = [_system(url)[1] for url in urls]
        _attempt(urls[0], lambda: system.rm(paths), "remove")


def _attempt(url: str, operation: Callable[[], Any], action: str = "read") -> Any:
    """Calls `operation` and returns its result; tries again after a temporary error."""
    delays = iter(DELAYS)
    with _explained(url, action):
        while True:
            try:
                return operation()
            except Exception as error:
                _wait(url, error, delays)


def _wait(url, error, delays):
    """Waits before the next try, or raises the error if there is no next try."""
    name = type(error).__name__
    is_final = isinstance(error, _FINAL) or _CREDENTIALS.search(name)
    if _INVALID in name or getattr(error, "errno", None) == errno.EINVAL:
        is_final = True  # the request itself is wrong
    delay = None if is_final else next(delays, None)
    if delay is None:
        raise error
    logging.warning("%s: %s; trying again", url, _reason(error))
    time.sleep(delay)


def _reason(error):
    """What an error says, in a line that is not too long."""
    return shortened(" ".join(str(error).split()) or type(error).__name__).rstrip(". ")


@contextlib.contextmanager
def _explained(url: str, action: str = "read") -> Iterator[None]:
    """Turns an error of a store, whatever its package, into an `InputError` that explains it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot {action} {url}: {_problem(url, error)}") from error


def _problem(url, error):
    reason = _reason(error)
    if isinstance(error, ImportError):
        from fsspec.registry import known_implementations

        known = known_implementations.get(_URL.match(url)[1].lower(), {})
        package = known.get("class", "").split(".")[0]
        return f"pip install {package}" if package not in ("", "fsspec") else reason
    if isinstance(error, ValueError) and "rotocol" in reason:
        return f"{reason}. Expected a path, or a URL such as s3://BUCKET/FOLDER"
    if isinstance(error, FileNotFoundError):
        return f"not found ({reason}). Check the names of the bucket and the folder"
    if isinstance(error, PermissionError) or _CREDENTIALS.search(type(error).__name__):
        return f"no access ({reason}). Check the credentials, and what they allow"
    return f"{reason}. Check the address and the connection"
