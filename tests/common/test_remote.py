import io
import os

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from common import files, remote
from common.errors import InputError
from common.remote import RemotePath
from tests.support.object_store import memory_store


@pytest.fixture
def memory(monkeypatch, tmp_path):
    return memory_store(monkeypatch, tmp_path)


def test_urls_and_paths():
    assert all(map(remote.is_url, ("s3://b/x", "gs://b", "hf://datasets/a/b", "file:///x")))
    paths = ("s3:/b/x", "/s3://x", "a/b://c", "C:/x", "://x", "")
    assert not any(map(remote.is_url, paths))
    path = remote.as_path("s3://b/x/") / "y"
    assert (str(path), path.name, os.fspath(path)) == ("s3://b/x/y", "y", "s3://b/x/y")
    assert os.fspath(remote.as_path("b/x")) == "b/x"


def test_listing(memory):
    memory.pipe({"/d/a.txt": b"1", "/d/e/b.txt": b"22", "/d/[c].txt": b"", "/df/g": b""})
    assert {name: file.size for name, file in remote.list_files("memory://d").items()} == {
        "[c].txt": 0,
        "a.txt": 1,
        "e/b.txt": 2,
    }
    assert [*remote.list_files("memory://d/e/b.txt")] == [""]
    assert remote.list_files("memory://none") == {}


@pytest.mark.parametrize(
    ("pattern", "base", "names"),
    [
        ("d", "d", ["[c].txt", "a.txt", "e/b.txt"]),
        ("d/", "d", ["[c].txt", "a.txt", "e/b.txt"]),
        ("d/a.txt", "d", ["a.txt"]),
        ("d/[c].txt", "d", ["[c].txt"]),
        ("d/*.txt", "d", ["[c].txt", "a.txt"]),
        ("d/**/*.txt", "d", ["[c].txt", "a.txt", "e/b.txt"]),
        ("d*/[ef]/b.txt", "", ["d/e/b.txt"]),
        ("d/*.gz", "d", []),
        ("none", "none", []),
    ],
)
def test_what_a_url_stands_for(memory, pattern, base, names):
    memory.pipe({"/d/a.txt": b"1", "/d/e/b.txt": b"22", "/d/[c].txt": b""})
    found = remote.match_files(f"memory://{pattern}")
    assert (found[0], [*found[1]]) == (f"memory://{base}", names)


def test_a_folder_with_one_file_of_its_name(memory):
    memory.pipe("/d/d", b"1")
    assert [*remote.list_files("memory://d")] == ["d"]
    assert remote.match_files("memory://d")[0] == "memory://d"
    assert remote.match_files("memory://d/d")[0] == "memory://d"


def test_a_change_has_another_tag(memory):
    memory.pipe("/a", b"1")
    before = remote.list_files("memory://a")
    memory.pipe("/a", b"2")
    assert remote.list_files("memory://a") != before


def requests(monkeypatch):
    """The ranges of all requests from now on."""
    ranges, read = [], MemoryFileSystem.cat_file

    def cat_file(self, path, start=None, end=None):
        ranges.append((start, end))
        return read(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return ranges


def test_reading_on_takes_few_requests_and_seeking_little_data(memory, monkeypatch):
    content = os.urandom(40 << 20)
    memory.pipe("/big", content)
    ranges = requests(monkeypatch)
    with remote.open_binary("memory://big") as file:
        assert file.read() == content
    assert len(ranges) < 16 and max(b - a for a, b in ranges) == remote.MAX_BLOCK
    ranges.clear()
    with remote.open_binary("memory://big") as file:
        for position in (30 << 20, 5, 20 << 20):
            file.seek(position)
            assert file.read(9) == content[position : position + 9]
        assert file.seek(-3, io.SEEK_END) == len(content) - 3
        assert file.read() == content[-3:]
        assert file.read() == b""
    assert sum(b - a for a, b in ranges) < 5 * remote.MIN_BLOCK


def test_a_cut_connection_is_taken_up_where_it_was(memory, monkeypatch):
    content, read, calls = os.urandom(1 << 20), MemoryFileSystem.cat_file, []

    def cut(self, path, start=None, end=None):
        calls.append((start, end))
        if len(calls) % 3 == 1:
            raise ConnectionResetError("cut")
        return read(self, path, start, min(end, start + 100_000))

    memory.pipe("/a", content)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", cut)
    assert remote.read_range("memory://a", 10, 1 << 20) == content[10:]
    assert calls[1][0] == 10 and len({start for start, _ in calls}) > 5


def test_what_never_works_is_one_message(memory, monkeypatch):
    def fail(self, *_, **options):
        raise OSError("the line\nis dead")

    memory.pipe("/a", b"1")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(InputError, match="cannot read memory://a: the line is dead"):
        remote.read_range("memory://a", 0, 1)
    monkeypatch.setattr(MemoryFileSystem, "put_file", fail)
    with pytest.raises(InputError, match="cannot write memory://b/c: the line is dead"):
        files.write_text("memory://b/c", "x")


def test_a_file_that_becomes_shorter(memory):
    memory.pipe("/a", b"1")
    with pytest.raises(InputError, match="memory://a: it became shorter"):
        remote.read_range("memory://a", 0, 5)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://a/none.txt", "cannot read memory://a/none.txt: not found"),
        ("gs://bucket/a", "cannot read gs://bucket/a: pip install gcsfs"),
        ("nothing://a", "Protocol not known: nothing"),
        ("memory://a/../b", r"memory://a/../b: `\.\.`"),
    ],
)
def test_bad_urls(memory, url, message):
    with pytest.raises(InputError, match=message):
        remote.open_binary(url)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_file_gets_its_name_when_all_of_it_is_there(memory, tmp_path, scheme):
    url = f"{scheme}://{tmp_path}/new/a.txt"
    files.write_text(url, "old")
    with pytest.raises(KeyError), files.atomic_path(url) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise KeyError
    assert RemotePath(url).read_text() == "old"
    files.write_text(url, "new")
    assert files.read_small_text(url, 3) == "new"
    assert [*remote.list_files(f"{scheme}://{tmp_path}/new")] == ["a.txt"]
    path = RemotePath(url)
    assert path.exists() and (RemotePath(url[:-6])).exists()
    path.unlink()
    assert not path.exists()
    path.unlink(missing_ok=True)


def test_a_cut_upload_leaves_what_was_there(tmp_path, monkeypatch):
    """In a store where a file is seen while it is written."""
    url = f"file://{tmp_path}/a.txt"
    files.write_text(url, "old")

    def put_half(self, path, target, **_):
        with open(target, "w") as file:
            file.write("ha")
        raise PermissionError("no more")

    monkeypatch.setattr(LocalFileSystem, "put_file", put_half)
    with pytest.raises(InputError, match="no access"):
        files.write_text(url, "half")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
