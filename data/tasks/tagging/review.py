"""What a tagger got wrong; see `data.tasks.review`."""

import itertools
from collections.abc import Sequence

import numpy as np

from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.review import (
    MISSED,
    RIGHT,
    WRONG,
    Mistake,
    Piece,
    Review,
    confuse,
    join_words,
    most_confident,
    score_labels,
)
from data.tasks.tagging.conll import SentenceExamples
from data.tasks.tagging.entities import OUTSIDE, entities_of

NO_ENTITY = "(no entity)"


def review_tags(
    examples: SentenceExamples, predicted: Sequence[str], logits: np.ndarray, entities: bool
) -> Review:
    """The review of a dev set.

    Args:
        examples: with their tags.
        predicted: the tag of each word, in the scheme of `examples.tags`.
        logits: `[words, labels]`.
        entities: whether tags mark entities, which are then counted: an entity is found if one with
            its words and its type was predicted. Otherwise words are counted.
    """
    splits = examples.row_splits
    if entities:
        right, found = _spans(examples.tags, predicted, splits)
    else:
        right, found = examples.tags, predicted
    names = sorted({*right, *found} - {NO_ENTITY})
    all_names = [*names, NO_ENTITY] if entities else names
    ids = {name: number for number, name in enumerate(all_names)}
    right, found = (np.array([ids[name] for name in tags], int) for tags in (right, found))

    is_wrong = np.array([a != b for a, b in zip(examples.tags, predicted, strict=True)])
    shares = np.where(is_wrong, probabilities(SINGLE_LABEL, logits).max(axis=1), 0.0)
    confidence = np.maximum.reduceat(shares, splits[:-1])
    wrong = np.flatnonzero(np.add.reduceat(is_wrong, splits[:-1]))
    mistakes = [
        Mistake(index, [("", _sentence(examples, predicted, index))], "", "", confidence[index])
        for index in most_confident(wrong, confidence)
    ]
    return Review(
        *(mistakes, len(wrong), "sentences", "entities" if entities else "words"),
        score_labels(names, right, found),
        confuse(all_names, right, found),
    )


def _spans(tags, predicted, row_splits):
    """The right and the predicted type of each span that is or was predicted to be an entity."""
    right, found = [], []
    for begin, end in itertools.pairwise(row_splits):
        expected, guessed = (
            {(first, last): kind for first, last, kind in entities_of(each[begin:end])}
            for each in (tags, predicted)
        )
        for span in sorted(expected.keys() | guessed.keys()):
            right.append(expected.get(span, NO_ENTITY))
            found.append(guessed.get(span, NO_ENTITY))
    return right, found


def _sentence(examples, predicted, index):
    begin, end = examples.row_splits[index : index + 2]
    pieces = []
    for word, tag, guess in zip(
        examples.words[begin:end], examples.tags[begin:end], predicted[begin:end], strict=True
    ):
        if tag != guess:
            mark = MISSED if guess == OUTSIDE else WRONG
            pieces.append(Piece(word, mark, f"{tag} → {guess}"))
        elif "-" in tag:  # an entity's; not the part of speech of almost every word
            pieces.append(Piece(word, RIGHT, tag))
        else:
            pieces.append(Piece(word))
    return join_words(pieces)
