"""`run.json` in a run's directory: an entry for every start of the run."""

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from typing import Any

from common import files, gpus
from common.errors import InputError

FILE = "run.json"
PACKAGES = ("tensorflow", "keras", "jax", "numpy", "safetensors", "tensorflow-text")


def add_start(
    run_dir: str | os.PathLike, step: int, hparams: dict[str, Any], records_dir: str | os.PathLike
) -> None:
    """Adds a start at `step` to `run.json`, with everything that could explain the results.

    Raises:
        InputError: the file is not a run record.
        WriteError: it cannot be written.
    """
    import keras

    from data.records.metadata import METADATA_FILE

    path, metadata = os.path.join(run_dir, FILE), os.path.join(records_dir, METADATA_FILE)
    starts = []
    if os.path.exists(path):  # many starts make it a large file, which is no error
        starts = files.read_json_object(path, max_bytes=1 << 30).get("starts")
    if not isinstance(starts, list):
        raise InputError(
            f"{path}: `starts` must be a list. Delete or rename the file: training does not need it"
        )
    has_metadata = os.path.exists(metadata)  # the original's records have none
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": [sys.executable, *sys.argv],
        "hparams": hparams,
        "records": {
            "metadata": os.path.abspath(metadata),
            "sha256": files.sha256_of(metadata) if has_metadata else None,
        },
        "code": code_version(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        "versions": {"python": platform.python_version()} | package_versions(),
        "backend": keras.backend.backend(),
        "machine": {
            "platform": platform.platform(),
            "host": platform.node(),
            "cpus": os.cpu_count(),
            "gpus": [gpu._asdict() for gpu in gpus.installed()],
            "tensorflow_build": build_info(),
        },
    }
    with files.write_errors_named(path):
        os.makedirs(run_dir, exist_ok=True)
        files.write_json(path, {"starts": [*starts, entry]})


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    import importlib.metadata  # slow, and `--help` does not need it

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions | gpus.package_versions()


def build_info() -> dict[str, str]:
    """The CUDA and cuDNN versions that TensorFlow was built with; {} if it has none."""
    import tensorflow as tf

    info = tf.sysconfig.get_build_info()
    return {name: info[name] for name in ("cuda_version", "cudnn_version") if name in info}


def code_version(directory: str | os.PathLike) -> dict[str, Any] | None:
    """The git commit of a checkout, and whether its files were changed; None if unknown."""

    def git(*arguments):
        command = ["git", "-C", os.fspath(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), directory):
            return None  # a copy inside another project's checkout
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
