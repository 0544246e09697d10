"""Files and directories that appear whole or not at all, and small files read with care."""

import codecs
import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from typing import Any

from common import remote
from common.errors import InputError

# Ends every temporary name, so that no file of a user is mistaken for one.
TEMPORARY_SUFFIX = ".convbert-tmp"


def _temporary_name(path: str) -> str:
    """A name beside `path` that no other process uses.

    When this process first writes to the folder, it removes what dead processes left there.
    Two containers often have the same process ids, and sometimes the same host name. So the name
    contains the host, the PID namespace and the process id. Only leftovers of this host and
    namespace are removed.
    """
    folder, name = os.path.split(path)
    with contextlib.suppress(FileExistsError):  # it is a file: the next line fails
        os.makedirs(folder, exist_ok=True)
    for entry in os.listdir(folder) if folder not in _CLEARED else ():
        match = _OWN.fullmatch(entry)
        if match and not _is_running(int(match[1])):
            _remove(os.path.join(folder, entry))
    _CLEARED.add(folder)
    short = name.encode()[:80].decode(errors="ignore")  # file systems limit names to 255 bytes
    unique = f"{_PLACE}-{os.getpid()}-{next(_COUNTER)}"
    return os.path.join(folder, f".{short}.{unique}{TEMPORARY_SUFFIX}")


def _process_space():
    """The kernel's number for this process's PID namespace; "" if it has none."""
    try:
        return "".join(filter(str.isdecimal, os.readlink("/proc/self/ns/pid")))
    except OSError:
        return ""


_PLACE = f"{os.uname().nodename[:64]}-{_process_space()}"
_OWN = re.compile(rf"\..*\.{re.escape(_PLACE)}-(\d+)-\d+{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL)
_COUNTER = itertools.count()
_CLEARED: set[str] = set()


def _is_running(process_id):
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it exists, and belongs to another user
    return True


def _remove(path):
    """Removes a file or a directory tree, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


class WriteError(InputError):
    """A file could not be written, most likely because the disk is full; the message names it."""


@contextlib.contextmanager
def write_errors_named(
    path: str | os.PathLike, *others: type[Exception], advice: str = ""
) -> Iterator[None]:
    """Turns an OSError or one of `others` from a write to or below `path` into a `WriteError`.

    The message ends with `advice`: what to do about it.
    """
    try:
        yield
    except WriteError as error:  # from one of the functions below
        if not advice:
            raise
        raise WriteError(f"{error}. {advice}") from error
    except (OSError, *others) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"cannot write {os.fspath(path)}: {reason}"
        raise WriteError(f"{message}. {advice}" if advice else message) from error


def require_writable(folder: str | os.PathLike, num_bytes: int = 0) -> None:
    """Checks, before long work, that files of `num_bytes` can be written to or below `folder`.

    The folder need not exist.

    Raises:
        WriteError: the folder, or the one that it would be created in, is not a folder or is not
            writable, or its disk has less than `num_bytes` free.
    """
    if remote.is_url(folder):
        return
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    with write_errors_named(folder):
        if not os.path.isdir(existing):
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is not a directory")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no permission to write in {existing}")
        free = shutil.disk_usage(existing).free
        if free < num_bytes:
            needed = f"{num_bytes / 1e6:,.0f} MB are needed, and {free / 1e6:,.0f} MB are free"
            raise OSError(errno.ENOSPC, needed)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary name beside `path`; what is written there becomes `path` at the end.

    The content reaches the disk before the rename, so a crash leaves the old file or the new one.
    If the block raises, the temporary file is removed and `path` stays as it was. An OSError of the
    write becomes a `WriteError`. A symbolic link stays one; a device or a pipe is written directly.
    A URL gets the file when it is complete.
    """
    if remote.is_url(path):
        with remote.written_whole(os.fspath(path)) as temporary:
            yield temporary
        return
    path = os.path.abspath(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with _own_errors_named(path, path):
            yield path
        return
    path = os.path.realpath(path)
    with write_errors_named(path):
        temporary = _temporary_name(path)
    try:
        with _own_errors_named(path, temporary):
            yield temporary
        with write_errors_named(path):
            _finish(temporary)
            os.replace(temporary, path)
            sync(os.path.dirname(path))
    finally:
        _remove(temporary)


# Errors that do not name a file, and can only come from a write.
_OF_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextlib.contextmanager
def _own_errors_named(path, temporary):
    """Like `write_errors_named`, but passes on errors of reading other files."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_WRITES or str(error.filename).startswith(temporary):
            with write_errors_named(path):
                raise
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str | os.PathLike, value: Any, indent: int = 2, **options: Any) -> None:
    """Writes a value as `json.dumps` shows it, with `options`, and a newline; see `write_text`."""
    write_text(path, json.dumps(value, indent=indent, **options) + "\n")


@contextlib.contextmanager
def temporary_directory(path: str | os.PathLike) -> Iterator[str]:
    """Yields a new directory beside `path`, with a temporary name; it is removed at the end."""
    path = os.path.abspath(path)  # with "name/", it would be inside
    with write_errors_named(path):
        temporary = _temporary_name(path)
        os.mkdir(temporary)
    try:
        with _own_errors_named(path, temporary):
            yield temporary
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[str]:
    """Yields a new directory, which becomes `path` at the end; see `replace_directory`.

    If the block raises, the directory is removed and `path` stays as it was. An OSError of the
    write becomes a `WriteError`.
    """
    with temporary_directory(path) as temporary:
        yield temporary
        replace_directory(temporary, path)


def replace_directory(new: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames the directory `new`, on the same file system, to `path`.

    Its content reaches the disk first. A directory that already has the name is replaced as a
    whole: for a moment there is neither, but never a part of one.

    Raises:
        WriteError: an OSError. If a rename fails, a directory that had the name keeps it.
    """
    path = os.path.abspath(path)
    with write_errors_named(path):
        for folder, _, names in os.walk(new):
            for name in names:
                _finish(os.path.join(folder, name))
            sync(folder)
        old = _temporary_name(path)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.rename(old, path)
            raise
        sync(os.path.dirname(path))
        _remove(old)


def _finish(path):
    """Makes a new file readable for all that the umask allows, and waits until it is on disk.

    Safetensors makes its files readable only for their owner (0600).
    """
    if stat.S_IMODE(os.lstat(path).st_mode) == 0o600:
        mask = os.umask(0o077)
        os.umask(mask)
        os.chmod(path, 0o666 & ~mask)
    sync(path)


# Errors of file systems that cannot sync a file or a directory, such as some network ones.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


def sync(path: str | os.PathLike) -> None:
    """Waits until a file's content, or a directory's list of names, is on the disk, if possible."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def find_path(name: str, path: str, data_dir: str | os.PathLike) -> str:
    """Finds the path that a user gave as `name`: in the current directory, or in `data_dir`.

    A URL is not looked up.

    Raises:
        InputError: it is in neither place.
    """
    if remote.is_url(path):
        return path
    path = os.path.expanduser(path)
    places = list(dict.fromkeys([path, os.path.join(data_dir, path)]))  # one if `path` is absolute
    for place in places:
        if remote.as_path(place).exists():
            return place
    raise InputError(f"`{name}`: {' and '.join(places)} not found")


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with remote.open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small_text(path: str | os.PathLike, max_bytes: int) -> str:
    """Reads a text file; see `decode_text`.

    Raises:
        InputError: the file does not exist, is larger than `max_bytes`, cannot be read, or is not
            text.
    """
    content = bytearray()
    try:
        with remote.open_binary(path) as file:
            # In pieces: one read would reserve all of `max_bytes` first.
            while len(content) <= max_bytes and (piece := file.read(1 << 20)):
                content += piece
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 20} MB; not plausible for this file")
    return decode_text(content, path)


def encoding_of(content: bytes | bytearray) -> str:
    """The encoding by the byte-order mark: "utf-16" or "utf-8-sig"; "utf-8" without one."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"


def decode_text(content: bytes | bytearray, source: str | os.PathLike) -> str:
    """Decodes UTF-8, or UTF-16 with a byte-order mark; the mark of either is left out.

    Raises:
        InputError: the bytes are something else; the message names `source` and the line.
    """
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = "expected UTF-8 text, got other bytes. It may be Windows-1252: save it as UTF-8"
        raise InputError(f"{source}, line {line}: {problem}") from None


def read_json_object(path: str | os.PathLike, max_bytes: int = 4 << 20) -> dict[str, Any]:
    """Reads a small file that holds one JSON object.

    Raises:
        InputError: as `read_small_text` and `parse_json_object`.
    """
    return parse_json_object(read_small_text(path, max_bytes), os.fspath(path))


def parse_json_object(text: str, source: str) -> dict[str, Any]:
    """Parses a JSON object; `source` is where it comes from, for messages.

    Raises:
        InputError: not JSON (with line and column), JSON that cannot be read or is of another type,
            or an object that has a name twice: choosing one of its values would be a guess.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{source}: not JSON at {position}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a huge number, or brackets nested too deeply
        raise InputError(f"{source}: not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else json.dumps(value)[:50]
        raise InputError(f"{source}: expected a JSON object, got {found}")
    return value


def _unique(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"`{max(names, key=names.count):.80}` is there twice")
    return dict(pairs)
