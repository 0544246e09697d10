"""A corpus in an object store is read as one here, without opening what need not be opened."""

import bz2
import gzip
import lzma
import os

import pyarrow
import pyarrow.parquet
import pytest

from common import remote
from common.errors import InputError
from data.corpus import sources
from data.corpus.readers import ReadOptions, read_lines
from data.corpus.sources import find_corpus
from tests.support.corpora import archive_of, openwebtext_of, random_archives, tar_of
from tests.support.object_store import memory_store

URL = "memory://bucket/texts"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    return memory_store(monkeypatch, tmp_path)


def parquet(texts):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


TEXT = b"".join(b"line %d\n\n" % number for number in range(3000))
JSON = b'{"text": "a b"}\n{"text": "c"}\n' * 500
FILES = {
    "a.txt": TEXT,
    "b/c.jsonl": JSON,
    "b/c.JSONL.gz": gzip.compress(JSON),
    "b/d.txt.bz2": bz2.compress(TEXT),
    "b/e.txt.xz": lzma.compress(TEXT),
    "b/f.parquet": parquet(["one", "two", None, "three"] * 50),
    "g_data.xz": archive_of(["h", "i\nj"]),
    "k.tar": openwebtext_of(random_archives(2, 3)),
    "empty.txt": b"",
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "README.md": b"about",
}


def both(memory, tmp_path, files=FILES):
    """The same files in a folder, and in the store."""
    for name, content in files.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        memory.pipe(f"/bucket/texts/{name}", content)
    return tmp_path / "texts"


@pytest.mark.parametrize("pattern", ["", "/**/*.txt*", "/b", "/k.tar", "/a.txt", "/b/f.parquet"])
def test_it_is_the_corpus_here(memory, tmp_path, monkeypatch, pattern):
    monkeypatch.setattr(sources, "TEXT_RANGE_BYTES", 5000)
    here = find_corpus(tmp_path, f"{both(memory, tmp_path)}{pattern}")
    there = find_corpus(tmp_path, f"{URL}{pattern}")
    assert len(here.sources) == len(there.sources) > 0
    for ours, theirs in zip(here.sources, there.sources, strict=True):
        assert (ours.name, ours.offset, ours.size) == (theirs.name, theirs.offset, theirs.size)
        assert list(read_lines(ours)) == list(read_lines(theirs))
    assert (here.path.name, here.relevant_options) == (there.path.name, there.relevant_options)


def test_small_and_compressed_files_are_not_opened_for_the_list(memory, tmp_path, monkeypatch):
    both(memory, tmp_path, {name: c for name, c in FILES.items() if name not in ("k.tar",)})
    opened, open_binary = [], remote.open_binary
    monkeypatch.setattr(
        remote, "open_binary", lambda path: opened.append(str(path)) or open_binary(path)
    )
    assert find_corpus(tmp_path, URL).size
    assert {os.path.basename(path) for path in opened} == {"vocab.txt"}


def test_utf16_and_a_compressed_tar(memory, tmp_path):
    archives = random_archives(3, 2)
    files = {"openwebtext.tar.xz": lzma.compress(openwebtext_of(archives))}
    here, there = find_corpus(both(memory, tmp_path, files)), find_corpus(URL)
    assert there.is_stream and list(here.stream()) == list(there.stream())
    memory.pipe("/bucket/texts/u.txt", "two\n\nö".encode("utf-16"))
    (source,) = find_corpus(".", f"{URL}/u.txt").sources
    assert list(read_lines(source)) == [b"two", None, "ö".encode(), None]


def test_a_damaged_archive_is_found_when_it_is_read(memory, tmp_path):
    both(memory, tmp_path, {"a.tar": tar_of({"x.xz": archive_of(["a b"])[:-20]})})
    (source,) = find_corpus(".", URL).sources
    with pytest.raises(InputError, match=r"a\.tar/x\.xz: damaged"):
        list(read_lines(source))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{URL}/none", "no corpus: memory://bucket/texts/none does not match any file"),
        (f"{URL}/*.md", r"no corpus: .*\*\.md has only 1 others \(1 \*\.md\)"),
        (f"{URL}/empty.txt", "no text: every file of the corpus memory://bucket/texts/empty.txt"),
        (f"{URL}/README.md", "README.md: its name is none of"),
        (None, "no corpus: none of memory://bucket/texts/openwebtext.tar, "),
    ],
)
def test_no_corpus(memory, tmp_path, path, message):
    both(memory, tmp_path)
    with pytest.raises(InputError, match=message):
        find_corpus(URL, path)


def test_files_of_other_names(memory, tmp_path):
    both(memory, tmp_path, {"wiki_00": JSON, ".hidden": JSON})
    corpus = find_corpus(".", URL, ReadOptions(corpus_format="jsonl"))
    assert [source.name for source in corpus.sources] == ["wiki_00:0"]
