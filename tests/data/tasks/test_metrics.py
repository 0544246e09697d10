import math

import numpy as np
import pytest

from data.tasks.classification import task
from data.tasks.metrics import METRICS, compute_metrics

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
LABELS = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])


def test_accuracy():
    assert compute_metrics(("accuracy",), LABELS, PREDICTIONS) == {"accuracy": 70.0}


def test_f1_is_of_label_one():
    scores = compute_metrics(("f1",), LABELS, PREDICTIONS)
    assert scores["f1"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 2))  # 66.67
    swapped = compute_metrics(("f1",), PREDICTIONS, LABELS)
    assert swapped == pytest.approx(scores)
    other = compute_metrics(("f1",), 1 - LABELS, 1 - PREDICTIONS)
    assert other["f1"] == pytest.approx(100 * 2 * 4 / (2 * 4 + 1 + 2))


def test_matthews():
    expected = (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))
    assert compute_metrics(("mcc",), LABELS, PREDICTIONS)["mcc"] == pytest.approx(100 * expected)


def test_correlations():
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    predictions = np.array([0.0, 1.0, 4.0, 9.0])
    scores = compute_metrics(("pearson", "spearman"), labels, predictions)
    assert scores["spearman"] == pytest.approx(100.0)
    # Covariance 15 over the root of the sums of squares 5 and 49.
    assert scores["pearson"] == pytest.approx(100 * 15 / math.sqrt(5 * 49))


def test_ties_have_mean_ranks():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    scores = compute_metrics(("spearman",), np.array([0.0, 1.0, 1.0, 2.0]), np.arange(4.0))
    assert scores["spearman"] == pytest.approx(100 * 4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize("name", ["mcc", "f1"])
def test_constant_predictions_score_zero(name):
    assert compute_metrics((name,), LABELS, np.zeros(10, int)) == {name: 0.0}


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_undefined_correlation_is_zero(name):
    labels = np.array([1.0, 2.0, 3.0])
    assert compute_metrics((name,), labels, np.ones(3)) == {name: 0.0}
    assert compute_metrics((name,), labels[:1], np.ones(1)) == {name: 0.0}


def test_a_missing_prediction_is_refused():
    with pytest.raises(ValueError, match="labels"):
        compute_metrics(("accuracy",), LABELS, PREDICTIONS[:-1])


def test_macro_f1_is_the_mean_over_labels():
    first, second = 2 * 4 / (2 * 4 + 1 + 2), 2 * 3 / (2 * 3 + 1 + 2)
    scores = compute_metrics(("macro_f1",), LABELS, PREDICTIONS)
    assert scores["macro_f1"] == pytest.approx(100 * (first + second) / 2)


def test_several_labels():
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]])
    predictions = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    scores = compute_metrics(("micro_f1", "macro_f1", "exact_match"), labels, predictions)
    # 3 found, 1 too many, 1 missed; by label 1, 1 and 0.
    expected = {"micro_f1": 75.0, "macro_f1": 200 / 3, "exact_match": 100 / 3}
    assert scores == pytest.approx(expected)
    nothing = compute_metrics(("micro_f1", "exact_match"), labels, np.zeros((3, 3)))
    assert nothing == pytest.approx({"micro_f1": 0.0, "exact_match": 100 / 3})


def test_r2_is_the_explained_share_of_the_variance():
    labels = np.array([0.0, 2.0, 4.0])
    assert compute_metrics(("r2",), labels, labels + 1)["r2"] == pytest.approx(100 * (1 - 3 / 8))
    assert compute_metrics(("r2",), np.ones(3), labels) == {"r2": 0.0}


def test_every_metric_of_a_task_is_there():
    assert {name for names in task.METRICS.values() for name in names} == set(METRICS)
    for kind, names in task.DEFAULT_METRICS.items():
        assert set(names) <= set(task.METRICS[kind])
