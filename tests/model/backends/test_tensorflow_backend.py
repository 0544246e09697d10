"""The folder of what XLA compiled for GPUs, with GPUs that are claimed; XLA where it cannot be."""

import json
import os
import pathlib

import pytest
import tensorflow as tf

from common import gpus
from common.errors import InputError
from model.backends import backend, distribution
from tests.support.processes import run_python

H200 = gpus.Gpu("NVIDIA H200", 140.4, "580.3", "9.0")
DIRECTORY, TYPES = "--tf_xla_persistent_cache_directory=", "--tf_xla_persistent_cache_device_types="
# A function for the CPU, kept as one for GPUs is; prints what is in the folder.
PROGRAM = """
import json, os, pathlib, sys
from common import gpus, lean_imports
lean_imports.install()
gpus.installed = lambda: (gpus.Gpu("H200", 1.0, "5", "9.0"),)
from model.backends import backend
backend.KEPT_FOR = "CPU"
backend.keep_compilations(sys.argv[1])
import tensorflow as tf
double = tf.function(lambda x: x + x, jit_compile=True)
assert double(tf.ones([2])).numpy().tolist() == [2, 2]
files = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()]
print(json.dumps([[path.name, path.stat().st_ino, path.stat().st_mtime_ns] for path in files]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function that returns the folder and the other flags for GPUs and a user's flags."""
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"XLA_FLAGS": "", "LD_LIBRARY_PATH": ""})

    def find(*installed, flags="", directory=tmp_path):
        os.environ["TF_XLA_FLAGS"] = flags
        monkeypatch.setattr(gpus, "installed", lambda: installed)
        backend.keep_compilations(str(directory))
        found = os.environ["TF_XLA_FLAGS"].partition(f" {DIRECTORY}'")
        assert found[0] == flags
        return found[2].partition("'")[0]

    return find


def test_each_gpu_driver_version_and_flag_has_its_own_folder(folder, tmp_path, monkeypatch):
    found = [folder(H200), folder(H200, flags="--tf_xla_clustering_debug=true")]
    for field in ("name", "driver", "capability"):
        found.append(folder(H200._replace(**{field: "7.0"})))
    for name in ("XLA_FLAGS", "LD_LIBRARY_PATH"):
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, name, "x")
            found.append(folder(H200))
    for owner, name, value in (
        (tf, "__version__", "2.99"),
        (gpus, "package_versions", lambda: {"nvidia-cudnn-cu12": "9.10"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            found.append(folder(H200))
    assert len(set(found)) == len(found) == 9
    assert all(pathlib.Path(path).parent == tmp_path and os.path.isdir(path) for path in found)
    assert folder(H200, H200._replace(memory_gib=80)) == found[0]
    assert os.environ["TF_XLA_FLAGS"].endswith(f"{TYPES}GPU,XLA_GPU_JIT")


def test_what_is_not_kept(folder, tmp_path):
    assert folder() == ""  # no GPU
    assert folder(H200, H200._replace(capability="8.0")) == ""  # which one computes?
    for flags in (f"{DIRECTORY}/own", "flags.txt"):
        assert folder(H200, flags=flags) == ""
    (tmp_path / "file").touch()
    assert folder(H200, directory=tmp_path / "file") == ""


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    def run():
        variables = {"KERAS_BACKEND": "tensorflow", "TF_XLA_FLAGS": ""}
        return json.loads(run_python("-c", PROGRAM, tmp_path / "a b", **variables).stdout)

    first = run()
    assert [name.split("__")[-1] for name, *_ in first] == ["XLA_CPU_JIT.pb"]
    assert run() == first  # compiling again would replace the file


def test_xla_cannot_repeat_results(monkeypatch):
    monkeypatch.setattr(backend, "forbids_xla", lambda: True)
    assert not distribution.uses_xla(None) and not distribution.uses_xla(False)
    with pytest.raises(InputError, match=r"`jit_compile` must be false or null .*deterministic"):
        distribution.uses_xla(True)
