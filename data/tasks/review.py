"""What a model got right and wrong on a dev set, for people to look at: see `Task.review`."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MOST_MISTAKES = 50

# How a part of a text is marked: rightly predicted; right, but not predicted; wrongly predicted.
# Unmarked text is "".
RIGHT, MISSED, WRONG = "right", "missed", "wrong"


class Piece(NamedTuple):
    """A part of a text: how it is marked, and a note such as the tags of a word."""

    text: str
    mark: str = ""
    note: str = ""


class Mistake(NamedTuple):
    """An example with a wrong prediction.

    Args:
        index: the example's number from 0.
        texts: the name of each text, and its pieces in order.
        label, prediction: in words; "" where the pieces show them.
        probability: of the wrong prediction; None for scores.
    """

    index: int
    texts: list[tuple[str, list[Piece]]]
    label: str
    prediction: str
    probability: float | None = None


class LabelScores(NamedTuple):
    """How well one label was found: scores in percent, and numbers of examples.

    `support` examples have the label. For `missed` of these, it was not predicted. `wrong` examples
    do not have the label, but it was predicted.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    missed: int
    wrong: int


class Confusion(NamedTuple):
    """Numbers of examples, int `[labels, labels]`: rows are right labels, columns predictions."""

    labels: list[str]
    counts: "np.ndarray"


@dataclasses.dataclass(frozen=True)
class Review:
    """A model's predictions for a dev set.

    Args:
        mistakes: all, or the `MOST_MISTAKES` with the highest probability (for scores, those with
            the largest errors).
        num_mistakes: how many there are in all.
        unit: what an example is, in the plural, such as "texts".
        label_unit: what has a label, such as "entities".
        labels: by label; empty for scores.
        confusion: None for scores, and if an example may have several labels.
        outcomes: numbers of examples by outcome, in words.
        scores: the right and the predicted scores, float `[2, N]`; None for labels.
    """

    mistakes: list[Mistake]
    num_mistakes: int
    unit: str
    label_unit: str = ""
    labels: list[LabelScores] = dataclasses.field(default_factory=list)
    confusion: Confusion | None = None
    outcomes: dict[str, int] = dataclasses.field(default_factory=dict)
    scores: "np.ndarray | None" = None


def most_confident(wrong: "np.ndarray", confidence: "np.ndarray") -> list[int]:
    """The first `MOST_MISTAKES` of the numbers in `wrong`, by descending confidence `[N]`."""
    order = (-confidence[wrong]).argsort(kind="stable")[:MOST_MISTAKES]
    return wrong[order].tolist()


def score_labels(
    names: Sequence[str], right: "np.ndarray", predicted: "np.ndarray"
) -> list[LabelScores]:
    """The scores of each label, from `[N]` ids of the names or `[N, labels]` ones and zeros."""
    from sklearn.metrics import multilabel_confusion_matrix, precision_recall_fscore_support

    ids = list(range(len(names)))
    scores = precision_recall_fscore_support(right, predicted, labels=ids, zero_division=0)
    tables = multilabel_confusion_matrix(right, predicted, labels=ids)
    return [
        LabelScores(
            *(name, *(100.0 * float(score) for score in row), int(support)),
            *(int(table[1, 0]), int(table[0, 1])),
        )
        for name, *row, support, table in zip(names, *scores, tables, strict=True)
    ]


def confuse(names: Sequence[str], right: "np.ndarray", predicted: "np.ndarray") -> Confusion:
    """The confusion matrix of `[N]` ids of the names."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(right, predicted, labels=list(range(len(names))))
    return Confusion(list(names), counts)


def join_words(pieces: Iterable[Piece]) -> list[Piece]:
    """Words as pieces of a text, with spaces between them and unmarked neighbors joined."""
    joined = []
    for is_plain, group in itertools.groupby(pieces, lambda piece: not piece.mark):
        if joined:
            joined.append(Piece(" "))
        words = list(group)
        if is_plain:
            joined.append(Piece(" ".join(piece.text for piece in words)))
            continue
        for piece in words:
            joined += [piece, Piece(" ")]
        joined.pop()
    return joined
