"""Scores on a dev set, as GLUE reports them: percentages, of which more is better."""

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


def _mean_f1(average):
    """Over labels ("macro"), or of all labels' decisions together ("micro")."""
    return lambda y, p: sklearn.metrics.f1_score(y, p, average=average, zero_division=0)


def _r2(labels, predictions):
    """The explained share of the scores' variance; zero where there is none to explain."""
    return 0.0 if np.ptp(labels) == 0 else sklearn.metrics.r2_score(labels, predictions)


METRICS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "exact_match": sklearn.metrics.accuracy_score,  # of several labels: all of them right
    "mcc": _matthews,
    "f1": _f1,
    "macro_f1": _mean_f1("macro"),
    "micro_f1": _mean_f1("micro"),
    "pearson": lambda y, p: _correlation(scipy.stats.pearsonr, y, p),
    "spearman": lambda y, p: _correlation(scipy.stats.spearmanr, y, p),
    "r2": _r2,
}


def compute_metrics(
    names: tuple[str, ...], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Scores of one dev set.

    Args:
        names: keys of `METRICS`.
        labels: `[N]` label ids or scores, or `[N, labels]` of ones and zeros.
        predictions: of the same kind and shape.

    Returns:
        Each metric in percent; correlations and `r2` may be negative.
    """
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    if labels.shape != predictions.shape:
        raise ValueError(f"{labels.shape} labels, but {predictions.shape} predictions")
    return {name: 100.0 * float(METRICS[name](labels, predictions)) for name in names}
