"""A model's outputs for windows of contexts → answers.

Source: finetune/qa/qa_metrics.py of the release.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data.tasks.question_answering.files import QuestionExamples
from data.tasks.question_answering.windows import WindowFeatures


class Candidate(NamedTuple):
    """A possible answer: a span of its context.

    Args:
        text: the characters `[start, end)` of the context.
        start_score, end_score: logits or log probabilities of the first and the last token.
        start, end: equal if there is no text.
    """

    text: str
    start_score: float
    end_score: float
    start: int
    end: int


class Answer(NamedTuple):
    """What was found for one question: one or more different texts, the best first.

    The higher the `null_odds`, the less likely the question has an answer.
    """

    candidates: list[Candidate]
    null_odds: float

    def describe(self) -> list[dict[str, Any]]:
        """The candidates as JSON objects. Their probabilities are a softmax over their scores."""
        scores = np.array([c.start_score + c.end_score for c in self.candidates])
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        described = []
        for candidate, share in zip(self.candidates, shares.tolist(), strict=True):
            fields = {"text": candidate.text, "probability": share} | candidate._asdict()
            numbers = {name: round(fields[name], 6) for name in fields if name != "text"}
            described.append({"text": candidate.text} | numbers)
        return described


def find_answers(
    examples: QuestionExamples, features: WindowFeatures, outputs: dict[str, np.ndarray]
) -> list[Answer]:
    """The answers to all questions, from the `gather_outputs` of `ConvBertForQuestionAnswering`."""
    search = _search_beams if "start_log_probs" in outputs else _search_all
    bounds = np.searchsorted(features.questions, np.arange(len(examples) + 1))
    counts = features.counts
    answers = []
    for index, question in enumerate(examples.questions):
        rows = np.arange(bounds[index], bounds[index + 1])
        firsts = features.firsts[rows]
        owners = _owners(firsts, counts[rows])
        found, null_scores = [], []
        for number, row in enumerate(rows):
            is_own = owners[firsts[number] : firsts[number] + counts[row]] == number
            starts, lasts, *scores, null_score = search(features, outputs, row, is_own)
            found.append((starts + firsts[number], lasts + firsts[number], *scores))
            null_scores.append(null_score)
        tokens, text = features.contexts[question.context], examples.contexts[question.context]
        candidates = _best_texts(found, tokens, text, features.n_best_size)
        null_odds = min(null_scores)
        if search is _search_all:
            null_odds -= candidates[0].start_score + candidates[0].end_score
        answers.append(Answer(candidates, float(null_odds)))
    return answers


def _owners(firsts, counts):
    """For each token of a context, the window (by number) with the most text on both sides."""
    tokens = np.arange(firsts[-1] + counts[-1])
    before, after = tokens - firsts[:, None], (firsts + counts - 1)[:, None] - tokens
    margins = np.minimum(before, after)
    return np.where(margins < 0, -1.0, margins + 0.01 * counts[:, None]).argmax(axis=0)


def _search_all(features, outputs, row, is_own):
    """The best answers in a window by the simple head: tries every span of tokens.

    Returns:
        The first token, the last token and their two logits for each answer; and the window's score
        for having no answer. Tokens are numbered from the window's first.
    """
    begin, offset = features.row_splits[row], features.offsets[row]
    window = slice(begin + offset, begin + offset + len(is_own))
    start, end = outputs["start_logits"], outputs["end_logits"]
    null_score = start[begin] + end[begin]
    start, end = np.where(is_own, start[window], -np.inf), end[window]
    longest, number = features.max_answer_length, features.n_best_size
    lasts = sliding_window_view(np.pad(end, (0, longest), constant_values=-np.inf), longest)
    scores = (start[:, None] + lasts[: len(end)]).reshape(-1)
    best = np.arange(len(scores))
    if len(best) > number:
        best = np.sort(np.argpartition(scores, -number)[-number:])
    starts, more = np.divmod(best[np.isfinite(scores[best])], longest)
    return starts, starts + more, start[starts], end[starts + more], null_score


def _search_beams(features, outputs, row, is_own):
    """The beams of the joint head that are answers; see `_search_all`."""
    offset, count = features.offsets[row], len(is_own)
    lasts = outputs["end_indices"][row] - offset
    starts = np.broadcast_to(outputs["start_indices"][row][:, None] - offset, lasts.shape)
    lengths = lasts - starts + 1
    is_answer = (starts >= 0) & (lasts < count) & (lengths > 0)
    is_answer &= lengths <= features.max_answer_length
    is_answer[is_answer] = is_own[starts[is_answer]]
    start_scores = np.broadcast_to(outputs["start_log_probs"][row][:, None], lasts.shape)
    columns = (starts, lasts, start_scores, outputs["end_log_probs"][row])
    return *(column[is_answer] for column in columns), outputs["answerable_logits"][row]


def _best_texts(found, tokens, context, n_best_size):
    """The best candidates with different texts; an empty one if none were found."""
    starts, lasts, start_scores, end_scores = map(np.concatenate, zip(*found, strict=True))
    candidates = {}
    for index in np.argsort(-(start_scores + end_scores), kind="stable"):
        start, end = int(tokens.starts[starts[index]]), int(tokens.ends[lasts[index]])
        text = context[start:end]
        if text not in candidates:
            scores = float(start_scores[index]), float(end_scores[index])
            candidates[text] = Candidate(text, *scores, start, end)
            if len(candidates) == n_best_size:
                break
    return list(candidates.values()) or [Candidate("", 0.0, 0.0, 0, 0)]
