"""Token features → batches, and a model's outputs in the features' order.

A batch is as long as its longest row, rounded up a little so that not every length occurs: that is
exact, since padding changes no result of a model that masks it.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from common.errors import InputError
from data import tensorflow_setup
from data.tasks.classification.task import TextExamples

# Of few lengths, each is a multiple of this.
LENGTH_MULTIPLE = 16
# Examples of so many batches are dealt out by length together.
POOL_BATCHES = 64
# The target of a token that has none.
IGNORED = -100
_TOKEN_INPUTS = ("input_ids", "input_mask", "segment_ids")
_TOKENIZE_AT_ONCE = 16384  # bounds the padded arrays in memory

Arrays = np.ndarray | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Features:
    """Tokenized rows without padding, one after the other.

    What is said of a token, by targets or outputs, is an array as long as `input_ids`; what is said
    of an example is an array of the number of examples, which is always less.

    Args:
        input_ids: int32 `[tokens]`, `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` of each row.
        segment_ids: int32 `[tokens]`, 1 for the second text and its `[SEP]`.
        row_splits: int64 `[rows + 1]`; row i is `input_ids[row_splits[i]:row_splits[i + 1]]`.
        targets: what the model's outputs are compared with: an array, or one by output's name,
            `[N, …]` or `[tokens, …]` (`IGNORED` for a token without one).
        max_seq_length: the longest a row may be.
        weights: by output's name, float32 `[N]`: what an example's loss counts; None is 1.
        inputs: further inputs of the model in training, by name: `[N, …]`.
        rows_per_example: rows that follow one another and are one example, as the choices of a
            question are; a batch is then `[B, rows, T]`.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    row_splits: np.ndarray
    targets: Arrays
    max_seq_length: int
    weights: dict[str, np.ndarray] | None = None
    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows_per_example: int = 1

    def __len__(self) -> int:
        return (len(self.row_splits) - 1) // self.rows_per_example

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example's longest row, int64 `[N]`."""
        return np.diff(self.row_splits).reshape(-1, self.rows_per_example).max(axis=1)

    def is_token_level(self, array: np.ndarray) -> bool:
        """Whether an array says something of each token, and not of each example."""
        return len(array) == len(self.input_ids)


def make_features(tokenizer: Any, examples: TextExamples, max_seq_length: int) -> Features:
    """Tokenizes a whole file; an example is cut to `max_seq_length` as the original cuts it."""
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


def count_cut(tokenizer: Any, examples: TextExamples, features: Features) -> int:
    """How many of the examples that `features` were made of had to be cut."""
    full = np.flatnonzero(features.lengths == features.max_seq_length)
    if not len(full):
        return 0
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
    bucket_lengths: bool = True,
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
        bucket_lengths: for a model that is compiled anew for every length; see `padded_length`.
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
    return _dataset(features, index_batches, num_batches, pad_to_max, bucket_lengths)


def _by_length(pool, lengths, batch_size, random):
    """Whole batches' indices, arranged so that a batch's examples are alike in length."""
    by_length = pool[np.argsort(lengths[pool], kind="stable")]
    return random.permutation(by_length.reshape(-1, batch_size)).reshape(-1)


class Batches(Sequence):
    """Batches of chosen examples, as NumPy arrays; each is made when it is asked for.

    Args:
        features: the examples.
        indices: of each batch's examples.
        pad_to_max, bucket_lengths: see `training_batches`.
    """

    def __init__(
        self, features: Features, indices: list[np.ndarray], pad_to_max: bool, bucket_lengths: bool
    ):
        self._features, self._indices = features, indices
        self._length = pad_to_max, bucket_lengths

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple:
        """`(inputs, targets)` or `(inputs, targets, weights)`."""
        return _batch(self._features, self._indices[index], *self._length)


def evaluation_batches(
    features: Features, batch_size: int, pad_to_max: bool = False, bucket_lengths: bool = True
) -> tuple[Batches, np.ndarray]:
    """Batches of all examples, each once, sorted by length to save padding.

    Args are those of `training_batches`.

    Returns:
        The batches, and the order of the examples in them: int64 `[N]` indices.
    """
    order = np.argsort(features.lengths, kind="stable")
    indices = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    return Batches(features, indices, pad_to_max, bucket_lengths), order


def padded_length(longest: int, bucket_lengths: bool) -> int:
    """What a batch is padded to.

    Args:
        longest: tokens of its longest example.
        bucket_lengths: round up to a multiple of `LENGTH_MULTIPLE`. False rounds up by at most an
            eighth: eight lengths from one to its double.
    """
    multiple = LENGTH_MULTIPLE if bucket_lengths else 1 << max(0, longest.bit_length() - 4)
    return math.ceil(longest / multiple) * multiple


def gather_outputs(
    features: Features,
    predict: Callable[[dict[str, np.ndarray]], Arrays],
    of_tokens: tuple[str, ...],
    batch_size: int,
    pad_to_max: bool = False,
    bucket_lengths: bool = True,
    num_threads: int = 1,
) -> Arrays:
    """The model's outputs for all examples, in their order.

    Args:
        features: the examples.
        predict: from a batch's inputs to its outputs, by name or a single array, "logits".
        of_tokens: names of the outputs `[B, T, …]`; the others are `[B, …]`.
        batch_size, pad_to_max, bucket_lengths: see `training_batches`.
        num_threads: batches that are computed at the same time.

    Returns:
        For each output `[N, …]`, or, where it is of tokens, `[tokens, …]` as `input_ids` has them.
    """
    tensorflow_setup.keep_freed_memory()
    batches, order = evaluation_batches(features, batch_size, pad_to_max, bucket_lengths)
    gathered, begin = {}, 0
    all_inputs = (inputs for inputs, *_ in batches)
    for inputs, outputs in _in_threads(predict, all_inputs, num_threads):
        indices = order[begin : begin + batch_size]
        begin += batch_size
        places = {True: _tokens_of(features, indices), False: indices}
        is_token = inputs["input_mask"].astype(bool)
        for name, array in (outputs if isinstance(outputs, dict) else {"logits": outputs}).items():
            is_token_level = name in of_tokens
            values = array[is_token] if is_token_level else array
            if name not in gathered:
                count = len(features.input_ids) if is_token_level else len(features)
                gathered[name] = np.empty((count, *values.shape[1:]), values.dtype)
            gathered[name][places[is_token_level]] = values
    return gathered if isinstance(outputs, dict) else gathered["logits"]


def _in_threads(function, arguments, num_threads):
    """(argument, result) of each, in order, computed a few at a time."""
    arguments = iter(arguments)
    for first in arguments:  # alone: a model is traced only once
        yield first, function(first)
        break
    pending = collections.deque()
    with futures.ThreadPoolExecutor(num_threads) as pool:
        for argument in arguments:
            pending.append((argument, pool.submit(function, argument)))
            if len(pending) > num_threads:
                argument_done, result = pending.popleft()
                yield argument_done, result.result()
        for argument_done, result in pending:
            yield argument_done, result.result()


def join_features(features: dict[str, Features]) -> Features:
    """The examples of several tasks as one set, to train one model with a head for each.

    Args:
        features: by task's name.

    Returns:
        Targets and weights by output of the joint model: a task's name or, where it has several
        outputs, "task.output". An example counts for its own task's outputs, and for no others.

    Raises:
        InputError: one task's examples have several rows, as those of multiple choice.
    """
    for name, part in features.items():
        if part.rows_per_example > 1:
            raise InputError(f"task {name} has several rows an example: it is learned only alone")
    parts = list(features.values())
    ends = np.cumsum([len(part.input_ids) for part in parts])
    starts = [
        part.row_splits[:-1] + end - len(part.input_ids)
        for part, end in zip(parts, ends, strict=True)
    ]
    counts = [(len(part), len(part.input_ids)) for part in parts]

    def spread(place, array, missing):
        """`array`, of the examples or tokens of one task, among those of all."""
        of_tokens = parts[place].is_token_level(array)
        columns = [np.full((count[of_tokens], *array.shape[1:]), missing, array.dtype)
                   for count in counts]  # fmt: skip
        columns[place] = array
        return np.concatenate(columns)

    targets, weights, inputs = {}, {}, {}
    for place, (name, part) in enumerate(features.items()):
        is_named = isinstance(part.targets, dict)
        for output, array in (part.targets if is_named else {"": part.targets}).items():
            known = f"{name}.{output}" if is_named else name
            targets[known] = spread(place, array, IGNORED if part.is_token_level(array) else 0)
            weights[known] = spread(place, np.ones(len(part), np.float32), 0)
        for input_name, array in part.inputs.items():
            column = spread(place, array, 0)
            inputs[input_name] = inputs[input_name] + column if input_name in inputs else column
    return Features(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([part.segment_ids for part in parts]),
        np.concatenate([*starts, ends[-1:]]),
        targets,
        max(part.max_seq_length for part in parts),
        weights,
        inputs,
    )


def _tokens_of(features, indices):
    """Where in `features.input_ids` the tokens of examples are, int64 `[tokens]`."""
    rows = indices[:, None] * features.rows_per_example + np.arange(features.rows_per_example)
    starts = features.row_splits[rows.reshape(-1)]
    counts = features.row_splits[rows.reshape(-1) + 1] - starts
    return ranges(starts, counts)


def ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`begins[0]`, `begins[0] + 1`, … of `counts[0]` numbers, then those of the next."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(begins - ends + counts, counts)


def _dataset(features, index_batches, num_batches, pad_to_max, bucket_lengths):
    """A dataset of `(inputs, targets)` or `(inputs, targets, weights)` from batches of indices."""
    rank = 3 if features.rows_per_example > 1 else 2

    def spec(array):
        shape = [None, None] if features.is_token_level(array) else [None]
        return tf.TensorSpec([*shape, *array.shape[1:]], tf.as_dtype(array.dtype))

    tokens = {name: tf.TensorSpec([None] * rank, tf.int32) for name in _TOKEN_INPUTS}
    further = {name: spec(array) for name, array in features.inputs.items()}
    signature = [tokens | further, tf.nest.map_structure(spec, features.targets)]
    if features.weights is not None:
        signature.append(tf.nest.map_structure(spec, features.weights))
    dataset = tensorflow_setup.generator_dataset(
        lambda: (
            _batch(features, indices, pad_to_max, bucket_lengths) for indices in index_batches()
        ),
        tuple(signature),
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.prefetch(2)


def _batch(features, indices, pad_to_max, bucket_lengths):
    """The examples `indices`, padded, as `_dataset` and `Batches` have them."""
    rows_per_example, length = features.rows_per_example, features.max_seq_length
    rows = (indices[:, None] * rows_per_example + np.arange(rows_per_example)).reshape(-1)
    lengths = features.row_splits[rows + 1] - features.row_splits[rows]
    if not pad_to_max:
        length = min(length, padded_length(int(lengths.max()), bucket_lengths))
    is_token = np.arange(length) < lengths[:, None]
    tokens = _tokens_of(features, indices)
    shape = (len(indices), rows_per_example, length) if rows_per_example > 1 else is_token.shape

    def padded(values, padding=0):
        array = np.full((*is_token.shape, *values.shape[1:]), padding, values.dtype)
        array[is_token] = values[tokens]
        return array

    def chosen(array):
        return padded(array, IGNORED) if features.is_token_level(array) else array[indices]

    inputs = {
        "input_ids": padded(features.input_ids).reshape(shape),
        "input_mask": is_token.astype(np.int32).reshape(shape),
        "segment_ids": padded(features.segment_ids).reshape(shape),
    }
    inputs |= {name: array[indices] for name, array in features.inputs.items()}
    batch = (inputs, tf.nest.map_structure(chosen, features.targets))
    if features.weights is None:
        return batch
    return (*batch, {name: array[indices] for name, array in features.weights.items()})
