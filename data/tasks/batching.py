"""Examples → token features → batches, and a model's outputs in the order of the examples.

A batch is padded to its longest row, rounded up. Where a model is compiled for every shape,
`few_shapes` rounds up further, and fills the last batch with rows that do not count. That is exact,
since padding does not change the results of a model that masks it. In shapes, N is the number of
examples, B the batch size, and T the number of tokens of a row.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from common.errors import InputError
from data import tensorflow_setup
from data.tasks.examples import IGNORED, TextExamples

# With `few_shapes`, the length of a batch is the most that rows may have, or a half or a quarter of
# it, rounded up to a multiple of this.
LENGTH_MULTIPLE = 16
# Training examples are sorted by length within pools of this many batches.
POOL_BATCHES = 64
_TOKENIZE_AT_ONCE = 16384  # texts; bounds the memory of padded arrays

Arrays = np.ndarray | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Features:
    """Tokenized rows without padding, concatenated.

    Targets, weights and outputs are arrays per token, as long as `input_ids`, or per example. There
    are always fewer examples than tokens.

    Args:
        input_ids: int32 `[tokens]`, `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]` of each row.
        segment_ids: int32 `[tokens]`, 1 for the second text and its `[SEP]`.
        row_splits: int64 `[rows + 1]`; row i is `input_ids[row_splits[i]:row_splits[i + 1]]`.
        targets: for the model's output, or a dict for several outputs: `[N, …]` or `[tokens, …]`,
            where `IGNORED` marks a token without a target.
        max_seq_length: the most tokens of a row.
        weights: by output, float32 `[N]` weights of the examples' losses; None is 1.
        inputs: further inputs of the model in training, by name: `[N, …]`.
        rows_per_example: how many consecutive rows are one example, such as the choices of a
            question. If more than one, inputs are `[B, rows, T]`.
        pad_id: the id of [PAD].
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    row_splits: np.ndarray
    targets: Arrays
    max_seq_length: int
    weights: dict[str, np.ndarray] | None = None
    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows_per_example: int = 1
    pad_id: int = 0

    def __len__(self) -> int:
        return (len(self.row_splits) - 1) // self.rows_per_example

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example's longest row, int64 `[N]`."""
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, examples: np.ndarray) -> np.ndarray:
        """Tokens of the longest row of each of these examples, int64 `[len(examples)]`."""
        rows = self.rows_of(examples)
        lengths = self.row_splits[rows + 1] - self.row_splits[rows]
        return lengths.reshape(-1, self.rows_per_example).max(axis=1)

    def is_token_level(self, array: np.ndarray) -> bool:
        """Whether an array has one entry per token, not per example."""
        return len(array) == len(self.input_ids)

    def rows_of(self, examples: np.ndarray) -> np.ndarray:
        """The row numbers of examples, int64 `[rows]`."""
        rows = examples[:, None] * self.rows_per_example + np.arange(self.rows_per_example)
        return rows.reshape(-1)

    def tokens_of(self, examples: np.ndarray) -> np.ndarray:
        """The positions in `input_ids` of the tokens of examples, int64 `[tokens]`."""
        rows = self.rows_of(examples)
        begins = self.row_splits[rows]
        return ranges(begins, self.row_splits[rows + 1] - begins)


def ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenates the ranges `begins[i], …, begins[i] + counts[i] - 1`."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(begins - ends + counts, counts)


def make_features(tokenizer: Any, examples: TextExamples, max_seq_length: int) -> Features:
    """Tokenizes texts, and cuts them to `max_seq_length` tokens as the original does."""
    ids, segments, lengths = [], [], []
    for begin in range(0, len(examples), _TOKENIZE_AT_ONCE):
        chunk = slice(begin, begin + _TOKENIZE_AT_ONCE)
        pairs = None if examples.text_pairs is None else examples.text_pairs[chunk]
        encoded = tokenizer(examples.texts[chunk], pairs, max_length=max_seq_length)
        is_token = encoded["input_mask"].astype(bool)
        ids.append(encoded["input_ids"][is_token])
        segments.append(encoded["segment_ids"][is_token])
        lengths.append(is_token.sum(axis=1))
    row_splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    tokens = (np.concatenate(ids), np.concatenate(segments), row_splits)
    return Features(*tokens, examples.targets, max_seq_length, pad_id=tokenizer.pad_id)


def count_cut(tokenizer: Any, examples: TextExamples, features: Features) -> int:
    """How many examples were cut when `features` were made from them."""
    full = np.flatnonzero(features.lengths == features.max_seq_length)
    if not len(full):
        return 0
    texts, pairs = examples.texts, examples.text_pairs
    lengths = 2 + tokenizer.tokenize([texts[i] for i in full]).row_lengths().numpy()
    if pairs is not None:
        lengths += 1 + tokenizer.tokenize([pairs[i] for i in full]).row_lengths().numpy()
    return int((lengths > features.max_seq_length).sum())


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one pass over the training set, a function of seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def training_batches(
    features: Features,
    batch_size: int,
    num_epochs: float,
    seed: int,
    pad_to_max: bool = False,
    few_shapes: bool = False,
) -> "Batches":
    """Shuffled batches `(inputs, targets)` of all epochs, of examples of similar lengths.

    Each epoch's random order is cut into pools of `POOL_BATCHES` batches. Each pool is sorted by
    length, and its batches are shuffled. Batches may span epochs, so only the last can be smaller.
    (The original drops the end of each epoch, and shuffles within a window of 100 examples.)

    Args:
        features: the training set.
        batch_size: examples of a batch.
        num_epochs: passes over the training set; the last may be a fraction.
        seed: of the order.
        pad_to_max: pad every batch to `features.max_seq_length`, and do not sort.
        few_shapes: all batches have `batch_size` rows, and few lengths; see `Batches`.
    """
    count = len(features)
    total = max(1, round(count * num_epochs))
    epochs = range(math.ceil(total / count))
    order = np.concatenate([epoch_order(count, seed, epoch) for epoch in epochs])[:total]
    for epoch in () if pad_to_max else epochs:
        random = np.random.default_rng([seed, epoch, 1])
        # The batches that lie within the epoch.
        begin = math.ceil(epoch * count / batch_size) * batch_size
        end = min((epoch + 1) * count, total) // batch_size * batch_size
        for first in range(begin, end, POOL_BATCHES * batch_size):
            pool = order[first : min(first + POOL_BATCHES * batch_size, end)]
            by_length = pool[np.argsort(features.lengths_of(pool), kind="stable")]
            pool[:] = random.permutation(by_length.reshape(-1, batch_size)).reshape(-1)
    indices = np.split(order, range(batch_size, total, batch_size))
    return Batches(features, indices, pad_to_max, batch_size if few_shapes else None)


@dataclasses.dataclass(frozen=True)
class Batches(Sequence):
    """Batches `(inputs, targets)` or `(inputs, targets, weights)` of NumPy arrays, made on demand.

    `indices` are the examples of each batch; for `pad_to_max`, see `training_batches`. If
    `num_rows` is given, each batch is filled up to that many examples, by repeating its last one
    with weight 0, and is padded to one of three lengths.
    """

    features: Features
    indices: list[np.ndarray]
    pad_to_max: bool = False
    num_rows: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple:
        features, examples, shape = self.features, self.indices[index], self.shape(index)
        is_real = np.arange(shape[0]) < len(examples)
        examples = np.pad(examples, (0, shape[0] - len(examples)), "edge")
        rows = features.rows_of(examples)
        lengths = features.row_splits[rows + 1] - features.row_splits[rows]
        is_token = np.arange(shape[-1]) < lengths[:, None]
        tokens = features.tokens_of(examples)

        def padded(values, padding=0):
            array = np.full((*is_token.shape, *values.shape[1:]), padding, values.dtype)
            array[is_token] = values[tokens]
            return array

        def chosen(array):
            return padded(array, IGNORED) if features.is_token_level(array) else array[examples]

        inputs = {
            "input_ids": padded(features.input_ids, features.pad_id).reshape(shape),
            "input_mask": is_token.astype(np.int32).reshape(shape),
            "segment_ids": padded(features.segment_ids).reshape(shape),
        }
        inputs |= {name: array[examples] for name, array in features.inputs.items()}
        batch = (inputs, tf.nest.map_structure(chosen, features.targets))
        if not self.has_weights:
            return batch
        weights = tf.nest.map_structure(lambda _: is_real.astype(np.float32), features.targets)
        for name, array in (features.weights or {}).items():
            weights[name] *= array[examples]
        return (*batch, weights)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights, one for each example and output."""
        return self.features.weights is not None or self.num_rows is not None

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a batch's `input_ids`."""
        features, examples = self.features, self.indices[index]
        length = features.max_seq_length
        if not self.pad_to_max:
            longest = int(features.lengths_of(examples).max())
            length = padded_length(longest, length, few=self.num_rows is not None)
        rows = features.rows_per_example
        return (self.num_rows or len(examples), *([rows] if rows > 1 else []), length)

    def dataset(self) -> tf.data.Dataset:
        """The batches as TensorFlow's `fit` takes them, made while it computes."""
        features = self.features

        def spec(array):
            shape = [None, None] if features.is_token_level(array) else [None]
            return tf.TensorSpec([*shape, *array.shape[1:]], tf.as_dtype(array.dtype))

        tokens = tf.TensorSpec([None] * (3 if features.rows_per_example > 1 else 2), tf.int32)
        inputs = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), tokens)
        inputs |= {name: spec(array) for name, array in features.inputs.items()}
        signature = [inputs, tf.nest.map_structure(spec, features.targets)]
        if self.has_weights:
            weight = tf.TensorSpec([None], tf.float32)
            signature.append(tf.nest.map_structure(lambda _: weight, features.targets))
        dataset = tensorflow_setup.generator_dataset(lambda: iter(self), tuple(signature))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        return dataset.prefetch(2)


def evaluation_batches(
    features: Features, batch_size: int, pad_to_max: bool = False, few_shapes: bool = False
) -> tuple[Batches, np.ndarray]:
    """Batches of all examples, sorted by length to save padding; and int64 `[N]`, their order.

    See `training_batches` for the arguments.
    """
    order = np.argsort(features.lengths, kind="stable")
    indices = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    return Batches(features, indices, pad_to_max, batch_size if few_shapes else None), order


def padded_length(longest: int, most: int, few: bool) -> int:
    """The length of a batch whose longest row has `longest` tokens, of at most `most`.

    It is rounded up by at most an eighth, to one of eight lengths between a power of two and the
    next; with `few`, to a quarter of `most`, a half, or all.
    """
    multiple = 1 << max(0, longest.bit_length() - 4)
    if few:
        parts = [LENGTH_MULTIPLE * math.ceil(most / part / LENGTH_MULTIPLE) for part in (4, 2)]
        multiple = next((length for length in parts if length >= longest), most)
    return min(most, math.ceil(longest / multiple) * multiple)


def gather_outputs(
    features: Features,
    predict: Callable[[dict[str, np.ndarray]], Arrays],
    token_outputs: tuple[str, ...],
    batch_size: int,
    pad_to_max: bool = False,
    few_shapes: bool = False,
    num_threads: int = 1,
) -> Arrays:
    """The model's outputs for all examples, in order.

    Args:
        features: the examples.
        predict: returns the outputs for a batch's inputs: a dict, or an array (the "logits").
        token_outputs: names of the outputs that are `[B, T, …]`; the others are `[B, …]`. They are
            returned as `[tokens, …]`, in the order of `input_ids`, and the others as `[N, …]`.
        batch_size, pad_to_max, few_shapes: see `training_batches`.
        num_threads: batches to compute at the same time.
    """
    tensorflow_setup.keep_freed_memory()
    batches, _ = evaluation_batches(features, batch_size, pad_to_max, few_shapes)
    gathered = {}
    results = _in_threads(predict, (inputs for inputs, *_ in batches), num_threads)
    for examples, (inputs, outputs) in zip(batches.indices, results, strict=True):
        count, tokens = len(examples), features.tokens_of(examples)
        is_token = inputs["input_mask"][:count].astype(bool)
        for name, array in (outputs if isinstance(outputs, dict) else {"logits": outputs}).items():
            is_token_level = name in token_outputs
            values = array[:count][is_token] if is_token_level else array[:count]
            if name not in gathered:
                total = len(features.input_ids) if is_token_level else len(features)
                gathered[name] = np.empty((total, *values.shape[1:]), values.dtype)
            gathered[name][tokens if is_token_level else examples] = values
    return gathered if isinstance(outputs, dict) else gathered["logits"]


def _in_threads(function, arguments, num_threads):
    """(argument, result) for each argument, in order; bounds how many are computed ahead."""
    arguments = iter(arguments)
    for first in itertools.islice(arguments, 1):  # alone, so that a model is traced only once
        yield first, function(first)
    pending = collections.deque()
    with futures.ThreadPoolExecutor(num_threads) as pool:
        for argument in arguments:
            pending.append((argument, pool.submit(function, argument)))
            if len(pending) > num_threads:
                done, result = pending.popleft()
                yield done, result.result()
        for done, result in pending:
            yield done, result.result()


def join_features(features: dict[str, Features]) -> Features:
    """The examples of several tasks, by name, as one set: to train a model with a head for each.

    Targets and weights are by output of the joint model: "task", or "task.output" for a task with
    several outputs. An example has weight 1 for its own task's outputs, and 0 for all others.
    A task with several rows per example, such as multiple choice, is an `InputError`.
    """
    for name, part in features.items():
        if part.rows_per_example > 1:
            raise InputError(f"task {name} has several rows per example: train it alone")
    parts = list(features.values())
    counts = [(len(part), len(part.input_ids)) for part in parts]

    def spread(position, array, missing):
        """An array of one task, among `missing` for the examples or tokens of the others."""
        is_token_level = parts[position].is_token_level(array)
        arrays = [
            np.full((count[is_token_level], *array.shape[1:]), missing, array.dtype)
            for count in counts
        ]
        arrays[position] = array
        return np.concatenate(arrays)

    targets, weights, inputs = {}, {}, {}
    for position, (name, part) in enumerate(features.items()):
        is_dict = isinstance(part.targets, dict)
        for output, array in (part.targets if is_dict else {"": part.targets}).items():
            key = f"{name}.{output}" if is_dict else name
            targets[key] = spread(position, array, IGNORED if part.is_token_level(array) else 0)
            weights[key] = spread(position, np.ones(len(part), np.float32), 0)
        for key, array in part.inputs.items():
            inputs[key] = inputs.get(key, 0) + spread(position, array, 0)
    lengths = np.concatenate([np.diff(part.row_splits) for part in parts])
    return Features(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([part.segment_ids for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        targets,
        max(part.max_seq_length for part in parts),
        weights,
        inputs,
        pad_id=parts[0].pad_id,
    )
