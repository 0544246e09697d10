"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator


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
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` (UTF-8) to `path` at once."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
