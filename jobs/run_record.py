"""What a run directory says of itself: `run.json`, an entry for every time the run was started."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from typing import Any

from common import files
from common.errors import InputError

FILE = "run.json"
PACKAGES = ("tensorflow", "keras", "jax", "numpy", "safetensors", "tensorflow-text")


def append_start(run_dir: str | os.PathLike, entry: dict[str, Any]) -> None:
    """Adds an entry to the run directory's `run.json`.

    Raises:
        InputError: the file is there and is not one of these.
    """
    path = os.path.join(run_dir, FILE)
    starts = []
    if os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as file:
                starts = list(json.load(file)["starts"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} cannot be read ({error!r}). Move it away: it is a record for people, and "
                "the run does not need it"
            ) from None
    files.write_text(path, json.dumps({"starts": [*starts, entry]}, indent=2) + "\n")


def describe_start(
    step: int, hparams: dict[str, Any], records_metadata: str | os.PathLike, backend: str
) -> dict[str, Any]:
    """Everything about a start that could explain its results.

    Args:
        step: where the run goes on.
        hparams: all of them, defaults included.
        records_metadata: the records' `metadata.json`; it may be missing.
        backend: Keras's.
    """
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": [sys.executable, *sys.argv],
        "hparams": hparams,
        "records": {
            "metadata": os.path.abspath(records_metadata),
            "sha256": files.sha256_of(records_metadata)
            if os.path.exists(records_metadata)
            else None,  # records that the original wrote
        },
        "code": code_version(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        "versions": {"python": platform.python_version()} | package_versions(),
        "backend": backend,
        "machine": {
            "platform": platform.platform(),
            "host": platform.node(),
            "cpus": os.cpu_count(),
        },
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, of those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_version(directory: str | os.PathLike) -> dict[str, Any] | None:
    """The git commit that `directory` is a checkout of, and whether files of it were changed.

    Returns:
        None where it is no checkout, or git is not there.
    """

    def git(*arguments):
        command = ["git", "-C", os.fspath(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), directory):
            return None  # a copy inside a checkout of something else
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
