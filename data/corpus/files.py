"""The files of a corpus as streams of bytes, and one error for all kinds of damage to them."""

import contextlib
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator

from common.errors import InputError

_CHUNK_BYTES = 1 << 18
_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


class DamagedError(InputError):
    """A file of the corpus is damaged."""


@contextlib.contextmanager
def damage_errors(name: str | os.PathLike) -> Iterator[None]:
    """Turns damage found in the `with` block into a `DamagedError` that names the file."""
    try:
        yield
    except _DAMAGE as error:
        raise DamagedError(
            f"{name}: damaged, or not the type of file that its name says: {str(error).strip()}. "
            "Download it again, or skip the rest of it with --skip-damaged."
        ) from error


class StrictTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, which `tarfile` takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar):
        """Reads the next header."""
        try:
            return super().fromtarfile(tar)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            raise  # the two regular ends of an archive
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"bad header at byte {tar.offset}: {error}") from error


def file_range(file: io.BufferedIOBase, start: int, size: int) -> io.RawIOBase:
    """A range of a file, as a file."""
    return _FileRange(file, start, size)


class _FileRange(io.RawIOBase):
    def __init__(self, file, start, size):
        self._file, self._start, self._size, self._position = file, start, size, 0
        self._file.seek(start)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self._position = offset + (0, self._position, self._size)[whence]
        self._file.seek(self._start + self._position)
        return self._position

    def readinto(self, buffer):
        size = max(0, min(len(buffer), self._size - self._position))
        chunk = self._file.read(size)
        if size and not chunk:
            raise EOFError("the file became shorter during reading")
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def decompress(file: io.RawIOBase, compression: str) -> Iterator[bytes]:
    """Yields the content of an open file in chunks; `compression` is .gz, .xz, .zst or empty."""
    if compression == ".zst":
        import pyarrow

        return read_chunks(pyarrow.CompressedInputStream(file, "zstd"))
    openers = {"": io.BufferedReader, ".gz": gzip.open, ".xz": lzma.open}
    return read_chunks(openers[compression](file))


def read_chunks(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yields the rest of an open file in chunks."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
