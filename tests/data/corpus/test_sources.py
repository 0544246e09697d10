"""Layouts of a corpus, streamed; and damage to it, named."""

import bz2
import errno
import gzip
import importlib.util
import itertools
import json
import lzma
import os

import pytest

from common.errors import InputError
from data.corpus import sources
from data.corpus.readers import ReadOptions, read_lines
from data.corpus.sources import find_corpus
from tests.support.corpora import archive_of, openwebtext_of, tar_of
from tests.support.files import write

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
    assert found.size == sum(len(archive_of(texts)) for texts in ARCHIVES)

    for index, texts in enumerate(ARCHIVES):
        write(tmp_path / "other" / "sub" / f"{index}_data.xz", archive_of(texts))
    assert lines_of(find_corpus(tmp_path, tmp_path / "other")) == LINES


def test_in_plain_text_blank_lines_end_documents(tmp_path):
    write(tmp_path / "openwebtext/b.txt", "\n\n a\nb\n \u3000\n\nc")
    write(tmp_path / "openwebtext/a.txt", "x\r\n\r\n\r\ny\r\n")
    write(tmp_path / "openwebtext/empty.txt", "")
    found = find_corpus(tmp_path)
    assert [source.name for source in found.sources] == ["a.txt:0", "b.txt:0", "empty.txt"]
    assert lines_of(found) == [[b"x", None, b"y", None], [b"a", b"b", None, b"c", None], []]


TEXT = "".join("w" * (i % 9) + "\n" + "\n" * (i % 5 == 0) for i in range(1, 300))
JSON_LINES = "\n".join(json.dumps({"text": "w" * (i % 90) + "x"}) for i in range(100))


@pytest.mark.parametrize(
    "name, text, size",
    [*(("t.txt", TEXT, size) for size in (1, 2, 7, 50, 400, 5000)), ("t.jsonl", JSON_LINES, 500)],
)
def test_ranges_of_a_file_begin_at_documents(tmp_path, monkeypatch, name, text, size):
    (tmp_path / name).write_text(text)
    (whole,) = lines_of(find_corpus(tmp_path, tmp_path / name))
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", size)
    ranges = lines_of(find_corpus(tmp_path, tmp_path / name))
    assert list(itertools.chain(*ranges)) == whole
    assert all(lines[-1] is None for lines in ranges if lines)
    assert len(ranges) == 1 if size == 5000 else len(ranges) > 3


def test_a_range_ends_after_a_very_long_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 16)
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", 4)
    (tmp_path / "t.txt").write_text("a " * 50 + "\n\n" + "b" * 16 + "\nc\n\nd")
    first, second, third = find_corpus(tmp_path, tmp_path / "t.txt").sources
    assert (first.size, second.offset, third.size) == (102, 102, 1)


def test_subsets_of_the_public_copy(tmp_path):
    """Tars of archives in a folder, each read in place."""
    for index, archives in enumerate((ARCHIVES[:2], ARCHIVES[2:])):
        write(tmp_path / f"subsets/urlsf_subset{index:02d}.tar", openwebtext_of(archives))
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
    write(tmp_path / "sub/a.txt.gz", gzip.compress(b"a\n\nb"))
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n')
    (tmp_path / "c.xz").write_bytes(archive_of(["d"]))
    found = find_corpus(tmp_path, tmp_path)
    assert [source.name for source in found.sources] == ["b.jsonl:0", "c.xz", "sub/a.txt.gz"]
    assert lines_of(found) == [[b"c", None], [b"d", None], [b"a", None, b"b", None]]
    assert found.relevant_options == {"blanks_separate_docs": True, "text_field": "text"}
    for pattern, names in (
        ("*.xz", ["c.xz"]),
        ("**/*.gz", ["sub/a.txt.gz"]),
        ("s*", ["sub/a.txt.gz"]),
    ):
        found = find_corpus(tmp_path, f"{tmp_path}/{pattern}")
        assert [source.name for source in found.sources] == names


def test_files_of_other_names_are_passed_over_and_named(tmp_path, caplog):
    for name in ("a.txt", "b.TXT", "AA/wiki_00", "AA/.DS_Store", "d.csv", "e.csv", "f.tar.gz"):
        write(tmp_path / "c" / name, name)
    write(tmp_path / "elsewhere/g.txt", "g")
    (tmp_path / "c/h.txt").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level("WARNING", logger="absl"):
        found = find_corpus(tmp_path, tmp_path / "c")
    assert [source.name for source in found.sources] == ["a.txt:0", "b.TXT:0"]
    counts = "2 *.csv, 2 without an ending, 1 *.tar.gz, 1 linked directory"
    assert f"2 files; passed over 6 others ({counts}). --corpus-format" in caplog.text
    caplog.clear()
    find_corpus(tmp_path, tmp_path / "elsewhere")
    assert caplog.text == ""
    write(tmp_path / "elsewhere/vocab.txt", "[PAD]\n[UNK]\na")
    write(tmp_path / "elsewhere/a/vocab.txt", "A text about a vocabulary.")
    with caplog.at_level("WARNING", logger="absl"):
        found = find_corpus(tmp_path, tmp_path / "elsewhere")
    assert [source.name for source in found.sources] == ["a/vocab.txt:0", "g.txt:0"]
    assert "passed over 1 others (1 vocab.txt with a vocabulary)" in caplog.text
    write(tmp_path / "elsewhere/t.tar", tar_of({"a.txt": b"a", "b.md": b"b", "c": b"c"}))
    with caplog.at_level("WARNING", logger="absl"):
        find_corpus(tmp_path, tmp_path / "elsewhere")
    assert "t.tar: passed over 3 others (1 *.md, 1 *.txt, 1 without an ending)" in caplog.text


def test_files_of_any_name_are_read_as_told(tmp_path):
    lines = '{"text": "a"}\n{"text": "b"}\n'
    write(tmp_path / "c/AA/wiki_00", lines)
    write(tmp_path / "c/AA/wiki_01.bz2", bz2.compress(lines.encode()))
    write(tmp_path / "c/AA/.hidden", "?")
    json_lines = ReadOptions(corpus_format="jsonl")
    for path in (tmp_path / "c", tmp_path / "c/*", f"{tmp_path}/c/*/wiki_*"):
        found = find_corpus(tmp_path, path, json_lines)
        assert [source.name for source in found.sources] == ["AA/wiki_00:0", "AA/wiki_01.bz2"]
        assert lines_of(found) == [[b"a", None, b"b", None]] * 2
        assert found.relevant_options == {"text_field": "text"}
        with pytest.raises(InputError, match=r"no corpus: .*--corpus-format"):
            find_corpus(tmp_path, path)
    single = find_corpus(tmp_path, tmp_path / "c/AA/wiki_00", ReadOptions(corpus_format="txt"))
    assert lines_of(single) == [[*lines.encode().splitlines(), None]]


@pytest.mark.parametrize("name", ["wiki.train.raw", "corpus", "t.tar.gz", "t.csv"])
@pytest.mark.parametrize(
    "content", [b"some text\n" * 100, gzip.compress(tar_of({})), b""], ids=["text", "gzip", "empty"]
)
def test_a_single_file_of_an_unknown_ending(tmp_path, name, content):
    write(tmp_path / name, content)
    with pytest.raises(InputError, match=rf"{name}: its name .*\*\.jsonl.*--corpus-format"):
        find_corpus(tmp_path, tmp_path / name)


def test_archives_of_any_name(tmp_path):
    write(tmp_path / "owt", openwebtext_of(ARCHIVES))
    write(tmp_path / "one", archive_of(ARCHIVES[0]))
    assert lines_of(find_corpus(tmp_path, tmp_path / "owt")) == LINES
    assert lines_of(find_corpus(tmp_path, tmp_path / "one")) == LINES[:1]


def test_compressed_text_that_is_no_archive(tmp_path):
    write(tmp_path / "dump.xz", lzma.compress(b"a\n" * 1000))
    with pytest.raises(InputError, match=r"dump\.xz: .*bad header at byte 0.*--corpus-format"):
        find_corpus(tmp_path, tmp_path / "dump.xz")
    found = find_corpus(tmp_path, tmp_path / "dump.xz", ReadOptions(corpus_format="txt"))
    assert lines_of(found) == [[*[b"a"] * 1000, None]]


def test_what_exists_is_no_pattern(tmp_path):
    write(tmp_path / "co [1]/a [b].txt", "a")
    write(tmp_path / "co 1/a b.txt", "b")
    for path in ("co [1]/a [b].txt", "co [1]", "co [1]/*.txt", "*/a [[]b].txt"):
        assert lines_of(find_corpus(tmp_path, tmp_path / path)) == [[b"a", None]]
    assert lines_of(find_corpus(tmp_path, tmp_path / "co [12]/*.txt")) == [[b"b", None]]


@pytest.mark.parametrize("path", ["c", "c/*", "c/**/*.txt", "c/**"])
def test_a_link_to_a_directory_above_repeats_no_text(tmp_path, path):
    write(tmp_path / "c/a.txt", "a")
    write(tmp_path / "c/sub/b.txt", "b")
    (tmp_path / "c/loop").symlink_to(".")
    (tmp_path / "c/sub/loop").symlink_to("../sub")
    found = find_corpus(tmp_path, tmp_path / path)
    assert [source.name for source in found.sources] == ["a.txt:0", "sub/b.txt:0"]


@pytest.mark.parametrize("path", ["c", "c/*", "c/*/*.txt", "c/**/*.txt", "c/**"])
def test_a_directory_that_cannot_be_listed_stops(tmp_path, monkeypatch, path):
    write(tmp_path / "c/a/a.txt", "a")
    write(tmp_path / "c/secret/b.txt", "b")
    scandir = os.scandir

    def scan(directory):
        if os.path.basename(os.path.normpath(directory)) == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(directory))
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=r"cannot read .*/c/secret.*: Permission denied"):
        find_corpus(tmp_path, tmp_path / path, ReadOptions(skip_damaged=True))


@pytest.mark.parametrize("name", ["a.txt.zst", "a.parquet"])
def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(InputError, match=rf"{name}: .*pip install pyarrow"):
        find_corpus(tmp_path, tmp_path / name)


BAD_HEADER = bytearray(tar_of({"a.xz": archive_of(["a"]), "b.xz": archive_of(["b"])}))
BAD_HEADER[BAD_HEADER.index(b"b.xz") + 150] ^= 1
ARCHIVE = archive_of(["some text"] * 50)


def bad_archive(content):
    return tar_of({"good.xz": ARCHIVE, "bad.xz": content})


@pytest.mark.parametrize(
    "files, path, message",
    [
        ({"a.txt": b"a"}, "", "--corpus is empty"),
        ({}, None, r"no corpus.*openwebtext\.tar.*--corpus"),
        ({}, "elsewhere/*.txt", r"elsewhere/\*\.txt does not exist, or does not match"),
        ({}, ".", r"no corpus: .* is empty; expected \*\.tar, \*\.xz, \*\.txt"),
        ({}, "nowhere", r"no corpus: .*/nowhere does not exist"),
        ({"a.txt": b""}, ".", "every file .* is empty"),
        ({"t.tar": tar_of({"a.txt": b"text"})}, "t.tar", r"t\.tar: .*\*\.xz archives"),
        ({"t.tar": b"not an archive" * 100}, "t.tar", r"t\.tar: damaged, or not"),
        ({"t.tar": openwebtext_of(ARCHIVES)[:1000]}, "t.tar", r"t\.tar: damaged"),
        ({"t.tar": BAD_HEADER}, "t.tar", r"t\.tar: damaged.*bad header at byte"),
        ({"t.tar": bad_archive(ARCHIVE[:-20])}, "t.tar", r"tar/bad\.xz .*damaged: .* end"),
        ({"t.tar": bad_archive(ARCHIVE[20:])}, "t.tar", r"tar/bad\.xz .*damaged: .* begin"),
        ({"t.tar": bad_archive(b"PK")}, "t.tar", r"tar/bad\.xz .*damaged: .* begin"),
        (
            {"t.tar.xz": lzma.compress(openwebtext_of(ARCHIVES * 30))[:-500]},
            "t.tar.xz",
            r"t\.tar\.xz: damaged",
        ),
    ],
)
def test_what_is_wrong_with_a_corpus_is_named_before_reading(tmp_path, files, path, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        find_corpus(tmp_path, tmp_path / path if path else path)


def test_damage_inside_an_archive_is_named_when_read(tmp_path):
    archive = bytearray(archive_of([f"some text {i}" * 9 for i in range(50)]))
    archive[len(archive) // 2] ^= 0xFF
    for content in (bytes(archive), lzma.compress(b"not a tar" * 200)):
        (tmp_path / "t.tar").write_bytes(tar_of({"bad.xz": content}))
        found = find_corpus(tmp_path, tmp_path / "t.tar")
        with pytest.raises(InputError, match=r"t\.tar/bad\.xz: damaged"):
            lines_of(found)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_tar_can_be_listed_up_to_the_damage(tmp_path, compressed):
    whole = openwebtext_of([[f"text {i}" * 50] for i in range(20)])
    cut = lzma.compress(whole)[:-400] if compressed else whole[: len(whole) // 2 + 700]
    (tmp_path / "t.tar").write_bytes(cut)
    found = find_corpus(tmp_path, tmp_path / "t.tar", ReadOptions(skip_damaged=True))
    assert found.is_stream == compressed
    *good, last, rest = lines_of(found)
    assert 3 < len(good) < 19 and rest == []
    assert good == [[f"text {i}".encode() * 50, None] for i in range(len(good))]
    assert last in ([], [f"text {len(good)}".encode() * 50, None])
    assert found.sources[-1].name == f"t.tar, after {len(good) + 1} archives"
