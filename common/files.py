"""Files and directories that appear whole or not at all, and small files read with care."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from common.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary name beside `path`; what was written there becomes `path` at the end.

    The content reaches the disk before the rename, so a crash leaves the old file or the new one.
    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    path = os.fspath(path)
    # Containers of one cluster often have the same process ids.
    temporary = f"{path}.{os.uname().nodename}-{os.getpid()}.tmp"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(os.path.abspath(path)))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` (UTF-8) to `path` at once."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[str]:
    """Yields a new directory beside `path`, which becomes `path` at the end: `replace_directory`.

    One that a killed process left is deleted before. If the block raises, the new directory is
    removed and `path` stays as it was.
    """
    path = os.path.abspath(path)  # "name/" would have it inside
    temporary = f"{path}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    try:
        yield temporary
        replace_directory(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames the directory `temporary`, on the same file system, to `path`.

    Its content reaches the disk first. A directory that has the name already is deleted; between
    the two there is a moment without either, and never one with a part of one.
    """
    path, old = os.fspath(path), f"{os.fspath(path)}.old"
    for folder, _, names in os.walk(temporary):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, old)
    os.rename(temporary, path)
    sync(os.path.dirname(os.path.abspath(path)))
    shutil.rmtree(old, ignore_errors=True)


def sync(path: str | os.PathLike) -> None:
    """Waits until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json_object(path: str | os.PathLike, max_bytes: int = 4 << 20) -> dict[str, Any]:
    """Reads a small file with one JSON object.

    Raises:
        InputError: larger than `max_bytes`, not JSON, or of another type.
    """
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 20} MB, as no such file is")
    try:
        fields = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not a JSON object, but a {type(fields).__name__}")
    return fields
