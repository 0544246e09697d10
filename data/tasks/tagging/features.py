"""Words → rows of tokens in which each word is said something of exactly once.

The tag of a word is that of its first token. A sentence that is too long for one row is read in
windows that overlap by about a half, so that every word has text on both sides of it, and the
overlap of two windows is shared out at its middle. (The original leaves out the words at the end.)
"""

import dataclasses
from typing import Any

import numpy as np

from data.tasks.batching import IGNORED, Features, ranges

_TOKENIZE_AT_ONCE = 65536  # words; bounds the ragged arrays in memory


@dataclasses.dataclass(frozen=True)
class TaggingFeatures(Features):
    """`Features` of which a row is a sentence, or a window of one, between `[CLS]` and `[SEP]`.

    Args:
        word_positions: int64 `[words]`, where in `input_ids` the token is that speaks for a word.
        num_windowed: sentences that are read in windows.
        num_cut: words that have more tokens than a row, and lost some.
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

    Args:
        tokenizer: a `ConvBertTokenizer`. A word it makes nothing of, such as a control character,
            becomes `[UNK]`.
        words: of all sentences.
        row_splits: int64 `[sentences + 1]`; sentence i is `words[row_splits[i]:row_splits[i + 1]]`.
        targets: int32 `[words]` label ids, or `IGNORED`.
        max_seq_length: the longest a row may be.
    """
    room = max_seq_length - 2
    pieces, piece_starts, num_cut = _tokenize(tokenizer, words, room)
    sentence_lengths = piece_starts[row_splits[1:]] - piece_starts[row_splits[:-1]]
    windows, num_windowed = [], 0
    for begin, end, length in zip(row_splits[:-1], row_splits[1:], sentence_lengths, strict=True):
        if length <= room:
            windows.append((begin, end, begin))
        else:
            windows += _windows(piece_starts, int(begin), int(end), room)
            num_windowed += 1
    # A window is the words from `begin` to `end`; those from `first` to the next window's are its
    # own. In very short rows of long words one may have none.
    windows = np.array(windows, np.int64)
    own = np.diff(windows[:, 2], append=len(words))
    begin, end, _ = windows[own > 0].T
    row_lengths = piece_starts[end] - piece_starts[begin] + 2
    row_starts = np.concatenate([[0], np.cumsum(row_lengths)])
    ids = np.full(row_starts[-1], tokenizer.cls_id, np.int32)
    ids[row_starts[1:] - 1] = tokenizer.sep_id
    is_piece = np.ones(len(ids), bool)
    is_piece[row_starts[:-1]] = is_piece[row_starts[1:] - 1] = False
    ids[is_piece] = pieces[ranges(piece_starts[begin], row_lengths - 2)]
    row_of_word = np.repeat(np.arange(len(begin)), own[own > 0])
    in_row = piece_starts[:-1] - piece_starts[begin[row_of_word]]
    positions = row_starts[row_of_word] + 1 + in_row
    token_targets = np.full(len(ids), IGNORED, np.int32)
    token_targets[positions] = targets
    return TaggingFeatures(
        ids,
        np.zeros_like(ids),
        row_starts,
        token_targets,
        max_seq_length,
        word_positions=positions,
        num_windowed=num_windowed,
        num_cut=num_cut,
    )


def _tokenize(tokenizer, words, room):
    """All words' tokens, one after the other, where each word's start, and how many were cut."""
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
    piece_starts = np.concatenate([[0], np.cumsum(word_counts)])
    return (
        ids[ranges(begins[number], word_counts)],
        piece_starts,
        int((counts > room)[number].sum()),
    )


def _windows(piece_starts, begin, last, room):
    """The windows (begin, end, first) of the words from `begin` to `last`, as word numbers."""
    windows, first = [], begin
    while True:
        end = min(last, int(np.searchsorted(piece_starts, piece_starts[begin] + room, "right")) - 1)
        windows.append((begin, end, first))
        if end == last:
            return windows
        # The next one must have room for the word `end`, however long: then nothing may overlap.
        least = max(piece_starts[begin] + room // 2, piece_starts[end + 1] - room)
        begin = min(end, int(np.searchsorted(piece_starts, least)))
        middle = (piece_starts[begin] + piece_starts[end]) // 2
        first = int(np.searchsorted(piece_starts, middle))
