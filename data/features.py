"""Examples → token features → `tf.data` batches, for tasks on one text or a pair.

A batch is as long as its longest example, rounded up a little so that not every length occurs: that
is exact, since padding changes no result of a model that masks it.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from data.tasks import Examples

# Of few lengths, each is a multiple of this.
LENGTH_MULTIPLE = 16
# Examples of so many batches are dealt out by length together.
POOL_BATCHES = 64
_TOKENIZE_AT_ONCE = 16384  # bounds the padded arrays in memory


@dataclasses.dataclass(frozen=True)
class Features:
    """Tokenised examples without padding, one after the other.

    Args:
        input_ids: int32 `[tokens]`, `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` of each example.
        segment_ids: int32 `[tokens]`, 1 for the second text and its `[SEP]`.
        starts: int64 `[N + 1]`; example i is `input_ids[starts[i]:starts[i + 1]]`.
        targets: `[N]`, `[N, labels]` or `[N, 1]`; see `Examples.targets`.
        max_seq_length: the longest an example may be.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    max_seq_length: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 `[N]`."""
        return np.diff(self.starts)


def make_features(tokenizer: Any, examples: Examples, max_seq_length: int) -> Features:
    """Tokenises a whole file; an example is cut to `max_seq_length` as the original cuts it."""
    ids, segments, lengths = [], [], []
    for begin in range(0, len(examples), _TOKENIZE_AT_ONCE):
        chunk = slice(begin, begin + _TOKENIZE_AT_ONCE)
        pairs = None if examples.text_pairs is None else examples.text_pairs[chunk]
        encoded = tokenizer(examples.texts[chunk], pairs, max_length=max_seq_length)
        is_token = encoded["input_mask"].astype(bool)
        ids.append(encoded["input_ids"][is_token])
        segments.append(encoded["segment_ids"][is_token])
        lengths.append(is_token.sum(axis=1))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    ids, segments = np.concatenate(ids), np.concatenate(segments)
    return Features(ids, segments, starts, examples.targets, max_seq_length)


def count_cut(tokenizer: Any, examples: Examples, features: Features) -> int:
    """How many of the examples that `features` were made of had to be cut."""
    full = np.flatnonzero(features.lengths == features.max_seq_length)
    texts, pairs = examples.texts, examples.text_pairs
    lengths = 2 + tokenizer.tokenize([texts[i] for i in full]).row_lengths().numpy()
    if pairs is not None:
        lengths += 1 + tokenizer.tokenize([pairs[i] for i in full]).row_lengths().numpy()
    return int((lengths > features.max_seq_length).sum())


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one pass over the training set: every index once, from (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def num_training_examples(num_examples: int, num_epochs: float) -> int:
    """Examples seen in `num_epochs` passes, of which the last may be a fraction."""
    return max(1, round(num_examples * num_epochs))


def training_batches(
    features: Features,
    batch_size: int,
    num_epochs: float,
    seed: int,
    pad_to_max: bool = False,
    few_lengths: bool = True,
) -> tf.data.Dataset:
    """Shuffled batches `(inputs, targets)` of all epochs, of examples of about the same length.

    An epoch's random order is cut into pools of `POOL_BATCHES` batches; each pool is dealt out by
    length, and its batches follow in random order. The epochs follow one another without a gap, so
    that only the very last batch can be smaller. (The original drops the end of the file and draws
    from a window of 100 examples.)

    Args:
        features: the training set.
        batch_size: examples in a batch.
        num_epochs: passes over the training set; a fraction is of the last one's order.
        seed: of the order.
        pad_to_max: make every batch `features.max_seq_length` long, and keep the order as drawn.
        few_lengths: for a model that is compiled anew for every length; see `padded_length`.
    """
    total = num_training_examples(len(features), num_epochs)

    def index_batches() -> Iterator[np.ndarray]:
        pending = np.empty(0, np.int64)
        for epoch in range(math.ceil(total / len(features))):
            order = epoch_order(len(features), seed, epoch)[: total - epoch * len(features)]
            if len(pending):  # a batch that two epochs, or more, share
                missing = batch_size - len(pending)
                pending, order = np.concatenate([pending, order[:missing]]), order[missing:]
                if len(pending) < batch_size:
                    continue
                yield pending
            end = len(order) - len(order) % batch_size
            pool_size = end if pad_to_max else POOL_BATCHES * batch_size
            random = np.random.default_rng([seed, epoch, 1])
            for begin in range(0, end, pool_size or 1):
                pool = order[begin : min(begin + pool_size, end)]
                if not pad_to_max:
                    pool = _by_length(pool, features.lengths, batch_size, random)
                yield from np.split(pool, len(pool) // batch_size)
            pending = order[end:]
        if len(pending):
            yield pending

    num_batches = math.ceil(total / batch_size)
    return _dataset(features, index_batches, num_batches, pad_to_max, few_lengths)


def _by_length(pool, lengths, batch_size, random):
    """Whole batches' indices, arranged so that a batch's examples are alike in length."""
    by_length = pool[np.argsort(lengths[pool], kind="stable")]
    return random.permutation(by_length.reshape(-1, batch_size)).reshape(-1)


def evaluation_batches(
    features: Features, batch_size: int, pad_to_max: bool = False, few_lengths: bool = True
) -> tuple[tf.data.Dataset, np.ndarray]:
    """Batches of all examples, each once, sorted by length to save padding.

    Args are those of `training_batches`.

    Returns:
        The batches, and the order of the examples in them: int64 `[N]` indices.
    """
    order = np.argsort(features.lengths, kind="stable")
    splits = range(0, len(order), batch_size)

    def index_batches() -> Iterator[np.ndarray]:
        return (order[begin : begin + batch_size] for begin in splits)

    return _dataset(features, index_batches, len(splits), pad_to_max, few_lengths), order


def padded_length(longest: int, few_lengths: bool) -> int:
    """What a batch is padded to.

    Args:
        longest: tokens of its longest example.
        few_lengths: round up to a multiple of `LENGTH_MULTIPLE`; else by an eighth at most, so that
            there are eight lengths from one to its double.
    """
    multiple = LENGTH_MULTIPLE if few_lengths else 1 << max(0, longest.bit_length() - 4)
    return math.ceil(longest / multiple) * multiple


def _dataset(features, index_batches, num_batches, pad_to_max, few_lengths):
    """A dataset of `(inputs, targets)` from an iterator over batches of indices."""
    token_spec = tf.TensorSpec([None, None], tf.int32)
    target_shape = [None, *features.targets.shape[1:]]
    signature = (
        {name: token_spec for name in ("input_ids", "input_mask", "segment_ids")},
        tf.TensorSpec(target_shape, tf.as_dtype(features.targets.dtype)),
    )

    def length_of(indices):
        if pad_to_max:
            return features.max_seq_length
        longest = int(features.lengths[indices].max())
        return min(features.max_seq_length, padded_length(longest, few_lengths))

    dataset = tf.data.Dataset.from_generator(
        lambda: (_pad(features, indices, length_of(indices)) for indices in index_batches()),
        output_signature=signature,
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.prefetch(2)


def _pad(features, indices, length):
    """The examples `indices` as int32 arrays `[B, T]` padded to `length`, and their targets."""
    shape = (len(indices), length)
    names = ("input_ids", "input_mask", "segment_ids")
    batch = {name: np.zeros(shape, np.int32) for name in names}
    for row, index in enumerate(indices):
        tokens = slice(features.starts[index], features.starts[index + 1])
        count = tokens.stop - tokens.start
        batch["input_ids"][row, :count] = features.input_ids[tokens]
        batch["segment_ids"][row, :count] = features.segment_ids[tokens]
        batch["input_mask"][row, :count] = 1
    return batch, features.targets[indices]
