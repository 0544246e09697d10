"""Tokens of lines → pre-training examples: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

The algorithm is ELECTRA's `ExampleBuilder` (build_pretraining_dataset.py): it gathers lines until
they fill an example, then divides them between its two segments.
"""

import random
from typing import NamedTuple

import numpy as np

from data.records.options import MIN_TARGET_LENGTH

SINGLE_SEGMENT_PROBABILITY = 0.1
SHORT_EXAMPLE_PROBABILITY = 0.05
UNLIMITED_LENGTH = 100_000  # the original's target length for "everything in the first segment"


class Example(NamedTuple):
    """One example, without padding."""

    ids: np.ndarray
    """Token ids [length], including special tokens."""
    first_length: int
    """How many of them are in segment 0: [CLS], the first segment, its [SEP]."""


class ExampleBuilder:
    """Makes examples from the lines of documents, in order.

    Args:
        max_seq_length: longest example in tokens, including special tokens; at least 5.
        cls_id, sep_id: ids of [CLS] and [SEP].
        rng: random numbers, drawn in the original's order: the same `random.Random` gives the
            original's examples.
        segment_rule: "electra", or "convbert" for the ConvBERT release's rule, which negates two
            of ELECTRA's conditions and leaves most examples with one segment.
        carry_over: True cuts a line at the target length, and its rest begins the next example of
            the document: no token is lost, and every example except a document's last has its
            target length. False follows the originals: the example takes the whole line, is cut to
            `max_seq_length`, and the rest is dropped.
        dtype: integer type of the ids.
    """

    def __init__(
        self,
        max_seq_length: int,
        cls_id: int,
        sep_id: int,
        rng: random.Random,
        segment_rule: str = "electra",
        carry_over: bool = True,
        dtype: np.dtype | type = np.int32,
    ):
        self._max_length = max_seq_length
        self._cls = np.array([cls_id], dtype)
        self._sep = np.array([sep_id], dtype)
        self._rng = rng
        self._negated = segment_rule == "convbert"
        self._carry_over = carry_over
        self._lines: list[np.ndarray] = []
        self._length = 0
        self._aim_for(max_seq_length)

    def add_line(self, ids: np.ndarray) -> list[Example]:
        """Adds the token ids [n] of a line; returns the examples that it completes."""
        self._lines.append(ids)
        self._length += len(ids)
        examples = []
        while self._length >= self._enough:
            examples.append(self._make_example())
        return examples

    def end_document(self) -> list[Example]:
        """Ends the document; returns the example that holds the rest of it, if there is a rest."""
        if self._length:
            return [self._make_example()]
        self._lines.clear()
        return []

    def _aim_for(self, target_length: int) -> None:
        self._target_length = target_length
        # The original compares text tokens with a length that includes special tokens. With
        # `carry_over`, two tokens fewer fill an example. One token less than that always fits with
        # three special tokens, so a cut never reaches beyond the last line.
        self._enough = target_length - 2 if self._carry_over else target_length

    def _make_example(self) -> Example:
        first, second, last_segment = self._divide_lines()
        rest = None
        if self._carry_over:
            special_tokens = 3 if any(map(len, second)) else 2
            excess = self._length + special_tokens - self._target_length
            if excess > 0:
                last_segment[-1], rest = last_segment[-1][:-excess], last_segment[-1][-excess:]
        if rest is None:
            _cut(first, self._max_length - 2)
            _cut(second, max(0, self._max_length - 3 - sum(map(len, first))))
            self._lines, self._length = [], 0
        else:
            self._lines, self._length = [rest], len(rest)

        if self._rng.random() < SHORT_EXAMPLE_PROBABILITY:
            self._aim_for(self._rng.randint(MIN_TARGET_LENGTH, self._max_length))
        else:
            self._aim_for(self._max_length)

        first_length = 2 + sum(map(len, first))
        if any(map(len, second)):
            second.append(self._sep)
        return Example(np.concatenate([self._cls, *first, self._sep, *second]), first_length)

    def _divide_lines(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Divides the gathered lines between two segments; returns both, and the last line's."""
        random_, negated = self._rng.random, self._negated
        if random_() < SINGLE_SEGMENT_PROBABILITY:
            aim = UNLIMITED_LENGTH
        else:
            aim = (self._target_length - 3) // 2
        first, second, first_length, second_length = [], [], 0, 0
        for line in self._lines:
            length = len(line)
            if (
                (first_length == 0) != negated
                or first_length + length < aim
                or ((second_length == 0) != negated and first_length < aim and random_() < 0.5)
            ):
                segment = first
                first_length += length
            else:
                segment = second
                second_length += length
            segment.append(line)
        return first, second, segment


def _cut(lines: list[np.ndarray], length: int) -> None:
    """Cuts a segment to `length` tokens, in place."""
    for index, line in enumerate(lines):
        lines[index] = line[:length]
        length -= len(lines[index])
