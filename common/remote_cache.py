"""Local copies of folders in object stores: fetched once, and again where they changed.

A job writes to a working copy of a folder. `open_copy` makes the copy equal to the folder in the
store, and `send_copy` makes the folder in the store equal to the copy.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

from common import remote
from common.console import progress_bar
from common.errors import InputError
from common.files import TEMPORARY_SUFFIX, atomic_path, sha256_of, write_errors_named, write_text

_THREADS = 8
_held: dict[str, int] = {}  # the descriptors of locked files


class Copy(NamedTuple):
    """The path of a fetched folder or file, and the SHA-256 of each file by its name."""

    path: str
    hashes: dict[str, str]


def cache_directory() -> str:
    """Where copies are kept: CONVBERT_CACHE, or convbert in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("CONVBERT_CACHE") or os.path.join(cache, "convbert")


def local_path(url: str) -> str:
    """Where the copy of a file or folder is, or will be; a local path is returned as it is."""
    if not remote.is_url(url):
        return url
    return os.path.join(cache_directory(), *url.replace("://", "/").strip("/").split("/"))


@functools.cache
def local(path: str, is_optional: bool = False) -> str:
    """A local path as it is; for a URL, the path of its copy, which is fetched once per process.

    With `is_optional`, it may be missing in the store; then the copy is missing, too.
    """
    if is_optional:
        open_copy(path)
        return local_path(path)
    return fetch(path).path if remote.is_url(path) else path


def fetch(url: str, choose: Callable[[list[str]], Iterable[str]] = iter) -> Copy:
    """Fetches a folder, or a file, unless the copy in the cache has the same sizes and tags.

    Files that are no longer in the store are removed from the copy, too. If the copy is complete,
    the store is asked for one listing, and nothing else. `choose` gets the names of all files and
    returns those that are wanted.

    Raises:
        InputError: there is no such folder or file, nothing wanted in it, a name that no local file
            can have, or an error of the store.
        WriteError: the copy cannot be written.
    """
    url = url.rstrip("/")
    there = remote.list_files(url)
    base = url
    if "" in there:  # a file
        base, name = url.rsplit("/", 1)
        there = {name: there[""]}
    found = {name: there[name] for name in choose([*there])}
    if not found:
        names = f": it has only {', '.join([*there][:10])}" if there else ""
        raise InputError(f"{url}: not found{names}. Check the names of the bucket and the folder")
    if bad := [name for name in found if name.split("/")[0] in ("", "..")]:
        raise InputError(f"{url}: `{bad[0]}` cannot be the name of a file here")
    directory = local_path(base)
    with write_errors_named(directory), _index(url) as index:
        for name in index.keys() - there.keys():
            del index[name]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        missing = {
            name: file
            for name, file in found.items()
            if not _is_current(os.path.join(directory, name), file, index.get(name, []))
        }
        _fetch_files(base, missing, directory, index)
        hashes = {name: index[name][2] for name in found}
    return Copy(local_path(url), hashes)


def hold_copy(url: str) -> None:
    """Reserves the working copy of a folder for this process, until it ends.

    Raises:
        InputError: another process has it, and may not have sent all its changes yet.
    """
    path = f"{_index_path(url)}.job"
    if path in _held or not remote.is_url(url):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _held[path] = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(_held[path], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(_held.pop(path))
        raise InputError(
            f"another job works on {url} in {cache_directory()}. Wait until it ends, or set "
            "CONVBERT_CACHE to another folder for this job"
        ) from None
    except OSError:
        pass  # a file system without locks


def open_copy(url: str, without: tuple[str, ...] = ()) -> None:
    """Makes the working copy of a folder, which may be missing in the store; see `local_path`.

    Files that the store does not have are removed from the copy: all machines of a run must have
    the same files. Folders with a name in `without` are left alone, wherever they are. A path that
    is not a URL needs no copy.
    """
    if not remote.is_url(url):
        return
    there = _names(remote.list_files(url), without)
    if there:
        fetch(url, lambda names: _names(names, without))
    directory = local_path(url)
    for name in set(_names(_local_names(directory), without)) - set(there):
        os.unlink(os.path.join(directory, name))


def send_copy(url: str, without: tuple[str, ...] = ()) -> None:
    """Sends what changed in a working copy, and removes what is gone; see `open_copy`.

    Checkpoints come last, and of those the JSON files that describe them.
    """
    if not remote.is_url(url):
        return
    directory = local_path(url)
    with _index(url) as index:
        names = _names(_local_names(directory), without)
        times = {name: os.stat(os.path.join(directory, name)).st_mtime_ns for name in names}
        changed = [name for name in names if index.get(name, [])[3:] != [times[name]]]
        for name in sorted(changed, key=lambda n: ("checkpoints" in n, n.endswith(".json"), n)):
            remote.put(os.path.join(directory, name), f"{url}/{name}")
            index.pop(name, None)
        gone = set(_names(index, without)) - set(names)
        remote.remove([f"{url}/{name}" for name in gone])
        for name in gone:
            del index[name]
        there = remote.list_files(url) if changed else {}
        for name in changed:
            index[name] = [*there[name], sha256_of(os.path.join(directory, name)), times[name]]


def _names(names, without):
    return [name for name in names if not set(name.split("/")[:-1]) & set(without)]


def _local_names(directory):
    """The files in a folder and its subfolders; without locks and temporary files."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), directory)
            if TEMPORARY_SUFFIX not in path and not name.endswith(".lock"):
                yield path


def _is_current(path, file, entry):
    """Whether a copy has what is in the store, and nobody has written to it since."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    is_fetched = entry[:2] == [*file] and entry[3:] == [status.st_mtime_ns]
    return is_fetched and status.st_size == file.size


def _index_path(url):
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
    return os.path.join(cache_directory(), ".index", name)


@contextlib.contextmanager
def _index(url: str) -> Iterator[dict[str, list]]:
    """The cached files of a URL, by name: size, tag, SHA-256, and when each was written here.

    Only one process can open it at a time. Changes are saved at the end, even after an error.
    """
    path = _index_path(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(path, encoding="utf-8") as file:
                index = json.load(file)
        except (FileNotFoundError, ValueError):
            index = {}
        before = dict(index)
        try:
            yield index
        finally:
            if index != before:
                write_text(path, json.dumps(index))


def _fetch_files(url, missing, directory, index):
    """Fetches files in parallel, and adds each to the index."""
    total = sum(file.size for file in missing.values())
    options = {"unit": "B", "unit_scale": True, "disable": not missing}
    with (
        progress_bar(total, f"fetching {url}", **options) as bar,
        futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
        fetch_one = functools.partial(_fetch_file, url, directory, bar)
        running = {pool.submit(fetch_one, *item): item for item in missing.items()}
        try:
            for done in futures.as_completed(running):
                name, file = running[done]
                entry = [*file, done.result()]
                index[name] = [*entry, os.stat(os.path.join(directory, name)).st_mtime_ns]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_file(url, directory, bar, name, file):
    """Fetches a file; returns its SHA-256."""
    target, digest = os.path.join(directory, name), hashlib.sha256()
    with atomic_path(target) as temporary, open(temporary, "wb") as output:
        for start in range(0, file.size, remote.MAX_BLOCK):
            stop = min(file.size, start + remote.MAX_BLOCK)
            part = remote.read_range(f"{url}/{name}", start, stop)
            output.write(part)
            digest.update(part)
            bar.update(len(part))
    return digest.hexdigest()
