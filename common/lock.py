"""One job at a time in a folder: a lock that disappears with the process that holds it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator

from absl import logging

from common.errors import InputError

# Errors of file systems without locks, such as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[str] = set()  # a process's own locks do not exclude each other


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str, advice: str, shared: bool = False) -> Iterator[None]:
    """Holds the lock file `path` during the block, and deletes it at the end.

    A folder that had to be created for it is deleted, too, unless the block wrote something there.
    In a folder that cannot be written to, nothing is locked.

    The lock is the operating system's (POSIX): it ends with the process, however that ends, so a
    file left by a dead process is no obstacle. Worker processes do not inherit it. Network file
    systems with locks, such as NFS, enforce it between machines. A file system without locks only
    causes a warning.

    Messages say that `what` is in use, and give `advice`. With `shared`, other processes that share
    the lock can hold it at the same time, and the file stays.

    Raises:
        InputError: this process or another one, which the message names, has the lock; or the file
            cannot be opened for writing.
    """
    path = os.path.realpath(path)
    if path in _held:
        raise InputError(f"{what} is in use by this process. {advice}")
    new_folders, folder = [], os.path.dirname(path)
    while not os.path.lexists(folder):
        new_folders.append(folder)
        folder = os.path.dirname(folder)
    try:
        descriptor = _open_locked(path, what, advice, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS) or os.path.lexists(path):
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        yield  # nothing can be written there, so there is nothing to exclude
        return
    _held.add(path)
    try:
        holder = {
            "process": os.getpid(),
            "host": os.uname().nodename,
            "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(FileNotFoundError):
            if not shared:  # else others may have it
                os.unlink(path)  # before the lock ends, so that nobody's new file is deleted
        os.close(descriptor)
        with contextlib.suppress(OSError):  # they stay if the job wrote something
            for folder in new_folders:
                os.rmdir(folder)


def _open_locked(path, what, advice, kind):
    """Opens and locks the file; returns its descriptor."""
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another job has just removed the folder, as below
            continue
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # its holder has just deleted it
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except (BlockingIOError, PermissionError):
            content = os.pread(descriptor, 1 << 16, 0)
            os.close(descriptor)
            raise InputError(f"{what} is in use by {_describe(content)}. {advice}") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                logging.warning(
                    "%s: this file system has no locks, so a second job in the same folder would "
                    "not be noticed",
                    path,
                )
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _describe(content):
    """Who holds a lock, from the file's content, which may be half written."""
    try:
        holder = json.loads(content)
        return (
            f"process {holder['process']} on {holder['host']} since {holder['since']} "
            f"({' '.join(holder['command'])[:200]})"
        )
    except (ValueError, TypeError, KeyError):
        return "another process"
