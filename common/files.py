"""Files and directories that appear whole or not at all, and small files read with care."""

import codecs
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from common.errors import InputError

# Ends every temporary name, so that nothing of a user's own can have one.
TEMPORARY_SUFFIX = ".convbert-tmp"


def _temporary_name(path: str) -> str:
    """A name beside `path` that no other process uses; leftovers of killed processes go first.

    Containers of one cluster often have the same process ids, so the host is part of the name.
    Only this host's leftovers are removed, and only if their process is gone.
    """
    folder, name = os.path.split(path)
    prefix = f".{name}.{os.uname().nodename}-"
    os.makedirs(folder, exist_ok=True)
    for entry in os.listdir(folder):
        if entry.startswith(prefix) and entry.endswith(TEMPORARY_SUFFIX):
            process = entry[len(prefix) : -len(TEMPORARY_SUFFIX)].split("-")[0]
            if process.isdecimal() and not _is_running(int(process)):
                _remove(os.path.join(folder, entry))
    unique = f"{os.getpid()}-{next(_COUNTER)}"
    return os.path.join(folder, f"{prefix}{unique}{TEMPORARY_SUFFIX}")


_COUNTER = itertools.count()


def _is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists, and is someone else's
    return True


def _remove(path):
    """Removes a file or a directory tree; what is not there is fine."""
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
    """Turns an OSError, or one of `others`, of a write to or below `path` into a `WriteError`.

    The message ends with `advice`: what to do about it.
    """
    try:
        yield
    except (OSError, *others) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"cannot write {path}: {reason}"
        raise WriteError(f"{message}. {advice}" if advice else message) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary name beside `path`; what is written there becomes `path` at the end.

    The content reaches the disk before the rename, so a crash leaves the old file or the new one.
    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    path = os.path.abspath(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(path))
    finally:
        _remove(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def temporary_directory(path: str | os.PathLike) -> Iterator[str]:
    """Yields a new directory beside `path`, with a temporary name; it is removed at the end."""
    temporary = _temporary_name(os.path.abspath(path))  # "name/" would have it inside
    os.mkdir(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[str]:
    """Yields a new directory beside `path`, which becomes `path` at the end: `replace_directory`.

    If the block raises, the new directory is removed and `path` stays as it was.
    """
    with temporary_directory(path) as temporary:
        yield temporary
        replace_directory(temporary, path)


def replace_directory(new: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames the directory `new`, on the same file system, to `path`.

    Its content reaches the disk first. A directory that already has the name is replaced as a
    whole: for a moment there is neither, but never a part of one.
    """
    path = os.path.abspath(path)
    for folder, _, names in os.walk(new):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)
    old = _temporary_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, old)
    os.rename(new, path)
    sync(os.path.dirname(path))
    _remove(old)


def sync(path: str | os.PathLike) -> None:
    """Waits until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small_text(path: str | os.PathLike, max_bytes: int) -> str:
    """Reads a text file; see `decode_text`.

    Raises:
        InputError: no such file, larger than `max_bytes`, cannot be read, or other bytes than text.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read() if size <= max_bytes else b""
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if size > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 20} MB; not plausible for this file")
    return decode_text(content, path)


def decode_text(content: bytes, source: str | os.PathLike) -> str:
    """Decodes UTF-8, or UTF-16 after a byte-order mark; the mark of either is left out.

    Raises:
        InputError: other bytes; the message names `source` and the line.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = "expected UTF-8 text, got other bytes. It may be Windows-1252: save it as UTF-8"
        raise InputError(f"{source}, line {line}: {problem}") from None


def read_json_object(path: str | os.PathLike, max_bytes: int = 4 << 20) -> dict[str, Any]:
    """Reads a small file that holds one JSON object.

    Raises:
        InputError: as `read_small_text`, not JSON (with line and column), or JSON of another type.
    """
    return parse_json_object(read_small_text(path, max_bytes), os.fspath(path))


def parse_json_object(text: str, source: str) -> dict[str, Any]:
    """Parses a JSON object; `source` is where it comes from, for messages.

    Raises:
        InputError: not JSON (with line and column), or JSON of another type.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{source}: not JSON at {position}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a huge number, or brackets nested too deeply
        raise InputError(f"{source}: not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else json.dumps(value)[:50]
        raise InputError(f"{source}: expected a JSON object, got {found}")
    return value
