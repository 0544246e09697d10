"""A job's DATA_DIR/models/NAME or, if DATA_DIR is a URL, a local copy of it and how to send it."""

import functools
import os
from collections.abc import Callable

from common import remote_cache
from common.errors import InputError

RUNS = "finetuning_runs"  # in the model's directory
# Folders that each job ignores: the other job's, and those that stay on this machine.
PRETRAINING = ("finetuning_checkpoints", "finetuning_logs", "finetuning_models", RUNS)
FINETUNING = ("checkpoints", "finetuning_checkpoints", "generator", "tensorboard")


def open_directory(
    data_dir: str, model_name: str, writes: bool = True, without: tuple[str, ...] = PRETRAINING
) -> tuple[str, Callable[[], None]]:
    """Makes the copy equal to the store; returns its path, and a function that sends its changes.

    Raises:
        InputError: another job on this machine uses the copy, and this process `writes`; or the
            store has an error.
        WriteError: the copy cannot be written.
    """
    store = os.path.join(data_dir, "models", model_name)
    if writes:
        remote_cache.hold_copy(store)
    remote_cache.open_copy(store, without)
    send = functools.partial(remote_cache.send_copy, store, without)
    return remote_cache.local_path(store), send


def output_directory(data_dir: str, model_name: str, run_name: str | None) -> str:
    """Where results, models and predictions go: the model's directory, or a run's own in it."""
    directory = os.path.join(remote_cache.local_path(data_dir), "models", model_name)
    if run_name is None:
        return directory
    if run_name.startswith(".") or os.path.basename(run_name) != run_name or not run_name:
        raise InputError(f"--run-name must be the name of a new folder. Received: {run_name!r}")
    return os.path.join(directory, RUNS, run_name)
