import io
import sys
import types

import pytest

from common.errors import InputError
from pipelines.command_line import make_parser
from pipelines.kinds import KINDS
from pipelines.text_files import read_rows

FILES = {
    "a.csv": 'id,text,other\n1,"a, ""b""\nc",x\n2,d,y\n',
    "empty.csv": 't\nx\n" "\n',
    "a.tsv": "1\ta\n2\tb\n",
    "a.json": '[{"t": "a"},\n{"t": "b"}]',
    "cr.txt": "a\rb\r",
    "one.txt": "a\rb\n\n",
    "a.jsonl": '{"1": "a", "2": ["b", "c"]}\n',
    "a.txt": "\ufeffone\u2028\r\ntwo\n\n",
    "pairs.txt": "a\tb\nc\td\n",
    "ragged.csv": "a,b\n1,2\n5\n6,\n3,4\n",
    "ragged.txt": "a\tb\nc\n",
    "blank.txt": "a\n \nb\n",
}
PAIRS, CHOICES = {"most": 2}, {"least": 3, "most": 9, "one_row": True}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads rows as the script with these arguments would, in a directory with `FILES`."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path)

    def read(arguments, stdin=b"", **options):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
        args = make_parser("", "a model", "columns").parse_intermixed_args(["m", *arguments])
        return read_rows(args, "WHAT", **options)

    return read


@pytest.mark.parametrize(
    ("arguments", "options", "rows"),
    [
        (["one", "two, too"], {}, [["one"], ["two, too"]]),
        (["a\tb"], PAIRS, [["a", "b"]]),
        (["a", "b", "c"], CHOICES, [["a", "b", "c"]]),
        (["--input", "a.txt"], {}, [["one\u2028"], ["two"]]),
        (["--input", "cr.txt"], {}, [["a"], ["b"]]),
        (["--input", "one.txt"], {}, [["a\rb"]]),
        (["--input", "a.json", "--columns", "t"], {}, [["a"], ["b"]]),
        (["--input", "pairs.txt"], PAIRS, [["a", "b"], ["c", "d"]]),
        (["--input", "a.csv", "--columns", "text"], {}, [['a, "b"\nc'], ["d"]]),
        (["--columns", "other", "id", "--input", "a.csv"], PAIRS, [["x", "1"], ["y", "2"]]),
        (["--input", "a.tsv", "--columns", "2"], {}, [["a"], ["b"]]),
        (["--input", "a.jsonl", "--columns", "1"], {}, [["a"]]),
        (["--input", "a.jsonl", "--columns", "1", "2"], CHOICES, [["a", "b", "c"]]),
    ],
)
def test_rows(read, arguments, options, rows):
    assert read(arguments, **options) == rows


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        (["a b", "c"], ""),
        (["--input", "x.txt"], "a b\nc\n"),
        (["--input", "x.CONLL"], "a X\nb Z\n\nc Y\n"),
        (["--input", "x.jsonl"], '{"tokens": ["a", "b"]}\n\n{"tokens": ["c"]}\n'),
        (["--input", "x.json", "--columns", "w"], '[{"w": ["a", "b"]}, {"w": "c"}]'),
    ],
)
def test_words_to_tag(tmp_path, monkeypatch, arguments, content):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / arguments[1]).write_text(content, encoding="utf-8")
    args = make_parser("", "a model", "columns").parse_intermixed_args(["m", *arguments])
    assert KINDS["ConvBertForTokenClassification"].read(args) == [["a", "b"], ["c"]]


def test_bad_rows_are_skipped_on_request(read, caplog):
    found = read(["--skip-bad-texts", "--input", "ragged.csv", "--columns", "a", "b"], **PAIRS)
    assert found == [["1", "2"], ["", ""], ["", ""], ["3", "4"]]
    assert "line 3: expected 2 columns" in caplog.text and "line 4: " in caplog.text


def test_rows_of_standard_input(read):
    assert read([], b"\xef\xbb\xbfa\tb\r\nc\td\n", most=2) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "no texts in standard input"),
        (["a", ""], {}, "argument 2: .* got none"),
        (["a", "b"], CHOICES, "argument 1: expected WHAT; got 2"),
        (["a\tb"], {}, "argument 1: expected WHAT; got 2"),
        (["a [X]", "b"], {"required": "[X]"}, r"argument 2: .* \[X\], got 'b'"),
        (["--input", "ragged.txt"], PAIRS, r"ragged\.txt, line 2: expected 2 .* got 1"),
        (["--input", "blank.txt"], {}, r"blank\.txt, line 2: .* got none"),
        (["--input", "empty.csv", "--columns", "t"], {}, r'line 3: .* "t", got none'),
        (["--input", "a.csv", "--columns", "x"], {}, r'a\.csv, line 1: .* column "x"'),
        (["--input", "a.csv", "--columns", "id", "text"], {}, "line 2: expected WHAT; got 2"),
        (["--input", "a.csv"], {}, r"a\.csv: .* --columns"),
        (["--input", "a.json"], {}, r"a\.json: .* --columns"),
        (["--input", "no.csv"], {}, r"--input: .* no\.csv"),
        (["a", "--input", "a.txt"], {}, "--input"),
        (["a", "--columns", "x"], {}, "--columns"),
    ],
)
def test_wrong_input(read, arguments, options, message):
    with pytest.raises(InputError, match=message):
        read(arguments, **options)


def test_other_bytes_than_utf8(read):
    with pytest.raises(InputError, match=r"standard input, line 2: .* UTF-8"):
        read([], b"a\n\xff\n")
