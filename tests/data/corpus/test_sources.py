"""Layouts of a corpus, streamed; and damage to it, named."""

import gzip
import importlib.util
import itertools
import json
import lzma

import pytest

from common.errors import InputError
from data.corpus import readers, sources
from data.corpus.readers import Reading, read_lines
from data.corpus.sources import find_corpus
from tests.support.corpora import archive_of, openwebtext_of, tar_of

ARCHIVES = [["One line.\n\n Two ", "Æ\r\nB"], ["", "three\nfour\n"], ["\u3000five"]]
LINES = [
    [b"One line.", b"Two", None, "Æ".encode(), b"B", None],
    [b"three", b"four", None],  # the empty document before it is skipped
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
    assert found.size == sum(len(archive_of(readers)) for readers in ARCHIVES)

    (tmp_path / "other" / "sub").mkdir(parents=True)
    for index, texts in enumerate(ARCHIVES):
        (tmp_path / "other" / "sub" / f"{index}_data.xz").write_bytes(archive_of(texts))
    assert lines_of(find_corpus(tmp_path, tmp_path / "other")) == LINES


def test_in_plain_text_blank_lines_end_documents(tmp_path):
    (tmp_path / "openwebtext").mkdir()
    (tmp_path / "openwebtext" / "b.txt").write_text("\n\n a\nb\n \u3000\n\nc")
    (tmp_path / "openwebtext" / "a.txt").write_text("x\r\n\r\n\r\ny\r\n")
    (tmp_path / "openwebtext" / "empty.txt").write_text("")
    found = find_corpus(tmp_path)
    assert [source.name for source in found.sources] == ["a.txt:0", "b.txt:0", "empty.txt"]
    assert lines_of(found) == [[b"x", None, b"y", None], [b"a", b"b", None, b"c", None], []]
    one = find_corpus(tmp_path, tmp_path / "openwebtext" / "a.txt")
    assert lines_of(one) == [[b"x", None, b"y", None]]


@pytest.mark.parametrize("size", [1, 2, 7, 50, 400, 5000])
def test_ranges_of_a_text_file_begin_at_documents(tmp_path, monkeypatch, size):
    text = "".join("w" * (i % 9) + "\n" + "\n" * (i % 5 == 0) for i in range(1, 300))
    (tmp_path / "t.txt").write_text(text)
    (whole,) = lines_of(find_corpus(tmp_path, tmp_path / "t.txt"))
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", size)
    ranges = lines_of(find_corpus(tmp_path, tmp_path / "t.txt"))
    assert list(itertools.chain(*ranges)) == whole
    assert all(lines[-1] is None for lines in ranges if lines)
    assert len(ranges) == 1 if size == 5000 else len(ranges) > 3


def test_ranges_of_lines_of_json(tmp_path, monkeypatch):
    lines = [json.dumps({"text": "w" * (i % 90) + "x"}) for i in range(100)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (whole,) = lines_of(find_corpus(tmp_path, tmp_path / "t.jsonl"))
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", 500)
    ranges = lines_of(find_corpus(tmp_path, tmp_path / "t.jsonl"))
    assert list(itertools.chain(*ranges)) == whole and len(whole) == 200 and len(ranges) > 5


def test_a_range_ends_after_a_line_longer_than_is_read_at_once(tmp_path, monkeypatch):
    for module in (sources, readers):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 16)
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", 4)
    (tmp_path / "t.txt").write_text("a " * 50 + "\n\n" + "b" * 16 + "\nc\n\nd")
    first, second, third = find_corpus(tmp_path, tmp_path / "t.txt").sources
    assert (first.size, second.offset, third.size) == (102, 102, 1)


def test_subsets_of_the_public_copy(tmp_path):
    """Tars of archives in a folder, each read in place."""
    (tmp_path / "subsets").mkdir()
    for index, archives in enumerate((ARCHIVES[:2], ARCHIVES[2:])):
        path = tmp_path / "subsets" / f"urlsf_subset{index:02d}.tar"
        path.write_bytes(openwebtext_of(archives))
    found = find_corpus(tmp_path)
    assert not found.is_stream and lines_of(found) == LINES
    assert [source.name for source in found.sources] == [
        "urlsf_subset00.tar/openwebtext/urlsf_subset00_data.xz",
        "urlsf_subset00.tar/openwebtext/urlsf_subset01_data.xz",
        "urlsf_subset01.tar/openwebtext/urlsf_subset00_data.xz",
    ]
    pattern = find_corpus(tmp_path, tmp_path / "subsets" / "*01.tar")
    assert lines_of(pattern) == LINES[2:]


def test_a_single_archive(tmp_path):
    (tmp_path / "x_data.xz").write_bytes(archive_of(ARCHIVES[0]))
    found = find_corpus(tmp_path, tmp_path / "x_data.xz")
    assert not found.is_stream and lines_of(found) == LINES[:1]


def test_a_mixed_folder_and_patterns(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt.gz").write_bytes(gzip.compress(b"a\n\nb"))
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n')
    (tmp_path / "c.xz").write_bytes(archive_of(["d"]))
    (tmp_path / "readme.md").write_text("no text of the corpus")
    found = find_corpus(tmp_path, tmp_path)
    assert [source.name for source in found.sources] == ["b.jsonl:0", "c.xz", "sub/a.txt.gz"]
    assert lines_of(found) == [[b"c", None], [b"d", None], [b"a", None, b"b", None]]
    assert found.options == {"blanks_separate_docs": True, "text_field": "text"}
    for pattern, names in (
        ("*.xz", ["c.xz"]),
        ("**/*.gz", ["sub/a.txt.gz"]),
        ("s*", ["sub/a.txt.gz"]),
    ):
        found = find_corpus(tmp_path, f"{tmp_path}/{pattern}")
        assert [source.name for source in found.sources] == names


def test_packages_are_asked_for_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("a.txt.zst", "zstandard"), ("a.parquet", "pyarrow")):
        (tmp_path / name).write_bytes(b"content")
        with pytest.raises(InputError, match=rf"{name} can only .* package {package}: install"):
            find_corpus(tmp_path, tmp_path / name)


def test_a_missing_corpus_names_where_it_was_sought(tmp_path):
    with pytest.raises(InputError, match=r"no corpus.*openwebtext\.tar.*--corpus"):
        find_corpus(tmp_path)
    with pytest.raises(InputError, match=r"elsewhere/\*\.txt does not exist, or matches no"):
        find_corpus(tmp_path, tmp_path / "elsewhere" / "*.txt")


def test_folders_and_archives_without_text(tmp_path):
    with pytest.raises(InputError, match=r"holds no text: no \*\.tar, \*\.xz, \*\.txt"):
        find_corpus(tmp_path, tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="is empty"):
        find_corpus(tmp_path, tmp_path)
    (tmp_path / "t.tar").write_bytes(tar_of({"a.txt": b"text"}))
    with pytest.raises(InputError, match=r"t\.tar holds no \*\.xz archives"):
        find_corpus(tmp_path, tmp_path / "t.tar")
    (tmp_path / "t.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(InputError, match=r"t\.tar is damaged or is not what its name"):
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
        with pytest.raises(InputError, match=r"the file t\.tar/bad\.xz is damaged"):
            lines_of(found)
    cut = lzma.compress(openwebtext_of(ARCHIVES * 30))[:-500]
    (tmp_path / "t.tar.xz").write_bytes(cut)
    with pytest.raises(InputError, match=r"t\.tar\.xz is damaged"):
        find_corpus(tmp_path, tmp_path / "t.tar.xz")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_tar_can_be_listed_up_to_the_damage(tmp_path, compressed):
    whole = openwebtext_of([[f"text {i}" * 50] for i in range(20)])
    cut = lzma.compress(whole)[:-400] if compressed else whole[: len(whole) // 2 + 700]
    (tmp_path / "t.tar").write_bytes(cut)
    found = find_corpus(tmp_path, tmp_path / "t.tar", Reading(skip_damaged=True))
    assert found.is_stream == compressed
    *good, last, rest = lines_of(found)
    assert 3 < len(good) < 19 and rest == []
    assert good == [[f"text {i}".encode() * 50, None] for i in range(len(good))]
    assert last in ([], [f"text {len(good)}".encode() * 50, None])
    assert found.sources[-1].name == f"t.tar, after {len(good) + 1} archives"
