"""Scores on a dev set, as GLUE reports them: percentages."""

import numpy as np
import scipy.stats
import sklearn.metrics


def _matthews(labels, predictions):
    return sklearn.metrics.matthews_corrcoef(labels, predictions)


def _f1(labels, predictions):
    # Of label 1, "is a paraphrase"; zero where nothing was predicted or nothing was to be found.
    return sklearn.metrics.f1_score(labels, predictions, zero_division=0)


def _correlation(function, labels, predictions):
    """Zero where a correlation is not defined, because one side is constant."""
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return function(labels, predictions).statistic


METRICS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "mcc": _matthews,
    "f1": _f1,
    "pearson": lambda y, p: _correlation(scipy.stats.pearsonr, y, p),
    "spearman": lambda y, p: _correlation(scipy.stats.spearmanr, y, p),
}


def compute_metrics(
    names: tuple[str, ...], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Scores of one dev set.

    Args:
        names: keys of `METRICS`.
        labels: `[N]` label ids or scores.
        predictions: `[N]` of the same kind.

    Returns:
        Each metric in percent; correlations may be negative.
    """
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    if labels.shape != predictions.shape:
        raise ValueError(f"{labels.shape} labels, but {predictions.shape} predictions")
    return {name: 100.0 * float(METRICS[name](labels, predictions)) for name in names}
