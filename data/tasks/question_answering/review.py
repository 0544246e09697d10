"""What a question answerer got wrong; see `data.tasks.review`."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.tasks.question_answering.answers import Answer
from data.tasks.question_answering.evaluation import f1, normalize
from data.tasks.question_answering.files import QuestionExamples
from data.tasks.review import (
    MISSED,
    RIGHT,
    WRONG,
    Mistake,
    Piece,
    Review,
    confuse,
    most_confident,
    score_labels,
)

KINDS = ("has an answer", "has no answer")
NO_ANSWER = "(no answer)"


def review_answers(
    task: Any, examples: QuestionExamples, answers: Sequence[Answer], na_threshold: float
) -> Review:
    """The review of a `QuestionAnsweringTask`'s dev set, from what was found for each question."""
    is_answered = [task.is_answered(answer, na_threshold) for answer in answers]
    pairs = zip(answers, is_answered, strict=True)
    texts = [answer.candidates[0].text if answered else "" for answer, answered in pairs]
    rights = [question.answers for question in examples.questions]
    outcomes = list(map(_outcome, rights, texts))
    wrong = np.array([i for i, (_, is_wrong) in enumerate(outcomes) if is_wrong], int)
    confidence = np.zeros(len(answers))
    for index in wrong:
        confidence[index] = _probability(answers[index], is_answered[index])
    mistakes = [
        _mistake(examples, index, answers[index], texts[index], confidence[index])
        for index in most_confident(wrong, confidence)
    ]
    labels, confusion = [], None
    if task.unanswerable:
        right, found = (np.array([not each for each in part], int) for part in (rights, texts))
        labels, confusion = score_labels(KINDS, right, found), confuse(KINDS, right, found)
    counts = dict(Counter(name for name, _ in outcomes).most_common())
    return Review(mistakes, len(wrong), "questions", "questions", labels, confusion, counts)


def _outcome(right, text):
    """What became of a question, and whether its answer is wrong."""
    normal, answer = [normalize(each) for each in right], normalize(text)
    if not right:
        return ("answered, but has no answer", True) if text else ("rightly not answered", False)
    if answer in normal:
        return "exact", False
    if not text:
        return "not answered, but has an answer", True
    return ("overlapping", True) if max(f1(a, answer) for a in normal) > 0 else ("wrong", True)


def _probability(answer, is_answered):
    """The probability of the answer among the candidates, or that there is none."""
    if is_answered:
        return answer.describe()[0]["probability"]
    return 0.5 + 0.5 * math.tanh(0.5 * answer.null_odds)  # the sigmoid, without overflow


def _mistake(examples, index, answer, text, confidence):
    question, best = examples.questions[index], answer.candidates[0]
    context = examples.contexts[question.context]
    marked = _marked(context, question.answers, (best.start, best.end) if text else None)
    pieces = [("question", [Piece(question.text)]), ("context", list(marked))]
    label = " / ".join(dict.fromkeys(question.answers)) or NO_ANSWER
    return Mistake(index, pieces, label, text or NO_ANSWER, float(confidence))


def _marked(context, right, span) -> Iterator[Piece]:
    """The pieces of a context: right answers, wherever they occur, and the span of the prediction.

    Dev files need not say where an answer is.
    """
    kinds = np.zeros(len(context), int)
    for answer in filter(None, set(right)):
        at = context.find(answer)
        while at >= 0:
            kinds[at : at + len(answer)] = 1
            at = context.find(answer, at + len(answer))
    if span:
        kinds[span[0] : span[1]] += 2
    bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(context)]
    for begin, end in itertools.pairwise(bounds):
        yield Piece(context[begin:end], ("", MISSED, WRONG, RIGHT)[kinds[begin]])
