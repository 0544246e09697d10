import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import remote, remote_cache
from common.errors import InputError
from tests.support.object_store import memory_store
from tests.support.processes import ROOT

URL = "memory://bucket/d"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    return memory_store(monkeypatch, tmp_path)


def read(directory):
    """The files of a folder by name."""
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def downloads(monkeypatch):
    """The URLs that are read from now on."""
    urls, read_range = [], remote.read_range

    def note(url, *arguments):
        urls.append(url)
        return read_range(url, *arguments)

    monkeypatch.setattr(remote, "read_range", note)
    return urls


def test_what_is_there_is_fetched_once_and_what_changed_again(memory, monkeypatch, tmp_path):
    memory.pipe({"/bucket/d/a": b"1", "/bucket/d/e/b": b"22", "/bucket/other": b""})
    copy = remote_cache.fetch(URL)
    assert copy.path == str(tmp_path / "cache/memory/bucket/d")
    assert read(copy.path) == {"a": b"1", "e/b": b"22"}
    assert copy.hashes["a"].startswith("6b86b273ff34fce1")
    urls = downloads(monkeypatch)
    assert remote_cache.fetch(f"{URL}/") == copy
    assert urls == []
    memory.pipe("/bucket/d/a", b"3")
    memory.rm("/bucket/d/e/b")
    memory.pipe("/bucket/d/c", b"")
    changed = remote_cache.fetch(URL)
    assert read(copy.path) == {"a": b"3", "c": b""}
    assert urls == [f"{URL}/a"] and changed.hashes.keys() == {"a", "c"}


def test_a_damaged_copy_is_fetched_again(memory):
    memory.pipe({"/bucket/d/a": b"12", "/bucket/d/b": b"22"})
    copy = remote_cache.fetch(URL)
    Path(copy.path, "a").write_bytes(b"1")
    os.unlink(os.path.join(copy.path, "b"))
    assert read(remote_cache.fetch(URL).path) == {"a": b"12", "b": b"22"}
    (index,) = Path(remote_cache.cache_directory(), ".index").glob("*.json")
    index.write_text(index.read_text()[:-5])
    assert read(remote_cache.fetch(URL).path) == {"a": b"12", "b": b"22"}


def test_some_files_and_one(memory):
    memory.pipe({"/bucket/d/a": b"1", "/bucket/d/b": b"2"})
    assert read(remote_cache.fetch(URL, lambda names: ["b"]).path) == {"b": b"2"}
    assert Path(remote_cache.local(f"{URL}/a")).read_bytes() == b"1"
    assert remote_cache.local("here/x") == "here/x"
    for url, choose in ((URL, lambda names: []), ("memory://bucket/none", iter)):
        with pytest.raises(InputError, match=f"^{url}: not found"):
            remote_cache.fetch(url, choose)


def test_files_that_were_fetched_before_an_error_stay(memory, monkeypatch):
    memory.pipe({f"/bucket/d/{name}": name.encode() for name in "abcd"})
    monkeypatch.setattr(remote_cache, "_THREADS", 1)
    read_range = remote.read_range

    def fail(url, *arguments):
        if url.endswith("c"):
            raise InputError("cut")
        return read_range(url, *arguments)

    monkeypatch.setattr(remote, "read_range", fail)
    with pytest.raises(InputError, match="cut"):
        remote_cache.fetch(URL)
    monkeypatch.setattr(remote, "read_range", read_range)
    urls = downloads(monkeypatch)
    remote_cache.fetch(URL)
    assert f"{URL}/c" in urls and f"{URL}/a" not in urls


def test_a_name_cannot_lead_out_of_the_cache(memory, monkeypatch):
    monkeypatch.setattr(remote, "list_files", lambda url: {"../x": remote.File(1, "")})
    with pytest.raises(InputError, match=r"\.\./x"):
        remote_cache.fetch(URL)


def stored(memory):
    return {path.removeprefix("/bucket/d/"): memory.cat(path) for path in memory.find("/bucket/d")}


def test_a_working_copy_is_sent_and_opened_elsewhere(memory, monkeypatch, tmp_path):
    remote_cache.open_copy(URL, ("big",))  # nothing is there yet
    here = Path(remote_cache.local_path(URL))

    def write(name, text):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)

    for name in ("log", "checkpoints/step_1/state.safetensors", "checkpoints/step_1/state.json"):
        write(name, "1")
    write("big/x", "stays here")
    write(".lock", "")
    sent, put = [], remote.put
    monkeypatch.setattr(remote, "put", lambda path, url: (sent.append(url), put(path, url)))
    remote_cache.send_copy(URL, ("big",))
    names = ["log", "checkpoints/step_1/state.safetensors", "checkpoints/step_1/state.json"]
    assert sent == [f"{URL}/{name}" for name in names]
    remote_cache.send_copy(URL, ("big",))
    assert len(sent) == 3

    write("log", "12")
    write("checkpoints/step_2/state.json", "2")
    for path in here.glob("checkpoints/step_1/*"):
        path.unlink()
    remote_cache.send_copy(URL, ("big",))
    assert stored(memory) == {"log": b"12", "checkpoints/step_2/state.json": b"2"}

    write("checkpoints/step_3/state.json", "never sent")
    write("checkpoints/step_2/state.json", "3")  # nor this, which is as long as what was sent
    remote_cache.open_copy(URL, ("big",))
    expected = stored(memory) | {"big/x": b"stays here"}
    assert {name: text for name, text in read(here).items() if "lock" not in name} == expected

    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "elsewhere"))
    remote_cache.open_copy(URL)
    assert read(remote_cache.local_path(URL)) == stored(memory)
    assert json.loads(next((tmp_path / "elsewhere/.index").glob("*.json")).read_text())


def test_a_working_copy_belongs_to_one_job(memory):
    remote_cache.hold_copy(URL)
    remote_cache.hold_copy(URL)  # of the same process
    hold = f"from common import remote_cache; remote_cache.hold_copy({URL!r})"
    command = [sys.executable, "-c", f"{hold.replace(URL, URL + '2')}; {hold}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"InputError: another job works on {URL} in " in done.stderr


def test_a_local_folder_needs_no_copy(tmp_path):
    remote_cache.open_copy(str(tmp_path))
    remote_cache.send_copy(str(tmp_path))
    assert remote_cache.local_path(str(tmp_path)) == str(tmp_path)
