"""Files and directories that appear whole or not at all, and leave all others alone."""

import errno
import os
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from common import files
from common.errors import InputError
from tests.support.files import write
from tests.support.processes import run_python


def test_a_directory_takes_its_name(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "new" / name, "")
        files.replace_directory(tmp_path / "new", tmp_path / "name")
        assert [path.name for path in tmp_path.iterdir()] == ["name"]
        assert [path.name for path in (tmp_path / "name").iterdir()] == [name]


def test_a_directory_is_made_whole_or_not_at_all(tmp_path):
    with files.atomic_directory(f"{tmp_path}/name/") as temporary:
        (tmp_path / temporary / "a").write_text("1")
        assert not (tmp_path / "name").exists()
    with pytest.raises(ValueError, match="halfway"), files.atomic_directory(tmp_path / "name") as t:
        (tmp_path / t / "b").write_text("2")
        raise ValueError("halfway")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["a"]


def write_directory(path):
    with files.atomic_directory(path) as temporary:
        pathlib.Path(temporary, "new").touch()


WAYS = pytest.mark.parametrize(
    "write_new", [write_directory, lambda path: files.write_text(path, "new")]
)


@WAYS
def test_names_of_the_users_own_stay(tmp_path, write_new):
    path = tmp_path / "name"
    own = [f"name{end}" for end in (".tmp", ".old", ".bak", ".part", "~", ".1")]
    for name in own:
        write(tmp_path / name / "precious", "")
    write_new(path)
    write_new(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([*own, "name"])
    assert all((tmp_path / name / "precious").exists() for name in own)


@WAYS
def test_only_leftovers_of_dead_processes_of_this_host_go(tmp_path, write_new):
    code = "import sys; from common import files; print(files._temporary_name(sys.argv[1]))"
    leftover = pathlib.Path(run_python("-c", code, tmp_path / "other").stdout.strip())
    host, process = os.uname().nodename, leftover.name.split("-")[-3]
    others = [
        leftover.name.replace(f"-{process}-", f"-{os.getppid()}-"),  # alive
        leftover.name.replace(host, "another"),  # of another machine: who knows
        leftover.name.removesuffix(files.TEMPORARY_SUFFIX),
    ]
    for path in (leftover, *(tmp_path / name for name in others)):
        write(path / "content", "")
    write_new(tmp_path / "name")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "name"])


@WAYS
def test_the_longest_names_can_be_written(tmp_path, write_new):
    name = "ø" * 127
    write_new(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@WAYS
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_that_cannot_sync(tmp_path, monkeypatch, write_new, code):
    def cannot(descriptor):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", cannot)
    write_new(tmp_path / "name")
    assert os.listdir(tmp_path) == ["name"]


@WAYS
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_of_the_umask(tmp_path, write_new, mask):
    """Also those of libraries that make private files."""
    before = os.umask(mask)
    try:
        write_new(tmp_path / "name")
        with files.atomic_directory(tmp_path / "model") as folder:
            safetensors.numpy.save_file({"a": np.zeros(1)}, os.path.join(folder, "a.safetensors"))
        with files.atomic_path(tmp_path / "a.safetensors") as temporary:
            safetensors.numpy.save_file({"a": np.zeros(1)}, temporary)
    finally:
        os.umask(before)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o666 & ~mask}
    assert len(paths) == 3


def test_what_is_no_regular_file_stays_what_it_is(tmp_path):
    write(tmp_path / "elsewhere" / "target", "old")
    (tmp_path / "link").symlink_to("elsewhere/target")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(tmp_path / "pipe", "new")
    assert os.read(reader, 9) == b"new" and not (tmp_path / "pipe").is_file()
    os.close(reader)


@WAYS
def test_what_cannot_be_written_is_named(tmp_path, write_new):
    write(tmp_path / "file", "")
    with pytest.raises(files.WriteError, match=f"{tmp_path}/file/name: Not a directory"):
        write_new(tmp_path / "file" / "name")


def test_errors_of_what_is_read_are_not_errors_of_the_write(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "name"):
        open(tmp_path / "missing")  # noqa: SIM115, it does not exist
    with (
        pytest.raises(files.WriteError, match="name: No space"),
        files.atomic_path(tmp_path / "name"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_place_is_checked_before_the_work(tmp_path, monkeypatch):
    files.require_writable(tmp_path / "new" / "folder", num_bytes=1000)
    assert os.listdir(tmp_path) == []
    with pytest.raises(files.WriteError, match=f"{tmp_path}/new: .* MB are needed"):
        files.require_writable(tmp_path / "new", num_bytes=1 << 60)
    write(tmp_path / "file", "")
    with pytest.raises(files.WriteError, match=f"{tmp_path}/file/new: .*not a directory"):
        files.require_writable(tmp_path / "file" / "new")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(files.WriteError, match=f"{tmp_path}/new: no permission"):
        files.require_writable(tmp_path / "new")


def test_a_path_may_be_below_the_data_directory(tmp_path, monkeypatch):
    write(tmp_path / "here" / "both", "")
    write(tmp_path / "data" / "both", "")
    write(tmp_path / "data" / "a" / "b", "")
    monkeypatch.chdir(tmp_path / "here")
    assert files.find_path("x", "both", "../data") == "both"
    assert files.find_path("x", "a/b", "../data") == "../data/a/b"
    with pytest.raises(InputError, match=r"`x`: .*a/c .*\.\./data/a/c"):
        files.find_path("x", "a/c", "../data")


def test_an_error_before_the_renaming_leaves_the_old_one(tmp_path, monkeypatch):
    for name in ("new", "name"):
        write(tmp_path / name / name, "")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(files.WriteError, match="name: No space"):
        files.replace_directory(tmp_path / "new", tmp_path / "name")
    assert (tmp_path / "name" / "name").exists()


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '{"x": {"a": 1, "a": 2}}'])
def test_a_name_twice_in_an_object_is_an_error(text):
    with pytest.raises(InputError, match=r"here: .*`a` is there twice"):
        files.parse_json_object(text, "here")
