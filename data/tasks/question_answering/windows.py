"""Questions and contexts → windows of tokens, and a model's outputs for them → answers.

A context that is too long for one row is read through windows that overlap. An answer is a range
of a window's tokens, and by its tokens' places one of the context's characters.
Source: finetune/qa/qa_tasks.py and qa_metrics.py of the release.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from numpy.lib.stride_tricks import sliding_window_view

from common.errors import InputError
from data.tasks.batching import Features
from data.tasks.question_answering.files import QuestionExamples
from data.tokenizer.wordpiece import Pieces

_TOKENIZE_AT_ONCE = 1024  # bounds the memory that text takes on its way


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowFeatures(Features):
    """Features whose rows are windows, `[CLS] question [SEP] window [SEP]`, question by question.

    Args:
        contexts: the word pieces of each context.
        questions: int64 `[R]`, each row's question.
        firsts: int64 `[R]`, which piece of the context a window begins with.
        offsets: int64 `[R]`, where in its row the window begins.
        n_best_size: how many answers to list for a question.
        max_answer_length: most pieces of an answer.
        na_threshold: a question with higher `Answer.null_odds` has no answer.
    """

    contexts: list[Pieces]
    questions: np.ndarray
    firsts: np.ndarray
    offsets: np.ndarray
    n_best_size: int
    max_answer_length: int
    na_threshold: float

    @property
    def counts(self) -> np.ndarray:
        """How many pieces of the context each row has, int64 `[R]`."""
        return np.diff(self.row_splits) - self.offsets - 1


class Candidate(NamedTuple):
    """A possible answer: a text, and where in its context it is.

    Args:
        text: the characters `[start, end)` of the context.
        start_score, end_score: the logits (or log probabilities) of its first and last piece.
        start, end: equal where there is no text.
    """

    text: str
    start_score: float
    end_score: float
    start: int
    end: int


class Answer(NamedTuple):
    """What is found for one question.

    Args:
        candidates: different texts, the best first; there is always one.
        null_odds: higher the less likely there is an answer.
    """

    candidates: list[Candidate]
    null_odds: float

    @property
    def probabilities(self) -> np.ndarray:
        """Of the candidates, among themselves."""
        scores = np.array([c.start_score + c.end_score for c in self.candidates])
        shares = np.exp(scores - scores.max())
        return shares / shares.sum()


def make_features(
    tokenizer: Any, examples: QuestionExamples, options: Any, training: bool
) -> WindowFeatures:
    """Reads contexts through windows of at most `options.max_seq_length` tokens with the question.

    A window without the whole answer aims at position 0, as questions without an answer do.

    Args:
        tokenizer: a `ConvBertTokenizer`.
        examples: the questions.
        options: `max_seq_length`, `max_query_length`, `doc_stride`, `n_best_size`,
            `max_answer_length`, `qa_na_threshold` and `joint_prediction`, as attributes.
        training: whether rows have targets, and for the joint head the true starts as an input.

    Raises:
        InputError: a question leaves no room for its context.
    """
    contexts, queries = _tokenize(tokenizer, examples)
    num_cut = sum(len(query) > options.max_query_length for query in queries)
    cls, sep = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    parts, lengths, rows, aims = [], [], [], []
    for index, question in enumerate(examples.questions):
        query, pieces = queries[index][: options.max_query_length], contexts[question.context]
        room = options.max_seq_length - len(query) - 3
        if room < 1:
            raise InputError(
                f'{examples.path}, question "{question.id}": its {len(query)} tokens leave no room '
                f"for the context in `max_seq_length` {options.max_seq_length}: raise that, or "
                "lower `max_query_length`"
            )
        answer = _answer_pieces(pieces, question.span) if training else None
        offset = len(query) + 2
        for first, end in _windows(len(pieces.ids), room, options.doc_stride):
            parts += [cls, query, sep, pieces.ids[first:end], sep]
            lengths += [offset, end - first + 1]
            rows.append((index, first, offset))
            is_inside = answer is not None and first <= answer[0] and answer[1] < end
            aims.append(np.subtract(answer, first - offset) if is_inside else (0, 0))
    logging.info(
        "%s: %d questions in %d windows; %d questions cut to %d tokens",
        examples.path, len(examples), len(rows), num_cut, options.max_query_length,
    )  # fmt: skip
    questions, firsts, offsets = np.array(rows, np.int64).T
    targets, inputs = _targets(examples, questions, np.array(aims, np.int32), options)
    return WindowFeatures(
        np.concatenate(parts),
        np.repeat(np.arange(len(lengths), dtype=np.int32) % 2, lengths),
        np.concatenate([[0], np.cumsum(np.reshape(lengths, (-1, 2)).sum(axis=1))]),
        targets,
        options.max_seq_length,
        inputs=inputs if training else {},
        contexts=contexts,
        questions=questions,
        firsts=firsts,
        offsets=offsets,
        n_best_size=options.n_best_size,
        max_answer_length=options.max_answer_length,
        na_threshold=options.qa_na_threshold,
    )


def _tokenize(tokenizer, examples):
    """The pieces of each context, and the ids of each question; a bounded part at once."""
    contexts, queries = [], []
    for begin in range(0, len(examples.contexts), _TOKENIZE_AT_ONCE):
        texts = examples.contexts[begin : begin + _TOKENIZE_AT_ONCE]
        contexts += tokenizer.tokenize_with_offsets(texts)
    for begin in range(0, len(examples), _TOKENIZE_AT_ONCE):
        questions = examples.questions[begin : begin + _TOKENIZE_AT_ONCE]
        ids = tokenizer.tokenize([question.text for question in questions])
        queries += np.split(ids.values.numpy(), ids.row_splits.numpy()[1:-1])
    return contexts, queries


def _windows(count, room, stride) -> Iterator[tuple[int, int]]:
    """First piece and end of each window on a context of `count` pieces; one if it has none."""
    first, end = 0, min(count, room)
    yield first, end
    while end < count:
        first += min(room, stride)
        end = min(count, first + room)
        yield first, end


def _answer_pieces(pieces, span):
    """The first and the last piece that have characters of the span; None if there are none."""
    if span is None:
        return None
    first = np.searchsorted(pieces.ends, span[0], side="right")
    last = np.searchsorted(pieces.starts, span[1], side="left") - 1
    return (int(first), int(last)) if first <= last else None


def _targets(examples, questions, aims, options):
    """Targets of all rows and further inputs in training, by name."""
    targets = {"start_logits": aims[:, 0], "end_logits": aims[:, 1]}
    if not options.joint_prediction:
        return targets, {}
    has_none = np.array([question.span is None for question in examples.questions])
    targets["answerable_logits"] = has_none[questions].astype(np.float32)
    return targets, {"start_positions": aims[:, 0]}


def find_answers(
    examples: QuestionExamples, features: WindowFeatures, outputs: dict[str, np.ndarray]
) -> list[Answer]:
    """The answers to all questions, in order, from a model's outputs for all windows.

    Args:
        examples: the questions.
        features: what `make_features` made of them.
        outputs: of ConvBertForQuestionAnswering, as `gather_outputs` returns them.
    """
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
        pieces, text = features.contexts[question.context], examples.contexts[question.context]
        candidates = _best_texts(found, pieces, text, features.n_best_size)
        null_odds = min(null_scores)
        if search is _search_all:
            null_odds -= candidates[0].start_score + candidates[0].end_score
        answers.append(Answer(candidates, float(null_odds)))
    return answers


def _owners(firsts, counts):
    """For each piece of a context the number of the window that has the most context around it.

    That is on the side where it has less; of equal windows the first.
    """
    pieces = np.arange(firsts[-1] + counts[-1])
    before, after = pieces - firsts[:, None], (firsts + counts - 1)[:, None] - pieces
    margins = np.minimum(before, after)
    return np.where(margins < 0, -1.0, margins + 0.01 * counts[:, None]).argmax(axis=0)


def _search_all(features, outputs, row, is_own):
    """The best answers in a window by the simple head's logits; every range of pieces is tried.

    Returns:
        First and last piece in the window and the two logits of each answer, and the window's
        score of having none.
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
    """Those of the joint head's beams that are answers; see `_search_all`."""
    offset, count = features.offsets[row], len(is_own)
    starts = outputs["start_indices"][row][:, None] - offset
    lasts = outputs["end_indices"][row] - offset
    lengths = lasts - starts + 1
    is_answer = (starts >= 0) & (lasts < count) & (lengths > 0)
    is_answer &= lengths <= features.max_answer_length
    is_answer[is_answer] = is_own[np.broadcast_to(starts, lasts.shape)[is_answer]]
    start_scores = np.broadcast_to(outputs["start_log_probs"][row][:, None], lasts.shape)
    columns = (np.broadcast_to(starts, lasts.shape), lasts, start_scores)
    columns += (outputs["end_log_probs"][row],)
    found = (column[is_answer] for column in columns)
    return *found, outputs["answerable_logits"][row]


def _best_texts(found, pieces, context, n_best_size):
    """The best candidates with different texts; one without text if there is none."""
    starts, lasts, start_scores, end_scores = map(np.concatenate, zip(*found, strict=True))
    candidates = {}
    for index in np.argsort(-(start_scores + end_scores), kind="stable"):
        start, end = int(pieces.starts[starts[index]]), int(pieces.ends[lasts[index]])
        text = context[start:end]
        if text not in candidates:
            scores = float(start_scores[index]), float(end_scores[index])
            candidates[text] = Candidate(text, *scores, start, end)
            if len(candidates) == n_best_size:
                break
    return list(candidates.values()) or [Candidate("", 0.0, 0.0, 0, 0)]
