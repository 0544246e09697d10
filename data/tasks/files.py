"""The files of tasks as text, lines and JSON records, whatever program wrote them.

Files may be gzipped, and are decoded by `decode_text`. The rows of a parquet file are read as JSON
lines, so that all code for JSON lines can read them, too. Lines end in LF or CRLF, or in CR where
there is no LF. A line of spaces is blank, and holds nothing.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from common.errors import InputError
from common.files import decode_text
from data.tasks.examples import listed, shown

JSON_ENDINGS = (".jsonl", ".json")
PARQUET = ".parquet"
GZIP_START = b"\x1f\x8b"  # never the start of text


def file_ending(path: str) -> str:
    """The ending of a file's name in lower case, without `.gz`; `.jsonl` for a parquet file."""
    ending = os.path.splitext(path.lower().removesuffix(".gz"))[1]
    return ".jsonl" if ending == PARQUET else ending


def read_text(path: str) -> tuple[str, str]:
    """A file's text, and the SHA-256 of its bytes as they are on the disk.

    Raises:
        InputError: the file cannot be read, or is not text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        if path.lower().endswith(PARQUET):
            return _parquet_as_json(path, content), hashlib.sha256(content).hexdigest()
        text = gzip.decompress(content) if content.startswith(GZIP_START) else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it: {error}") from None
    return decode_text(text, path), hashlib.sha256(content).hexdigest()


def _parquet_as_json(path, content):
    """The rows of a parquet file as JSON lines; row N, from 1, is line N."""
    import pyarrow
    import pyarrow.parquet

    def as_text(value):  # such as a date; some programs write text as bytes
        return value.decode() if isinstance(value, bytes) else str(value)

    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
        return "\n".join(json.dumps(row, default=as_text, ensure_ascii=False) for row in rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read it: {error}") from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of each line."""
    # Not str.splitlines, which would also split at characters inside a text.
    end = "\n" if "\n" in text else "\r"
    for number, line in enumerate(text.split(end), start=1):
        yield number, line.removesuffix("\r")


def is_blank(line: str) -> bool:
    """Whether a line holds nothing. One with tabs holds empty cells."""
    return not line.strip(" ")


def parse_json(text: str, where: str) -> Any:
    """Parses JSON; an `InputError` begins with `where`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None


def json_records(path: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each object of a file: one per line, or all in one list, or only one.

    A place is, for example, "line 3", or "record 3" of a list.
    """
    lines = [(f"line {number}", line) for number, line in lines_of(text) if not is_blank(line)]
    if not lines:
        return
    if len(lines) == 1 or not _is_json(lines[0][1]):
        value = parse_json(text, path)
        if isinstance(value, list):
            records = ((f"record {number}", item) for number, item in enumerate(value, start=1))
        else:
            records = [(lines[0][0], value)]
    else:
        records = ((place, parse_json(line, f"{path}, {place}")) for place, line in lines)
    for place, value in records:
        yield place, as_object(value, f"{path}, {place}")


def as_object(value: Any, where: str) -> dict[str, Any]:
    """A value of JSON that must be an object; an `InputError` begins with `where`."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, got {shown(value)}")
    return value


def field_of(value: Any, name: str, where: str) -> Any:
    """A field that a JSON object must have; an `InputError` begins with `where`."""
    if name not in as_object(value, where):
        raise InputError(f"{where}: expected a field `{name}`, got {listed(value)}")
    return value[name]


def _is_json(line):
    try:
        parse_json(line, "")
    except InputError:
        return False
    return True
