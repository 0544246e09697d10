"""The state that a killed trial goes on from, in finetuning_checkpoints/TASK_TRIAL."""

import contextlib
import os
import shutil
from typing import Any

from common import files
from common.errors import InputError

KNOWN = {"evaluations", "seconds", "settings"}


def describe(directory: str) -> dict[str, Any] | None:
    """What is known of the trial whose state is in `directory`; None if there is no state.

    Returns:
        `evaluations` so far, `seconds` so far, and `settings` by task: see `Job.settings`.
    """
    if not os.path.isdir(directory):
        return None
    from model.training.checkpoints import TrainingCheckpoints

    checkpoints = TrainingCheckpoints(directory)
    if not (steps := checkpoints.steps()):
        return None
    path = os.path.join(checkpoints.path(steps[-1]), "state.json")
    data = files.read_json_object(path).get("data")
    if not isinstance(data, dict) or not data.keys() >= KNOWN:
        raise InputError(f"{path}: not the state of a trial. Delete {directory}")
    return data


def forget(directory: str) -> None:
    """Deletes the state in `directory`, if there is one."""
    if os.path.isdir(directory):
        shutil.rmtree(directory)
        with contextlib.suppress(OSError):  # other trials have a state
            os.rmdir(os.path.dirname(directory))
