"""Logits `[N, L]` of N examples and L labels → labels, probabilities and scores."""

from typing import Any

import numpy as np

from data.tasks.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def predictions(
    problem_type: str, logits: np.ndarray, score_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Predictions of logits `[N, L]`, in the form of `TextExamples.labels`.

    They are `[N]` label ids; int32 `[N, L]`, 1 where a label's probability is above 0.5; or float32
    `[N]` scores, which may lie outside their range (None is 0–1).
    """
    if problem_type == SINGLE_LABEL:
        return logits.argmax(axis=1)
    if problem_type == MULTI_LABEL:
        return (logits > 0).astype(np.int32)
    low, high = score_range or (0.0, 1.0)
    return np.float32(low) + logits[:, 0] * np.float32(high - low)


def probabilities(problem_type: str, logits: np.ndarray) -> np.ndarray:
    """Probabilities `[N, L]` of labels: a softmax, or sigmoids for `MULTI_LABEL`."""
    if problem_type == MULTI_LABEL:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # the sigmoid, without overflow
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def answers(
    problem_type: str,
    logits: np.ndarray,
    labels: tuple[str, ...] | None,
    score_range: tuple[float, float] | None = None,
) -> list[Any]:
    """Predictions for people: a label, a list of labels, or a score clipped to its range."""
    values = predictions(problem_type, logits, score_range)
    if problem_type == REGRESSION:
        return (values if score_range is None else np.clip(values, *score_range)).tolist()
    if problem_type == MULTI_LABEL:
        return [[labels[i] for i in np.flatnonzero(row)] for row in values]
    return [labels[value] for value in values]


def answer_text(answer: str | list[str] | float, label_delimiter: str = ",") -> str:
    """One of `answers` as a cell of a TSV file."""
    if isinstance(answer, list):
        return label_delimiter.join(answer)
    return f"{answer:.6g}" if isinstance(answer, float) else answer
