"""The text of a long line of JSON is what `json.loads` gives, wherever the chunks are cut."""

import json
import random

import pytest

from data.corpus.long_json import long_text

OBJECTS = [
    '{"text": "plain"}',
    '{"text": ""}',
    ' { "id" : 5 , "text" : "a \\" quote, a \\\\ backslash\\\\", "x": null } ',
    '{"text": "æøå — 漢字 😀 and \\u00e6 \\ud83d\\ude00 \\\\ud83d \\n\\t\\/"}',
    '{"meta": {"text": "no", "list": ["text", ":", {"text": "no"}]}, "text": "yes"}',
    '{"text": {"text": "no"}, "a": "text", "b": ["text"]}',
    '{"te\\u0078t": "an escaped key"}',
    '{"other": "text", "n": [1.5, -2e9, true], "text": "last"}',
    "[]",
    '["text"]',
    '{"text": 5}',
    '{"text": "half a pair: \\ud83d"}',
    '{"text": "two first halves: \\ud83d\\ud83d\\ude00 and \\ude00"}',
]
NO_JSON = [
    '{"text": "no end',
    '{"text": "no end\\',
    '{"text": "bad escape \\q"}',
    '{"text": "bad escape \\u12g4 and more after it"}',
    '{"text": "bad pair \\ud83d\\u12"}',
    '{"text": "a tab \t"}',
    '{"text": "yes"',
    '{"text": "yes"}}',
    '{"text" "yes"}',
    '{"text": "yes", "other": "no end',
    '{"other": "\\q", "text": "yes"}',
    "",
    "text",
]


def cuts(data):
    """Yields the data whole, byte by byte, and cut at random."""
    random.seed(0)
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for _ in range(20):
        ends = sorted(random.choices(range(len(data) + 1), k=3))
        yield [data[i:j] for i, j in zip([0, *ends], [*ends, len(data)], strict=True)]


@pytest.mark.parametrize("text", OBJECTS)
def test_equal_to_the_parser(text):
    record = json.loads(text)
    value = record.get("text") if isinstance(record, dict) else None
    for chunks in cuts(text.encode()):
        if isinstance(value, str):
            assert b"".join(long_text(chunks, "text", 1000)) == value.encode(errors="surrogatepass")
        else:
            with pytest.raises(LookupError):
                list(long_text(chunks, "text", 1000))


@pytest.mark.parametrize("text", NO_JSON)
def test_no_json(text):
    with pytest.raises(ValueError):
        json.loads(text)
    for chunks in cuts(text.encode()):
        with pytest.raises(ValueError):
            list(long_text(chunks, "text", 1000))


def test_bytes_that_are_no_text_are_left_for_the_reader_to_find():
    for chunks in cuts(b'{"a": "\xff", "text": "x \xff\xe6 y"}'):
        found = b"".join(long_text(chunks, "text", 1000))
        assert found.startswith(b"x ") and found.endswith(b" y")
        with pytest.raises(UnicodeDecodeError):
            found.decode()


def test_what_is_beside_the_text_is_limited():
    assert b"".join(long_text([b'{"t": "' + b"x" * 5000 + b'"}'], "t", 100)) == b"x" * 5000
    beside = b'{"k": "' + b"x" * 5000 + b'", "t": ""}'
    assert b"".join(long_text([beside], "t", 100)) == b""
    with pytest.raises(OverflowError):
        list(long_text([b'{"t": "x", "k": [' + b"1," * 5000 + b"1]}"], "t", 100))
