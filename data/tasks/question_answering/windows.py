"""Questions and contexts → windows of tokens.

A context that is too long for one row is read in overlapping windows.
Source: finetune/qa/qa_tasks.py of the release.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from common.errors import InputError
from data.tasks.batching import Features
from data.tasks.question_answering.files import QuestionExamples
from data.tokenizer.wordpiece import Tokens

_TOKENIZE_AT_ONCE = 1024  # texts; bounds the memory of tokenizing


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowFeatures(Features):
    """Features whose R rows are windows, `[CLS] question [SEP] window [SEP]`, in question order.

    Args:
        contexts: the tokens of each context.
        questions: int64 `[R]`, each row's question.
        firsts: int64 `[R]`, the position in the context of a window's first token.
        offsets: int64 `[R]`, the position in its row of a window's first token.
        n_best_size: how many answers to list for a question.
        max_answer_length: the most tokens of an answer.
        num_cut: how many questions are cut to `max_query_length` tokens.
        na_threshold: a question with higher `Answer.null_odds` has no answer.
    """

    contexts: list[Tokens]
    questions: np.ndarray
    firsts: np.ndarray
    offsets: np.ndarray
    n_best_size: int
    max_answer_length: int
    num_cut: int
    na_threshold: float

    @property
    def counts(self) -> np.ndarray:
        """How many tokens of the context each row has, int64 `[R]`."""
        return np.diff(self.row_splits) - self.offsets - 1


def make_features(
    tokenizer: Any, examples: QuestionExamples, options: Any, training: bool
) -> WindowFeatures:
    """Makes rows of at most `options.max_seq_length` tokens; see `Task.make_features`.

    For training, rows have targets and, for the joint head, the true starts as an input. The target
    of a window without the whole answer is position 0, as for questions without an answer. A
    question that leaves no room for its context is an `InputError`.
    """
    contexts, queries = _tokenize(tokenizer, examples)
    num_cut = sum(len(query) > options.max_query_length for query in queries)
    cls, sep = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    parts, lengths, rows, spans = [], [], [], []
    for index, question in enumerate(examples.questions):
        query, tokens = queries[index][: options.max_query_length], contexts[question.context]
        room = options.max_seq_length - len(query) - 3
        if room < 1:
            where = f'{examples.path}, question "{question.id}"'
            problem = f"its {len(query)} tokens leave no room for the context"
            hint = f"raise `max_seq_length` ({options.max_seq_length}) or lower `max_query_length`"
            raise InputError(f"{where}: {problem}; {hint}")
        answer = _answer_tokens(tokens, question.span) if training else None
        offset = len(query) + 2
        for first, end in _windows(len(tokens.ids), room, options.doc_stride):
            parts += [cls, query, sep, tokens.ids[first:end], sep]
            lengths += [offset, end - first + 1]
            rows.append((index, first, offset))
            is_inside = answer is not None and first <= answer[0] and answer[1] < end
            spans.append(np.subtract(answer, first - offset) if is_inside else (0, 0))
    counts = (len(examples), len(rows), num_cut, options.max_query_length)
    message = "%s: %d questions in %d windows; %d questions cut to %d tokens"
    logging.info(message, examples.path, *counts)
    questions, firsts, offsets = np.array(rows, np.int64).T
    targets, inputs = _targets(examples, questions, np.array(spans, np.int32), options)
    segments = np.repeat(np.arange(len(lengths), dtype=np.int32) % 2, lengths)
    row_splits = np.concatenate([[0], np.cumsum(np.reshape(lengths, (-1, 2)).sum(axis=1))])
    return WindowFeatures(
        *(np.concatenate(parts), segments, row_splits, targets, options.max_seq_length),
        inputs=inputs if training else {},
        pad_id=tokenizer.pad_id,
        contexts=contexts,
        questions=questions,
        firsts=firsts,
        offsets=offsets,
        n_best_size=options.n_best_size,
        max_answer_length=options.max_answer_length,
        num_cut=num_cut,
        na_threshold=options.qa_na_threshold,
    )


def _tokenize(tokenizer, examples):
    """The tokens of each context, and the ids of each question."""
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
    """First token and end of each window on a context of `count` tokens; at least one window."""
    first, end = 0, min(count, room)
    yield first, end
    while end < count:
        first += min(room, stride)
        end = min(count, first + room)
        yield first, end


def _answer_tokens(tokens, span):
    """The first and the last token that overlap the characters of the span; None if none do."""
    if span is None:
        return None
    first = np.searchsorted(tokens.ends, span[0], side="right")
    last = np.searchsorted(tokens.starts, span[1], side="left") - 1
    return (int(first), int(last)) if first <= last else None


def _targets(examples, questions, spans, options):
    """Targets of all rows, and further inputs in training, by name."""
    targets = {"start_logits": spans[:, 0], "end_logits": spans[:, 1]}
    if not options.joint_prediction:
        return targets, {}
    has_none = np.array([question.span is None for question in examples.questions])
    targets["answerable_logits"] = has_none[questions].astype(np.float32)
    return targets, {"start_positions": spans[:, 0]}
