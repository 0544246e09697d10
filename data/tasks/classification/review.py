"""What a classifier or a regressor got wrong; see `data.tasks.review`."""

from typing import Any

import numpy as np

from data.tasks.classification import decoding
from data.tasks.examples import TextExamples
from data.tasks.review import Mistake, Piece, Review, confuse, most_confident, score_labels

UNIT = "texts"


def review_texts(task: Any, examples: TextExamples, logits: np.ndarray) -> Review:
    """The review of a `ClassificationTask`'s dev set, from the model's logits `[N, labels]`."""
    if task.is_regression:
        return _review_scores(task, examples, logits)
    right = examples.labels
    predicted = decoding.predictions(task.problem_type, logits)
    shares = decoding.probabilities(task.problem_type, logits)
    answers = decoding.answers(task.problem_type, logits, task.labels)
    if task.problem_type == decoding.MULTI_LABEL:
        # Of a wrong example, the wrong decision that the model was most sure of.
        decisions = np.where(predicted == 1, shares, 1 - shares)
        confidence = np.where(predicted != right, decisions, 0.0).max(axis=1)
        wrong = np.flatnonzero((predicted != right).any(axis=1))
        expected = [[task.labels[i] for i in np.flatnonzero(row)] for row in right]
        expected, answers = ([_joined(names) for names in rows] for rows in (expected, answers))
        confusion = None
    else:
        confidence = shares[np.arange(len(right)), predicted]
        wrong = np.flatnonzero(predicted != right)
        expected = [task.labels[label] for label in right]
        confusion = confuse(task.labels, right, predicted)
    mistakes = [
        Mistake(i, _texts(examples, i), expected[i], answers[i], float(confidence[i]))
        for i in most_confident(wrong, confidence)
    ]
    labels = score_labels(task.labels, right, predicted)
    return Review(mistakes, len(wrong), UNIT, UNIT, labels, confusion)


def _review_scores(task, examples, logits):
    answers = decoding.answers(task.problem_type, logits, None, task.score_range)
    scores = np.array([examples.labels, answers])
    errors = np.abs(scores[0] - scores[1])
    mistakes = [
        Mistake(index, _texts(examples, index), *(f"{score:.3g}" for score in scores[:, index]))
        for index in most_confident(np.flatnonzero(errors), errors)
    ]
    return Review(mistakes, int(np.count_nonzero(errors)), UNIT, scores=scores)


def _joined(names):
    return ", ".join(names) or "(none)"


def _texts(examples, index):
    texts = [examples.texts[index]]
    if examples.text_pairs is None:
        return [("", [Piece(texts[0])])]
    texts.append(examples.text_pairs[index])
    return [(f"text {number}", [Piece(text)]) for number, text in enumerate(texts, start=1)]
