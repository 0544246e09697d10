import pytest

from common.errors import InputError
from data.tasks.tables import read_table
from tests.support.files import write


def read(path, *columns, has_header=True, **options):
    table = read_table(path, columns, has_header, **options)
    return [(line, table.cells(row)) for line, row in table.rows]


def test_tsv_has_no_quotes(tmp_path):
    path = write(tmp_path / "a.tsv", '\ufeffid\ttext\r\n1\tsay "no\r\n2\t"yes"\u2028!\r\n\r\n')
    assert read(path, "text") == [(2, ['say "no']), (3, ['"yes"\u2028!'])]
    assert read(path, "text", "id")[0] == (2, ['say "no', "1"])


def test_csv_has_quotes_and_lines_are_those_where_rows_begin(tmp_path):
    content = 'text, label \n"a, ""b""\nc",x\nplain,y\n'
    path = write(tmp_path / "a.CSV", content)
    assert read(path, "text", "label") == [(2, ['a, "b"\nc', "x"]), (4, ["plain", "y"])]


def test_csv_cells_of_any_length(tmp_path):
    assert len(read(write(tmp_path / "a.csv", f"t\n{'a' * 200_000}\n"), "t")[0][1][0]) == 200_000


def test_json_lines_by_field(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"t": "a\\nb", "l": [1, "x"]}\n{"l": null, "t": ""}\n')
    assert read(path, "t", "l") == [(1, ["a\nb", [1, "x"]]), (2, ["", None])]


def test_without_header_columns_are_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "x,one\ny,two\n")
    assert read(path, 1, 0, has_header=False) == [(1, ["one", "x"]), (2, ["two", "y"])]


def test_rows_wider_than_the_header(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n1\t2\t3\n")
    with pytest.raises(InputError, match="expected 2 columns separated by tabs, got 3"):
        read(path, "a")
    assert read(path, "a", may_be_wider=True) == [(2, ["1"])]
    assert read(path, -1, may_be_wider=True) == [(2, ["2"])]  # from the header's end


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_empty_file_has_no_rows(tmp_path, name):
    assert read(write(tmp_path / name, "\n"), "text") == []


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.txt", "x\n", "x", r": .* ending in \.tsv"),
        ("a.tsv", "a\tb\n", "c", 'line 1: .* one column "c", got a, b'),
        ("a.csv", "a,a\n", "a", 'line 1: .* one column "a", got a, a'),
        ("a.csv", "a,b\n1,2\n\n3,4\n", "a", "expected 2 columns .* commas, got 0"),
        ("a.csv", 'a\nx\n"y\nz\n', "a", "line 3: not CSV"),
        ("a.csv", b"a\nx\n\xff\n", "a", "line 3: expected UTF-8"),
        ("a.jsonl", '{"a": 1}\n{a: 1}\n', "a", "line 2: not JSON"),
        ("a.jsonl", '["a"]\n', "a", r'line 1: expected a JSON object, got \["a"\]'),
        ("a.jsonl", '{"a": 1}\n\n{"a": 1}\n', "a", "line 2: not JSON"),
        ("a.jsonl", '{"b": 1, "c": 2}\n', "a", 'expected a field "a", got b, c'),
        ("a.jsonl", '{"a": 1}\n', 0, ": expected names of fields"),
    ],
)
def test_errors(tmp_path, name, content, column, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, content), column)
