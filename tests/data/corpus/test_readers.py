"""Documents of every kind of file; what is skipped, and why; damage; lines of any length."""

import bz2
import errno
import gzip
import io
import itertools
import json
import lzma
import os
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from common.errors import InputError
from data.corpus import readers
from data.corpus.files import DamagedError
from data.corpus.readers import (
    DAMAGED,
    EMPTY,
    HALF_PAIR,
    NO_TEXT,
    NOT_JSON,
    NOT_TXT,
    NOT_UTF8,
    TOO_LONG,
    ReadOptions,
    Skipped,
    read_lines,
)
from data.corpus.sources import find_corpus
from tests.support.corpora import archive_of, tar_of
from tests.support.processes import run_python

COMPRESSORS = {
    "": bytes,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}


def read(path, **options):
    """Returns the lines of a file's documents, and what was skipped."""
    skipped = Skipped()
    sources = find_corpus(path.parent, path, ReadOptions(**options)).sources
    lines = itertools.chain.from_iterable(read_lines(each, None, skipped) for each in sources)
    return list(lines), skipped


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_plain_text(tmp_path, compression):
    path = tmp_path / f"t.txt{compression}"
    path.write_bytes(COMPRESSORS[compression]("\n a\r\nb\n \u3000\n\nc æ\n\nd".encode()))
    expected = [b"a", b"b", None, "c æ".encode(), None, b"d", None]
    assert read(path)[0] == expected
    sources = find_corpus(tmp_path, path).sources
    assert list(itertools.chain(*map(read_lines, sources))) == expected
    whole, _ = read(path, blanks_separate_docs=False)
    assert whole == [b"a", b"b", "\u3000".encode(), "c æ".encode(), b"d", None]


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_lines_of_json(tmp_path, compression):
    records = [
        '\ufeff{"text": "one\\n\\n two"}',
        "",
        '{"id": 1, "text": "\\u00e6 æ"}',
        '{"text": "x"}',
    ]
    path = tmp_path / f"t.jsonl{compression}"
    path.write_bytes(COMPRESSORS[compression]("\n".join(records).encode()))
    lines, skipped = read(path)
    assert lines == [b"one", b"two", None, "æ æ".encode(), None, b"x", None]
    assert skipped.counts == {}
    path.write_bytes(COMPRESSORS[compression](b'{"content": "y"}\n'))
    assert read(path, text_field="content")[0] == [b"y", None]


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.jsonl"])
def test_utf16_with_a_mark(tmp_path, monkeypatch, name):
    monkeypatch.setattr("data.corpus.sources.TEXT_RANGE_BYTES", 10)
    path, texts = tmp_path / name, ["æ\u0a0a", "b \U0001f600", "c"]
    documents = [json.dumps({"text": text}) for text in texts] if "json" in name else texts
    content = "\n\n".join(documents).encode("utf-16")
    path.write_bytes(COMPRESSORS[name[5:] if "gz" in name else ""](content))
    lines, skipped = read(path)
    assert [line.decode() for line in lines if line] == texts and lines.count(None) == 3
    assert skipped.counts == {}
    path.write_bytes(COMPRESSORS[name[5:] if "gz" in name else ""](content[:-1]))
    with pytest.raises(DamagedError, match=f"{name}: damaged"):
        read(path)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "dictionary"])
def test_parquet(tmp_path, kind):
    values = pyarrow.array(["a\n\nb", None, " ", "c", "c"])
    if kind == "dictionary":
        values = values.dictionary_encode()
    else:
        values = values.cast(getattr(pyarrow, kind)())
    table = pyarrow.table({"id": [1, 2, 3, 4, 5], "text": values})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    lines, skipped = read(tmp_path / "t.parquet")
    assert lines == [b"a", b"b", None, b"c", None, b"c", None]
    assert skipped.listed == [["t.parquet", "row 1", NO_TEXT], ["t.parquet", "row 2", EMPTY]]
    with pytest.raises(
        InputError, match=r"t\.parquet .* column 'body'; .* id, text\. .*--text-col"
    ):
        read(tmp_path / "t.parquet", text_column="body")
    with pytest.raises(InputError, match=r"t\.parquet: .* column 'id' holds int64, not text"):
        read(tmp_path / "t.parquet", text_column="id")


def test_a_long_value_of_parquet(tmp_path):
    text = "".join(f"{number} words of a line, " for number in range(200_000)) + "\n\nlast"
    table = pyarrow.table({"text": [text, "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text(text.replace("\n\n", "\n") + "\n\nb")
    lines, _ = read(tmp_path / "t.parquet")
    assert len(lines) > 5
    assert lines == read(tmp_path / "t.txt")[0]


def test_pyarrow_is_imported_when_a_file_needs_it(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["b"]}), tmp_path / "b.parquet")
    program = """if True:
        import sys
        from data.corpus import readers, sources
        for source in sources.find_corpus(sys.argv[1], sys.argv[1]).sources:
            print(list(readers.read_lines(source)), "pyarrow" in sys.modules)
    """
    printed = run_python("-c", program, tmp_path).stdout
    assert printed.splitlines() == ["[b'a', None] False", "[b'b', None] True"]


def test_bad_documents_of_plain_text(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"good\n\nbad \xff\nand its rest\n\ngood too\n")
    lines, skipped = read(tmp_path / "t.txt")
    assert lines == [b"good", None, b"good too", None]
    assert skipped.counts == {NOT_UTF8: 1}
    assert skipped.listed == [["t.txt", "byte 6", NOT_UTF8]]
    (tmp_path / "blank.txt").write_bytes(b" \n\n")
    assert read(tmp_path / "blank.txt")[1].counts == {EMPTY: 1}


def test_bad_lines_of_json(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.readers.MAX_JSON_BYTES", 1000)
    records = [
        b'{"text": "good"}',
        b'{"text": "cut off',
        b'{"title": "no text"}',
        b'{"text": 5}',
        b'["text"]',
        b'{"text": " \\n"}',
        b'{"text": "\xff"}',
        b'{"text": "half a pair: \\ud83d"}',
        b"[" * 900,
        b'{"text": "' + b"x" * 989 + b'"}',  # 1001 bytes
        b'{"text": "' + b"y" * 988 + b'"}',
        b'{"text": "good too"}',
    ]
    content = b"\n".join(records)
    (tmp_path / "t.jsonl").write_bytes(content)
    found, skipped = read(tmp_path / "t.jsonl")
    assert found == [b"good", None, b"y" * 988, None, b"good too", None]
    reasons = {NOT_JSON: 2, NO_TEXT: 3, EMPTY: 1, NOT_UTF8: 1, HALF_PAIR: 1, TOO_LONG: 1}
    assert skipped.counts == reasons
    assert skipped.listed[0][:2] == ["t.jsonl", "byte 17"]
    assert skipped.listed[0][2].startswith("not JSON: Unterminated string")
    offsets = [int(where.removeprefix("byte ")) for _, where, _ in skipped.listed]
    assert [content[offset:].split(b"\n")[0] for offset in offsets] == records[1:10]


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_a_line_of_json_that_is_too_long_ends_at_its_line_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("data.corpus.readers.MAX_JSON_BYTES", 100)
    monkeypatch.setattr("data.corpus.files._CHUNK_BYTES", chunk)
    too_long = json.dumps({"text": "x" * 500})
    (tmp_path / "t.jsonl").write_text(f'{too_long}\n{{"text": "a"}}\n{too_long}')
    found, skipped = read(tmp_path / "t.jsonl")
    assert found == [b"a", None]
    places = [["t.jsonl", "byte 0", TOO_LONG], ["t.jsonl", "byte 527", TOO_LONG]]
    assert skipped.listed == places


def test_bad_documents_of_an_archive(tmp_path):
    files = {"1.txt": b"good", "2.txt": b"\xe6", "3.txt": b" \n", "4.md": b"?", "5.TXT": b"too"}
    (tmp_path / "t.xz").write_bytes(lzma.compress(tar_of(files)))
    lines, skipped = read(tmp_path / "t.xz")
    assert lines == [b"good", None, b"too", None]
    reasons = {"2.txt": NOT_UTF8, "3.txt": EMPTY, "4.md": NOT_TXT}
    assert skipped.listed == [["t.xz", *item] for item in reasons.items()]


def test_all_are_counted_and_the_first_are_listed(tmp_path):
    (tmp_path / "t.jsonl").write_text("?\n" * 250)
    _, skipped = read(tmp_path / "t.jsonl")
    assert skipped.counts == {NOT_JSON: 250} and len(skipped.listed) == readers.MAX_LISTED


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM, None])
@pytest.mark.parametrize("name", ["t.txt", *(f"t.txt{end}" for end in COMPRESSORS if end), "t.xz"])
def test_what_the_system_says_is_no_damage(tmp_path, monkeypatch, name, reason):
    """No permission, handles, memory, or device: the build stops, whatever it may skip."""
    path = tmp_path / name
    path.write_bytes(archive_of(["a"]) if name == "t.xz" else COMPRESSORS[name[5:]](b"a\n\nb"))
    (source, *_) = find_corpus(tmp_path, path, ReadOptions(skip_damaged=True)).sources

    def fail(*_):
        raise MemoryError if reason is None else OSError(reason, "the reason")

    monkeypatch.setattr("data.corpus.files._FileRange.readinto", fail)
    expected = "memory ran out" if reason is None else "the reason"
    with pytest.raises(InputError, match=rf"cannot read t.*: {expected}") as caught:
        list(read_lines(source))
    assert not isinstance(caught.value, DamagedError)


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "t.txt.gz", "t.parquet", "t.xz", "t.tar"])
def test_a_file_that_cannot_be_opened(tmp_path, name):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    options = ReadOptions(skip_damaged=True)
    with pytest.raises(InputError, match=rf"cannot read .*/{name}: No such file"):
        find_corpus(tmp_path, tmp_path, options)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"cannot read .*/{name}: .*pipe"):
        find_corpus(tmp_path, tmp_path, options)


@pytest.mark.parametrize("compression", [".bz2", ".gz", ".xz", ".zst"])
def test_streams_one_after_the_other(tmp_path, compression):
    """As `cat` joins compressed files; damage to a later one is found."""
    compress, path = COMPRESSORS[compression], tmp_path / f"t.txt{compression}"
    path.write_bytes(compress(b"a\n\n") + compress(b"b\n" * 1000))
    assert read(path)[0] == [b"a", None, *[b"b"] * 1000, None]
    path.write_bytes(compress(b"a\n\n") + b"damaged" + compress(b"b\n"))
    with pytest.raises(DamagedError, match=rf"t\.txt{compression}: damaged"):
        read(path)


def damaged_files():
    """Yields a name, a sound file and the same one damaged: 200 documents each."""
    texts = [" ".join(str(i * j) for j in range(99)) for i in range(200)]
    plain = "\n\n".join(texts).encode()
    lines = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    buffer = io.BytesIO()
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, buffer, row_group_size=50, compression="gzip")
    parquet = buffer.getvalue()
    for compression, compress in COMPRESSORS.items():
        if compression:
            yield f"t.txt{compression}", compress(plain), compress(plain)[:-2000]
            yield f"t.jsonl{compression}", compress(lines), compress(lines)[:-2000]
    archive = archive_of(texts)
    yield "t.xz", archive, archive[: len(archive) // 2] + archive[:100] + archive[-100:]
    yield "t.parquet", parquet, parquet[:-100]
    position = parquet.rindex(b"\x1f\x8b") + 500  # in the last row group
    yield "t.parquet", parquet, parquet[:position] + bytes(50) + parquet[position + 50 :]


@pytest.mark.parametrize("name, sound, damaged", damaged_files())
def test_damage_stops_or_is_noted(tmp_path, name, sound, damaged):
    path = tmp_path / name
    path.write_bytes(sound)
    whole, skipped = read(path)
    assert whole.count(None) == 200 and skipped.counts == {}
    path.write_bytes(damaged)
    with pytest.raises(DamagedError, match=rf"{name}: damaged.*--skip-damaged"):
        read(path)
    lines, skipped = read(path, skip_damaged=True)
    assert skipped.counts == {DAMAGED: 1}
    assert skipped.listed[0][:2] == [name, ""] and skipped.listed[0][2].startswith(DAMAGED)
    assert lines == read(path, skip_damaged=True)[0]
    if lines:  # what is before the damage, its last document ended
        assert lines[:-2] == whole[: len(lines) - 2] and lines[-1] is None
    assert len(lines) < len(whole)


def test_an_archive_of_something_else_is_damage(tmp_path):
    (tmp_path / "a.xz").write_bytes(lzma.compress(tar_of({"a.html": b"?", "b": b"?"})))
    (tmp_path / "t.tar").write_bytes(tar_of({"a.xz": (tmp_path / "a.xz").read_bytes()}))
    with pytest.raises(DamagedError, match=r"t\.tar/a\.xz: .*\.txt files, only , \.html"):
        read(tmp_path / "t.tar")


def test_very_long_lines_are_split_at_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.lines.MAX_LINE_BYTES", 16)
    monkeypatch.setattr("data.corpus.readers.MAX_LINE_BYTES", 16)
    monkeypatch.setattr("data.corpus.files._CHUNK_BYTES", 7)
    words = [f"word{i}" for i in range(50)]
    text = " ".join(words) + "\n" + "x" * 40 + " " * 40 + "\nend"
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "t.xz").write_bytes(archive_of([text]))
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": text}))
    for name in ("t.txt", "t.xz", "t.jsonl"):
        *pieces, a, b, c, end, last = read(tmp_path / name)[0]
        assert b" ".join(pieces).decode().split() == words
        assert max(map(len, pieces)) <= 16 and len(pieces) < 40
        assert (a, b, c) == (b"x" * 16, b"x" * 16, b"x" * 8)
        assert (end, last) == (b"end", None)


def test_lines_without_spaces_are_split_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.lines.MAX_LINE_BYTES", 16)
    (tmp_path / "t.txt").write_text("中文字符没有空格" * 5 + "文。" + "字" * 4 + "\U0001f600" * 9)
    *pieces, last = read(tmp_path / "t.txt")[0]
    assert last is None and max(map(len, pieces)) <= 16
    assert b"".join(pieces) == (tmp_path / "t.txt").read_bytes()
    assert any(piece.endswith("。".encode()) for piece in pieces)


def test_long_documents_are_checked_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.lines.MAX_PART_BYTES", 20)
    text = b"aaaaaaaaaa\nbbbbbbbbbb\ncccccccc\xff\nddddddddddd\neeeee"
    (tmp_path / "t.txt").write_bytes(text)
    found, skipped = read(tmp_path / "t.txt")
    assert found == [b"a" * 10, b"b" * 10, b"eeeee", None]
    assert skipped.counts == {NOT_UTF8: 1}


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.txt.zst", "t.xz"])
def test_a_line_of_any_length_takes_little_memory(tmp_path, name):
    """12 MB."""
    line = b"some words and some more " * 480_000
    compress = COMPRESSORS.get(name[5:], bytes)
    is_archive = name == "t.xz"
    (tmp_path / name).write_bytes(
        lzma.compress(tar_of({"a.txt": line}), preset=0) if is_archive else compress(line)
    )
    (source, *_) = find_corpus(tmp_path, tmp_path / name).sources
    del line
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in read_lines(source) if piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 11_990_000 < size < 12_000_000
    assert peak < 30e6
