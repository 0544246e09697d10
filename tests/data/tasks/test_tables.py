import datetime
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from common.errors import InputError
from common.files import sha256_of
from data.tasks.tables import read_table
from tests.support.files import parquet, write


def read(path, *columns, has_header=True, **options):
    table = read_table(path, columns, has_header, **options)
    return [(int(place.split()[-1]), table.cells(row)) for place, row in table.rows]


def test_tsv_has_no_quotes(tmp_path):
    path = write(tmp_path / "a.tsv", '\ufeffid\ttext\r\n1\tsay "no\r\n2\t"yes"\u2028!\r\n\r\n')
    assert read(path, "text") == [(2, ['say "no']), (3, ['"yes"\u2028!'])]
    assert read(path, "text", "id")[0] == (2, ['say "no', "1"])


def test_csv_has_quotes_and_lines_are_those_where_rows_begin(tmp_path):
    content = 'text, label \n"a, ""b""\nc",x\nplain,y\n'
    path = write(tmp_path / "a.CSV", content)
    assert read(path, "text", "label") == [(2, ['a, "b"\nc', "x"]), (4, ["plain", "y"])]


def test_quotes_after_a_space_are_named(tmp_path, caplog):
    path = write(tmp_path / "a.csv", 'label,text\nx, "a"\ny,"b ""c"""\nz,\t"d"\n')
    assert read(path, "text") == [(2, [' "a"']), (3, ['b "c"']), (4, ['\t"d"'])]
    assert "in 2 rows" in caplog.text and "The first: line 2" in caplog.text


def test_csv_cells_of_any_length(tmp_path):
    assert len(read(write(tmp_path / "a.csv", f"t\n{'a' * 200_000}\n"), "t")[0][1][0]) == 200_000


def test_json_lines_by_field(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"t": "a\\nb", "l": [1, "x"]}\n{"l": null, "t": ""}\n')
    assert read(path, "t", "l") == [(1, ["a\nb", [1, "x"]]), (2, ["", None])]


def test_a_row_of_a_parquet_file_is_a_line(tmp_path):
    columns = {"t": ["a\nb", 'c\u2028"'], "l": [1, None], "day": [datetime.date(2020, 1, 2)] * 2}
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert read(str(path), "t", "l") == [(1, ["a\nb", 1]), (2, ['c\u2028"', None])]
    assert read_table(str(path), ["t"], True).sha256 == sha256_of(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.parquet: cannot read it"):
        read(str(path), "t")


def test_text_that_a_parquet_file_has_as_bytes(tmp_path):
    path = write(tmp_path / "a.parquet", parquet(t=["æ".encode(), b"b"]))
    assert read(path, "t") == [(1, ["æ"]), (2, ["b"])]
    with pytest.raises(InputError, match=r"a\.parquet: cannot read it: 'utf-8'"):
        read(write(tmp_path / "a.parquet", parquet(t=[b"\xe6"])), "t")


def test_without_header_columns_are_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "x,one\ny,two\n")
    assert read(path, 1, 0, has_header=False) == [(1, ["one", "x"]), (2, ["two", "y"])]


def test_rows_wider_than_the_header(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n1\t2\t3\n")
    with pytest.raises(InputError, match="expected 2 columns separated by tabs, got 3"):
        read(path, "a")
    assert read(path, "a", may_be_wider=True) == [(2, ["1"])]
    assert read(path, -1, may_be_wider=True) == [(2, ["2"])]  # from the header's end


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.json"])
def test_empty_file_has_no_rows(tmp_path, name):
    assert read(write(tmp_path / name, "\n"), "text") == []


CONTENTS = {
    ".tsv": "a\tb\n1\tx\n2\ty\n",
    ".csv": "a,b\n1,x\n2,y\n",
    ".jsonl": '{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}\n',
    ".json": '[{"a": "1", "b": "x"},\n{"a": "2", "b": "y"}]\n',
}


@pytest.mark.parametrize("ending", CONTENTS)
def test_files_of_other_programs(tmp_path, ending):
    """Blank lines, line ends, a byte-order mark, compression and capital letters change nothing."""
    text = CONTENTS[ending]
    is_list = ending == ".json"
    cells = [["x", "1"], ["y", "2"]]
    for name, content in {
        f"a{ending}": text,
        f"b{ending}": "\n \n" + text.replace("\n", "\n\n  \n") + " \n",
        f"c{ending}": text.replace("\n", "\r\n"),
        f"d{ending}": text.replace("\n", "\r"),
        f"e{ending}": b"\xef\xbb\xbf" + text.encode(),
        f"e16{ending}": text.encode("utf-16"),
        f"F{ending.upper()}": text,
        f"g{ending}.gz": gzip.compress(text.encode()),
        f"h{ending}.GZ": text,
    }.items():
        assert [row for _, row in read(write(tmp_path / name, content), "b", "a")] == cells, name
    lines = [line for line, _ in read(str(tmp_path / f"b{ending}"), "a")]
    assert lines == ([1, 2] if is_list else [3, 6] if ending == ".jsonl" else [6, 9])


def test_json_is_read_by_its_content(tmp_path):
    pretty = json.dumps([{"t": "a"}, {"t": "b"}], indent=2)
    rows = [(1, ["a"]), (2, ["b"])]
    assert read(write(tmp_path / "a.json", pretty), "t") == rows
    assert read(write(tmp_path / "a.jsonl", pretty), "t") == rows
    assert read(write(tmp_path / "b.json", '{"t": "a"}\n{"t": "b"}'), "t") == rows
    assert read(write(tmp_path / "c.json", {"t": "a"}), "t") == rows[:1]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.txt", "x\n", "x", r": .* ending in \.tsv"),
        ("a.tsv", "a\tb\n", "c", 'line 1: .* one column "c", got a, b'),
        ("a.csv", "a,a\n", "a", 'line 1: .* one column "a", got a, a'),
        ("a.csv", "a,b\n1,2\n\n3\n", "a", "expected 2 columns .* commas, got 1"),
        ("a.csv", 'a,b\nx, "1, 2"\n', "a", "got 3. A quote .* must follow the comma"),
        ("a.csv", "a;b\n1;2\n", "a", "got a;b. .* separated by semicolons"),
        ("a.tsv", "a,b\n1,2\n", "a", "got a,b. .* separated by commas"),
        ("a.csv", 'a,b\n"x \\"y\\"",1\n', "a", "line 2: not CSV: .* doubled"),
        ("a.csv", 'a\nx\n"y\nz\n', "a", "line 3: not CSV"),
        ("a.csv", b"a\nx\n\xff\n", "a", "line 3: expected UTF-8 .* Windows-1252"),
        ("a.tsv", "a\tb\n".encode("utf-16")[:-1], "a", "expected UTF-8"),
        ("a.csv", gzip.compress(b"a\nx\n", mtime=0)[:-9], "a", "cannot read it"),
        ("a.jsonl", '{"a": 1}\n{a: 1}\n', "a", "line 2: not JSON"),
        ("a.jsonl", '["a"]\n["b"]\n', "a", r'line 1: expected a JSON object, got \["a"\]'),
        ("a.json", '["a"]\n', "a", 'record 1: expected a JSON object, got "a"'),
        ("a.json", '[{"a": 1},\n{"a" 1}]\n', "a", "not JSON: .* line 2"),
        ("a.jsonl", '{"b": 1}\n' + "[" * 99_999, "a", "line 2: not JSON"),
        ("a.json", "[" * 99_999, "a", "a.json: not JSON"),
        ("a.jsonl", '{"b": 1, "c": 2}\n', "a", 'expected a field "a", got b, c'),
        ("a.jsonl", '{"a": 1}\n', 0, ": expected names of fields"),
    ],
)
def test_errors(tmp_path, name, content, column, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, content), column)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("header", ["x" * 99_999, "x " * 99_999, ",".join(map(str, range(9999)))])
def test_messages_are_short(tmp_path, name, header):
    content = json.dumps(dict.fromkeys(header.split(","), 1)) if name == "a.jsonl" else header
    with pytest.raises(InputError) as error:
        read(write(tmp_path / name, content), "text")
    assert len(str(error.value)) < len(str(tmp_path)) + 1300
