"""Small input files for tests."""

import json

import pyarrow
import pyarrow.parquet


def as_lines(objects):
    """Objects as JSON lines."""
    return "".join(json.dumps(item) + "\n" for item in objects)


def write(path, content):
    """Writes text, bytes, or an object as JSON, in a folder that may be new; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def parquet(**columns):
    """The bytes of a parquet file."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()
