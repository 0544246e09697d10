import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from common import gpus
from common.errors import InputError
from jobs import run_record


def test_every_start_adds_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--model-name", "x"])
    (tmp_path / "metadata.json").write_text("{}")
    gpu = gpus.Gpu("NVIDIA A100", 40.0, "550.2", "8.0")
    monkeypatch.setattr(gpus, "installed", lambda: (gpu,))
    cudnn = SimpleNamespace(name="nvidia-cudnn-cu12", version="9.10.2.21")
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [cudnn])
    for step in (0, 7):
        run_record.add_start(tmp_path / "run", step, {"seed": 1}, tmp_path)
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 7]
    last = starts[-1]
    assert last["hparams"] == {"seed": 1}
    assert last["command"] == [sys.executable, "pretrain.py", "--model-name", "x"]
    assert last["records"]["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert last["versions"]["python"] == platform.python_version()
    assert last["versions"]["numpy"] == np.__version__
    assert last["backend"] == keras.backend.backend()
    assert last["versions"]["nvidia-cudnn-cu12"] == "9.10.2.21"
    assert last["machine"]["platform"] == platform.platform()
    assert last["machine"]["gpus"] == [gpu._asdict()]
    assert last["machine"]["tensorflow_build"].keys() == {"cuda_version", "cudnn_version"}


def test_records_without_metadata(tmp_path):
    run_record.add_start(tmp_path, 0, {}, tmp_path)
    (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert start["records"] == {"metadata": str(tmp_path / "metadata.json"), "sha256": None}


@pytest.mark.parametrize("text", ["[]", "{", '{"starts": 1}'])
def test_a_file_that_is_not_a_record_is_kept(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        run_record.add_start(tmp_path, 0, {}, tmp_path)
    assert (tmp_path / "run.json").read_text() == text


def git(directory, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run(["git", "-C", directory, *who, *arguments], check=True, capture_output=True)


def test_the_commit_and_whether_it_was_changed(tmp_path):
    assert run_record.code_version(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "x")
    head = (tmp_path / ".git" / "HEAD").read_text().split()[1]
    commit = (pathlib.Path(tmp_path) / ".git" / head).read_text().strip()
    assert run_record.code_version(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "a.py").write_text("2\n")
    assert run_record.code_version(tmp_path) == {"commit": commit, "changed": True}
    (tmp_path / "copy").mkdir()
    assert run_record.code_version(tmp_path / "copy") is None
