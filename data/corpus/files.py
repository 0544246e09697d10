"""The files of a corpus as streams of bytes, and the errors of reading them."""

import bz2
import codecs
import contextlib
import gzip
import io
import itertools
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.errors import InputError
from common.files import encoding_of

_CHUNK_BYTES = 1 << 18
_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, UnicodeDecodeError)


class DamagedError(InputError):
    """A file of the corpus is damaged."""


@contextlib.contextmanager
def read_errors(name: str | os.PathLike) -> Iterator[None]:
    """Turns errors of reading in the `with` block into an `InputError` that names the file.

    If a decoder rejects the bytes, it is a `DamagedError`. An error of the operating system, such
    as a lack of permission or memory, does not mean that the file is damaged.
    """
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        # The OSErrors of decoders (gzip, bz2, zstd, parquet) have no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {error.filename or name}: {error.strerror}") from error
        raise DamagedError(
            f"{name}: damaged, or not the type of file that its name says: {str(error).strip()}. "
            "Download it again, or skip the rest of it with --skip-damaged."
        ) from error
    except MemoryError as error:
        raise InputError(f"cannot read {name}: memory ran out") from error


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
            hint = "" if tar.offset else " (for text without a tar, use --corpus-format)"
            raise tarfile.ReadError(f"bad header at byte {tar.offset}: {error}{hint}") from error


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
    """Yields the content of an open file in chunks; `compression` is its ending, or empty."""
    if compression == ".zst":
        import pyarrow

        return read_chunks(pyarrow.CompressedInputStream(file, "zstd"))
    if compression in (".bz2", ".xz"):
        make = bz2.BZ2Decompressor if compression == ".bz2" else lzma.LZMADecompressor
        return _decompress_streams(read_chunks(file), make)
    return read_chunks(gzip.open(file) if compression == ".gz" else io.BufferedReader(file))


def as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turns text with UTF-16's byte-order mark into UTF-8; other text stays as it is."""
    first = next(chunks, b"")
    chunks = itertools.chain([first], chunks)
    if encoding_of(first) != "utf-16":
        return chunks
    texts = codecs.iterdecode(chunks, "utf-16", "surrogatepass")
    return (text.encode(errors="surrogatepass") for text in texts)


def _decompress_streams(chunks: Iterable[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompresses streams that follow each other, with a decompressor from `make` for each.

    `bz2.open` and `lzma.open` would take damage at the beginning of a stream for the end.
    """
    decompressor = make()
    for chunk in chunks:
        while chunk := chunk.lstrip(b"\0") if decompressor.eof else chunk:  # zeros are padding
            decompressor = make() if decompressor.eof else decompressor
            yield decompressor.decompress(chunk, _CHUNK_BYTES)
            while not (decompressor.needs_input or decompressor.eof):
                yield decompressor.decompress(b"", _CHUNK_BYTES)
            chunk = decompressor.unused_data  # noqa: PLW2901
    if not decompressor.eof:
        raise EOFError("it ends inside compressed data")


def read_chunks(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yields the rest of an open file in chunks."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
