"""Layouts of a corpus, streamed; and damage to it, named."""

import itertools
import lzma

import pytest

from data import corpus
from data.corpus import find_corpus, read_lines
from errors import InputError
from tests.corpora import archive_of, openwebtext_of, tar_of

ARCHIVES = [["One line.\n\n Two ", "Æ\r\nB"], ["", "three\nfour\n"], ["\u3000five"]]
LINES = [
    [b"One line.", b"Two", None, "Æ".encode(), b"B", None],
    [None, b"three", b"four", None],
    ["\u3000five".encode(), None],
]


def lines_of(found):
    contents = found.stream() if found.is_stream else [None] * len(found.sources)
    return [list(read_lines(*pair)) for pair in zip(found.sources, contents, strict=True)]


def test_openwebtext_as_tar_as_compressed_tar_and_as_folder(tmp_path):
    content = openwebtext_of(ARCHIVES)
    (tmp_path / "openwebtext.tar.xz").write_bytes(lzma.compress(content))
    found = find_corpus(tmp_path)
    assert found.is_stream and lines_of(found) == LINES
    names = [source.name for source in found.sources]
    assert names[0] == "openwebtext.tar.xz/openwebtext/urlsf_subset00_data.xz"

    (tmp_path / "openwebtext.tar").write_bytes(content)
    found = find_corpus(tmp_path)
    assert not found.is_stream and lines_of(found) == LINES
    assert found.size == sum(len(archive_of(documents)) for documents in ARCHIVES)

    (tmp_path / "other" / "sub").mkdir(parents=True)
    for index, documents in enumerate(ARCHIVES):
        (tmp_path / "other" / "sub" / f"{index}_data.xz").write_bytes(archive_of(documents))
    assert lines_of(find_corpus(tmp_path, tmp_path / "other")) == LINES


def test_in_plain_text_blank_lines_end_documents(tmp_path):
    (tmp_path / "openwebtext").mkdir()
    (tmp_path / "openwebtext" / "b.txt").write_text("\n\n a\nb\n \u3000\n\nc")
    (tmp_path / "openwebtext" / "a.txt").write_text("x\r\n\r\n\r\ny\r\n")
    (tmp_path / "openwebtext" / "empty.txt").write_text("")
    found = find_corpus(tmp_path)
    assert [source.name for source in found.sources] == ["a.txt:0", "b.txt:0"]
    assert lines_of(found) == [[b"x", None, b"y", None], [b"a", b"b", None, b"c", None]]
    one = find_corpus(tmp_path, tmp_path / "openwebtext" / "a.txt")
    assert lines_of(one) == [[b"x", None, b"y", None]]


@pytest.mark.parametrize("size", [1, 2, 7, 50, 400, 5000])
def test_ranges_of_a_text_file_begin_at_documents(tmp_path, monkeypatch, size):
    text = "".join("w" * (i % 9) + "\n" + "\n" * (i % 5 == 0) for i in range(1, 300))
    (tmp_path / "t.txt").write_text(text)
    (whole,) = lines_of(find_corpus(tmp_path, tmp_path / "t.txt"))
    monkeypatch.setattr(corpus, "TEXT_RANGE_BYTES", size)
    ranges = lines_of(find_corpus(tmp_path, tmp_path / "t.txt"))
    assert list(itertools.chain(*ranges)) == whole
    assert all(lines[-1] is None for lines in ranges if lines)
    assert len(ranges) == 1 if size == 5000 else len(ranges) > 3


def test_very_long_lines_are_cut_at_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 16)
    words = [f"word{i}" for i in range(50)]
    (tmp_path / "t.txt").write_text(" ".join(words) + "\n" + "x" * 40)
    *pieces, unbroken, end = lines_of(find_corpus(tmp_path, tmp_path / "t.txt"))[0]
    assert b" ".join(pieces).decode().split() == words
    assert max(map(len, pieces)) <= 16 and len(pieces) < 40
    assert unbroken == b"x" * 40 and end is None


def test_a_missing_corpus_names_where_it_was_sought(tmp_path):
    with pytest.raises(InputError, match=r"no corpus.*openwebtext\.tar.*--corpus"):
        find_corpus(tmp_path)
    with pytest.raises(InputError, match=r"elsewhere does not exist"):
        find_corpus(tmp_path, tmp_path / "elsewhere")


def test_folders_and_archives_without_text(tmp_path):
    with pytest.raises(InputError, match=r"neither \*\.xz archives nor \*\.txt files"):
        find_corpus(tmp_path, tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="is empty"):
        find_corpus(tmp_path, tmp_path)
    (tmp_path / "a.xz").write_bytes(archive_of(["a"]))
    with pytest.raises(InputError, match=r"both archives \(a\.xz\) and plain text \(a\.txt\)"):
        find_corpus(tmp_path, tmp_path)
    (tmp_path / "t.tar").write_bytes(tar_of({"a.txt": b"text"}))
    with pytest.raises(InputError, match=r"t\.tar holds no \*\.xz archives"):
        find_corpus(tmp_path, tmp_path / "t.tar")
    (tmp_path / "t.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(InputError, match=r"t\.tar is damaged or is no tar"):
        find_corpus(tmp_path, tmp_path / "t.tar")


def test_archives_cut_short_are_found_before_reading(tmp_path):
    archive = archive_of(["some text"] * 50)
    for name, content in (("end", archive[:-20]), ("begin", archive[20:]), ("begin", b"PK")):
        (tmp_path / "t.tar").write_bytes(tar_of({"good.xz": archive, "bad.xz": content}))
        with pytest.raises(InputError, match=rf"t\.tar/bad\.xz .* damaged: it does not {name}"):
            find_corpus(tmp_path, tmp_path / "t.tar")
    whole = openwebtext_of(ARCHIVES)
    (tmp_path / "t.tar").write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"t\.tar is damaged"):
        find_corpus(tmp_path, tmp_path / "t.tar")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    content = bytearray(tar_of({"a.xz": archive_of(["a"]), "b.xz": archive_of(["b"])}))
    content[content.index(b"b.xz") + 150] ^= 1
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.tar is damaged.*bad header at byte"):
        find_corpus(tmp_path, tmp_path / "t.tar")


def test_damage_inside_an_archive_is_named_when_read(tmp_path):
    archive = bytearray(archive_of([f"some text {i}" * 9 for i in range(50)]))
    archive[len(archive) // 2] ^= 0xFF
    for content in (bytes(archive), lzma.compress(b"not a tar" * 200)):
        (tmp_path / "t.tar").write_bytes(tar_of({"bad.xz": content}))
        found = find_corpus(tmp_path, tmp_path / "t.tar")
        with pytest.raises(InputError, match=r"the archive t\.tar/bad\.xz is damaged"):
            lines_of(found)
    cut = lzma.compress(openwebtext_of(ARCHIVES * 30))[:-500]
    (tmp_path / "t.tar.xz").write_bytes(cut)
    with pytest.raises(InputError, match=r"t\.tar\.xz is damaged"):
        find_corpus(tmp_path, tmp_path / "t.tar.xz")
