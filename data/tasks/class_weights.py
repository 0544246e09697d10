"""The factors of a classifier's loss by label, and the checks of what a user asked for."""

from typing import Any

import numpy as np

from common.fields import require, unknown
from data.tasks.base import Task
from data.tasks.examples import IGNORED

BALANCED = "balanced"


def check_loss(task: Task, options: Any) -> None:
    """Checks `class_weights` and `label_smoothing` against the task.

    Raises:
        InputError: the task's loss cannot have one of them, or a weight is for an unknown label.
    """
    for name in ("class_weights", "label_smoothing"):
        given, expected = getattr(options, name), f"absent for the task {task.name}"
        require(not given or name in task.loss_settings, name, expected, given)
    if isinstance(options.class_weights, dict):
        for label in options.class_weights.keys() - set(task.labels):
            raise unknown("label", label, task.labels, f"`class_weights`, task {task.name}")


def class_weights(
    labels: tuple[str, ...], targets: np.ndarray, given: str | dict[str, float] | None
) -> tuple[float, ...] | None:
    """A factor for each label in order of their ids, or None.

    Args:
        labels: the labels.
        targets: of the training set, label ids or `IGNORED`.
        given: the factors, where a missing label has 1; or `BALANCED`: targets / (labels · targets
            of this label), as in scikit-learn.
    """
    if not given:
        return None
    if given != BALANCED:
        return tuple(float(given.get(label, 1.0)) for label in labels)
    counts = np.bincount(targets[targets != IGNORED], minlength=len(labels))
    weights = counts.sum() / (len(labels) * np.maximum(counts, 1))
    return tuple(weights.tolist())
