"""Files and directories that appear whole or not at all, and leave all others alone."""

import os
import pathlib
import subprocess

import pytest

from common import files
from tests.support.files import write


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
    dead = subprocess.Popen(["true"])
    dead.wait()
    host, end = os.uname().nodename, files.TEMPORARY_SUFFIX
    leftover = tmp_path / f".name.{host}-{dead.pid}-0{end}"
    others = [
        f".name.{host}-{os.getppid()}-0{end}",  # alive
        f".name.another-{dead.pid}-0{end}",  # of another machine: who knows
        f".other.{host}-{dead.pid}-0{end}",  # on its way to another name
    ]
    for path in (leftover, *(tmp_path / name for name in others)):
        write(path / "content", "")
    write_new(tmp_path / "name")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "name"])


def test_an_error_before_the_renaming_leaves_the_old_one(tmp_path, monkeypatch):
    for name in ("new", "name"):
        write(tmp_path / name / name, "")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace_directory(tmp_path / "new", tmp_path / "name")
    assert (tmp_path / "name" / "name").exists()
