import dataclasses

import numpy as np
import pytest

from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks import glue
from data.tasks.class_weights import check_loss, class_weights
from data.tasks.examples import IGNORED
from data.tasks.registry import get_task
from data.tasks.tagging.task import TASKS


def test_balanced_weights_are_those_of_scikit_learn():
    targets = np.array([0, 0, 0, IGNORED, 1, 2, 2, IGNORED])
    found = class_weights(("a", "b", "c", "never"), targets, "balanced")
    assert found[:3] == pytest.approx([6 / (4 * 3), 6 / (4 * 1), 6 / (4 * 2)])
    # Each label that occurs has the same share of the total.
    assert np.ptp(np.array(found[:3]) * [3, 1, 2]) == pytest.approx(0)


def test_given_weights_are_by_name():
    assert class_weights(("a", "b"), np.array([0, 1]), {"b": 3}) == (1.0, 3.0)
    assert class_weights(("a", "b"), np.array([0, 1]), None) is None


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (glue.TASKS["sts"], {"class_weights": "balanced"}, "`class_weights` must be absent.* sts"),
        (glue.TASKS["sts"], {"label_smoothing": 0.1}, "`label_smoothing` must be absent.* sts"),
        (get_task("squad"), {"label_smoothing": 0.1}, "`label_smoothing` must be absent.* squad"),
        (glue.TASKS["rte"], {"class_weights": {"1": 2}}, "rte: unknown label `1`.*entailment"),
    ],
)
def test_what_a_task_cannot_have_is_named(task, given, message):
    with pytest.raises(InputError, match=message):
        check_loss(task, FinetuningConfig(**given))


def test_what_tasks_can_have():
    chunk = dataclasses.replace(TASKS["chunk"], labels=("O", "B-NP"))
    for task, given in (
        (chunk, {"class_weights": {"O": 0.5}, "label_smoothing": 0.1}),
        (glue.TASKS["cola"], {"class_weights": {"0": 0.5, "1": 2}}),
        (glue.TASKS["sts"], {}),
        (get_task("squad"), {}),
    ):
        assert check_loss(task, FinetuningConfig(**given)) is None
