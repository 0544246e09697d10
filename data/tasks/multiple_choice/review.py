"""Which choices a model got wrong; see `data.tasks.review`."""

from typing import Any

import numpy as np

from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.review import (
    MISSED,
    WRONG,
    Mistake,
    Piece,
    Review,
    confuse,
    most_confident,
    score_labels,
)


def review_choices(task: Any, examples: Any, logits: np.ndarray) -> Review:
    """The review of a `MultipleChoiceTask`'s dev set, from the model's logits `[N, choices]`."""
    names = [str(name) for name in task.labels or range(examples.num_choices)]
    predicted = logits.argmax(axis=1)
    confidence = probabilities(SINGLE_LABEL, logits).max(axis=1)
    right = examples.labels
    wrong = np.flatnonzero(predicted != right)

    def texts(index):
        marks = {int(predicted[index]): WRONG, int(right[index]): MISSED}
        choices = enumerate(examples.choices[index])
        return [("context", [Piece(examples.contexts[index])])] + [
            (names[number], [Piece(text, marks.get(number, ""))]) for number, text in choices
        ]

    mistakes = [
        Mistake(i, texts(i), names[right[i]], names[predicted[i]], float(confidence[i]))
        for i in most_confident(wrong, confidence)
    ]
    labels, confusion = score_labels(names, right, predicted), confuse(names, right, predicted)
    return Review(mistakes, len(wrong), "questions", "questions", labels, confusion)
