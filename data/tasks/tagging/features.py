"""Words → rows of tokens, where each word has exactly one target.

A word's target is at its first token. A sentence that is too long for one row is read in
windows that overlap by about half, so that every word has text on both sides. The words of an
overlap are divided at its middle. (The original drops the words at the end.)
"""

import dataclasses
from typing import Any

import numpy as np

from data.tasks.batching import Features, ranges
from data.tasks.examples import IGNORED

_TOKENIZE_AT_ONCE = 65536  # words; bounds the memory of tokenizing


@dataclasses.dataclass(frozen=True)
class TaggingFeatures(Features):
    """Features whose rows are sentences, or windows of them, between `[CLS]` and `[SEP]`.

    Args:
        word_positions: int64 `[words]`, the position in `input_ids` of each word's first token.
        num_windowed: how many sentences are read in windows.
        num_cut: how many words are longer than a row, and were cut.
    """

    word_positions: np.ndarray = dataclasses.field(kw_only=True)
    num_windowed: int = dataclasses.field(kw_only=True)
    num_cut: int = dataclasses.field(kw_only=True)


def make_tagging_features(
    tokenizer: Any,
    words: list[str],
    row_splits: np.ndarray,
    targets: np.ndarray,
    max_seq_length: int,
) -> TaggingFeatures:
    """Tokenizes sentences word by word.

    A word without tokens, such as a control character, becomes `[UNK]`. Targets are int32 `[words]`
    label ids, or `IGNORED`; see `SentenceExamples` for words and their row_splits.
    """
    room = max_seq_length - 2
    tokens, word_splits, num_cut = _tokenize(tokenizer, words, room)
    sentence_lengths = word_splits[row_splits[1:]] - word_splits[row_splits[:-1]]
    windows, num_windowed = [], 0
    for begin, end, length in zip(row_splits[:-1], row_splits[1:], sentence_lengths, strict=True):
        if length <= room:
            windows.append((begin, end, begin))
        else:
            windows += _windows(word_splits, int(begin), int(end), room)
            num_windowed += 1
    # A window holds the words from `begin` to `end`. It has the targets of those from `first` to
    # the next window's `first`; in very short rows with long words there may be none.
    windows = np.array(windows, np.int64)
    own = np.diff(windows[:, 2], append=len(words))
    begin, end, _ = windows[own > 0].T
    row_lengths = word_splits[end] - word_splits[begin] + 2
    row_starts = np.concatenate([[0], np.cumsum(row_lengths)])
    ids = np.full(row_starts[-1], tokenizer.cls_id, np.int32)
    ids[row_starts[1:] - 1] = tokenizer.sep_id
    is_word = np.ones(len(ids), bool)
    is_word[row_starts[:-1]] = is_word[row_starts[1:] - 1] = False
    ids[is_word] = tokens[ranges(word_splits[begin], row_lengths - 2)]
    row_of_word = np.repeat(np.arange(len(begin)), own[own > 0])
    in_row = word_splits[:-1] - word_splits[begin[row_of_word]]
    positions = row_starts[row_of_word] + 1 + in_row
    token_targets = np.full(len(ids), IGNORED, np.int32)
    token_targets[positions] = targets
    counts = {"num_windowed": num_windowed, "num_cut": num_cut, "pad_id": tokenizer.pad_id}
    given = (ids, np.zeros_like(ids), row_starts, token_targets, max_seq_length)
    return TaggingFeatures(*given, word_positions=positions, **counts)


def _tokenize(tokenizer, words, room):
    """The tokens of all words, int64 `[words + 1]` splits of them, and how many words were cut."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    distinct, ids, counts = list(numbers), [], []
    for begin in range(0, len(distinct), _TOKENIZE_AT_ONCE):
        found = tokenizer.tokenize(distinct[begin : begin + _TOKENIZE_AT_ONCE])
        ids.append(found.flat_values.numpy())
        counts.append(found.row_lengths().numpy())
    ids = np.concatenate([*ids, [tokenizer.unk_id]])
    counts = np.concatenate(counts)
    begins = np.cumsum(counts) - counts
    begins[counts == 0] = len(ids) - 1
    number = np.array([numbers[word] for word in words])
    word_counts = np.clip(counts, 1, room)[number]
    word_splits = np.concatenate([[0], np.cumsum(word_counts)])
    num_cut = int((counts > room)[number].sum())
    return ids[ranges(begins[number], word_counts)], word_splits, num_cut


def _windows(word_splits, begin, last, room):
    """The windows (begin, end, first) of the words from `begin` to `last`, as word numbers."""
    windows, first = [], begin
    while True:
        end = min(last, int(np.searchsorted(word_splits, word_splits[begin] + room, "right")) - 1)
        windows.append((begin, end, first))
        if end == last:
            return windows
        # The next window must have room for the word `end`: if that is long, nothing overlaps.
        least = max(word_splits[begin] + room // 2, word_splits[end + 1] - room)
        begin = min(end, int(np.searchsorted(word_splits, least)))
        middle = (word_splits[begin] + word_splits[end]) // 2
        first = int(np.searchsorted(word_splits, middle))
