import math

import numpy as np
import pytest

from data.tasks.classification import task
from data.tasks.metrics import METRICS, compute_metrics

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
LABELS = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
F1_OF_1, F1_OF_0 = 2 * 3 / (2 * 3 + 1 + 2), 2 * 4 / (2 * 4 + 1 + 2)
MATTHEWS = (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "expected"),
    [
        ("accuracy", LABELS, PREDICTIONS, 0.7),
        ("f1", LABELS, PREDICTIONS, F1_OF_1),
        ("f1", PREDICTIONS, LABELS, F1_OF_1),
        ("f1", 1 - LABELS, 1 - PREDICTIONS, F1_OF_0),
        ("macro_f1", LABELS, PREDICTIONS, (F1_OF_0 + F1_OF_1) / 2),
        ("mcc", LABELS, PREDICTIONS, MATTHEWS),
        ("mcc", LABELS, 0 * LABELS, 0),
        ("f1", LABELS, 0 * LABELS, 0),
        ("spearman", [0, 1, 2, 3], [0, 1, 4, 9], 1),
        # Covariance 15 over the root of the sums of squares 5 and 49.
        ("pearson", [0, 1, 2, 3], [0, 1, 4, 9], 15 / math.sqrt(5 * 49)),
        # Ties have mean ranks: 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
        ("spearman", [0, 1, 1, 2], [0, 1, 2, 3], 4.5 / math.sqrt(4.5 * 5)),
        ("pearson", [1, 2, 3], [1, 1, 1], 0),
        ("spearman", [1, 2, 3], [1, 1, 1], 0),
        ("pearson", [1], [1], 0),
        ("r2", [0, 2, 4], [1, 3, 5], 1 - 3 / 8),
        ("r2", [1, 1, 1], [0, 2, 4], 0),
    ],
)
def test_metrics(name, labels, predictions, expected):
    found = compute_metrics((name,), np.array(labels), np.array(predictions))
    assert found == {name: pytest.approx(100 * expected)}


def test_a_missing_prediction_is_an_error():
    with pytest.raises(ValueError, match="labels"):
        compute_metrics(("accuracy",), LABELS, PREDICTIONS[:-1])


def test_several_labels():
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]])
    predictions = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    scores = compute_metrics(("micro_f1", "macro_f1", "exact_match"), labels, predictions)
    # 3 are right, 1 is wrong, 1 is missing; F1 of the labels: 1, 1 and 0.
    expected = {"micro_f1": 75.0, "macro_f1": 200 / 3, "exact_match": 100 / 3}
    assert scores == pytest.approx(expected)
    nothing = compute_metrics(("micro_f1", "exact_match"), labels, np.zeros((3, 3)))
    assert nothing == pytest.approx({"micro_f1": 0.0, "exact_match": 100 / 3})


def test_every_metric_of_a_task_exists():
    assert {name for names in task.METRICS.values() for name in names} == set(METRICS)
    for kind, names in task.DEFAULT_METRICS.items():
        assert set(names) <= set(task.METRICS[kind])
