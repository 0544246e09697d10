"""Scores on a dev set as GLUE reports them: in percent; higher is better."""

import functools

import numpy as np
import scipy.stats
import sklearn.metrics

# Zero where nothing was predicted and nothing was to be found. "binary" is the F1 of label 1.
_f1 = functools.partial(sklearn.metrics.f1_score, zero_division=0)


def _correlation(function, labels, predictions):
    """Zero where a correlation is undefined because one side is constant."""
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return function(labels, predictions).statistic


def _r2(labels, predictions):
    """The explained share of the labels' variance; zero if they have no variance."""
    return 0.0 if np.ptp(labels) == 0 else sklearn.metrics.r2_score(labels, predictions)


METRICS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "exact_match": sklearn.metrics.accuracy_score,  # of multi-label tasks: all labels are right
    "mcc": sklearn.metrics.matthews_corrcoef,
    "f1": functools.partial(_f1, average="binary"),
    "macro_f1": functools.partial(_f1, average="macro"),
    "micro_f1": functools.partial(_f1, average="micro"),
    "pearson": functools.partial(_correlation, scipy.stats.pearsonr),
    "spearman": functools.partial(_correlation, scipy.stats.spearmanr),
    "r2": _r2,
}


def compute_metrics(
    names: tuple[str, ...], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """The metrics called `names`, in percent; correlations and `r2` may be negative.

    Labels and predictions are `[N]` label ids or scores, or `[N, labels]` of ones and zeros.
    """
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    if labels.shape != predictions.shape:
        raise ValueError(f"{labels.shape} labels, but {predictions.shape} predictions")
    return {name: 100.0 * float(METRICS[name](labels, predictions)) for name in names}
