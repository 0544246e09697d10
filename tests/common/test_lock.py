"""A lock excludes other processes, names its holder, and ends with it."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from common.errors import InputError
from common.lock import locked

HOLD = """
import os, sys, time
sys.path.insert(0, os.getcwd())
from common.lock import locked
with locked(sys.argv[1], "the run", "Wait.", shared=len(sys.argv) > 2):
    if os.fork() == 0:
        time.sleep(600)  # a worker that outlives its parent
    print("locked", os.getpid(), flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held_by_another(*arguments):
    command = [sys.executable, "-c", HOLD, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **options) as holder:
        try:
            assert holder.stdout.readline() == f"locked {holder.pid}\n"
            yield holder
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_second_process_is_told_who_has_it_and_takes_over_from_a_dead_one(tmp_path):
    path = tmp_path / "folder" / ".lock"
    with held_by_another(path) as holder:
        with (
            pytest.raises(InputError, match=rf"the run .*{holder.pid} on {os.uname().nodename}"),
            locked(path, "the run", "Choose another name."),
        ):
            pass
        assert path.exists()
        holder.kill()
        holder.wait()
        with locked(path, "the run", "Choose another name."):
            assert str(os.getpid()) in path.read_text()
    assert os.listdir(path.parent) == []


def test_those_that_share_it_exclude_others(tmp_path):
    path = tmp_path / ".lock"
    with held_by_another(path, "shared"):
        with locked(path, "the run", "Wait.", shared=True):
            pass
        with pytest.raises(InputError, match="the run is in use"), locked(path, "the run", "Wait."):
            pass
    with locked(path, "the run", "Wait."):
        pass
    assert os.listdir(tmp_path) == []


def test_one_process_cannot_have_it_twice(tmp_path):
    path = tmp_path / ".lock"
    with locked(path, "the run", "Wait."):
        with pytest.raises(InputError, match="the run"), locked(path, "the run", "Wait."):
            pass
        assert path.exists()
    with locked(path, "the run", "Wait."):
        pass


def test_folders_that_it_created_go_unless_the_job_wrote_there(tmp_path):
    with locked(tmp_path / "a" / "b" / ".lock", "the run", "Wait."):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "a" / "b" / ".lock", "the run", "Wait."):
        (tmp_path / "a" / "result").touch()
    assert os.listdir(tmp_path / "a") == ["result"]


def test_what_cannot_be_written_may_still_be_read(tmp_path, monkeypatch):
    def read_only(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "open", read_only)
    with locked(tmp_path / ".lock", "the run", "Wait."):
        pass
    (tmp_path / ".lock").write_bytes(b"")  # of another job
    with pytest.raises(InputError, match="Read-only"), locked(tmp_path / ".lock", "the run", ""):
        pass


def test_it_is_released_when_the_job_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", "the run", "Wait."):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"process": 1}', b"\xff"])
def test_a_damaged_file_is_still_a_lock_file(tmp_path, content):
    path = tmp_path / ".lock"
    path.write_bytes(content)
    with locked(path, "the run", "Wait."):
        assert str(os.getpid()) in path.read_text()


def test_file_systems_without_locks_only_cause_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with locked(tmp_path / ".lock", "the run", "Wait."):
        pass
    assert str(tmp_path / ".lock") in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / ".lock"
    with pytest.raises(InputError, match=str(path)), locked(path, "the run", "Wait."):
        pass


@pytest.mark.parametrize("number", [1, 2])
def test_a_holder_may_delete_its_file_at_any_moment(tmp_path, monkeypatch, number):
    path = tmp_path / ".lock"
    looks, stat = [], os.stat

    def lose_and_look(file, **options):
        if os.fspath(file) == str(path):
            looks.append(file)
            if len(looks) == number:
                path.unlink()
        return stat(file, **options)

    monkeypatch.setattr(os, "stat", lose_and_look)
    with locked(path, "the run", "Wait."):
        monkeypatch.undo()
        assert str(os.getpid()) in path.read_text()
