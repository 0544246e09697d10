"""Records → batches of equal shape, in an order that depends only on the seed.

An epoch is a sequence of blocks. (seed, epoch) determines the order of the shards; a block is a few
consecutive shards that fit into memory; (seed, epoch, block) determines the order of its examples.
So a stream can begin anywhere without reading what comes before.
"""

import collections
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from common.errors import InputError
from data import tensorflow_setup
from data.records.metadata import RecordsMetadata, load_metadata
from data.records.shard_io import FEATURES, id_type

# At T = 512 a block is 64 MiB of compact records; two are in memory at a time.
BLOCK_EXAMPLES = 1 << 16


def training_batches(
    records: str | os.PathLike | RecordsMetadata,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    max_seq_length: int | None = None,
    rows: slice = slice(None),
    pad_id: int = 0,
) -> tf.data.Dataset:
    """Reads endless batches for training. Every epoch has each example once.

    A batch can hold the end of one epoch and the beginning of the next.

    Args:
        records: the directory of records, or its metadata.
        batch_size: B, the examples per batch.
        seed: determines the order; from 0 to 2³² − 1.
        first_step: number of batches to skip.
        max_seq_length: T, at least the length of the records, which is the default.
        rows: the part of each batch to return; the other examples are not parsed.
        pad_id: the id of [PAD].

    Returns:
        A dataset of `{"input_ids", "input_mask", "segment_ids"}`, int32 [B, T].

    Raises:
        InputError: as `load_metadata`, or the records are longer than `max_seq_length`.
    """
    metadata = records if isinstance(records, RecordsMetadata) else load_metadata(records)
    dataset = tensorflow_setup.generator_dataset(
        lambda: _blocks(metadata, seed, first_step * batch_size),
        (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)),
    )
    # The next block is read while this one is used.
    dataset = dataset.map(_read_block).prefetch(1).unbatch()
    return _batch(dataset, metadata, batch_size, max_seq_length, rows, pad_id)


def evaluation_batches(
    records: str | os.PathLike | RecordsMetadata,
    batch_size: int,
    num_batches: int,
    max_seq_length: int | None = None,
    rows: slice = slice(None),
    pad_id: int = 0,
) -> tf.data.Dataset:
    """Reads the same `num_batches` batches each time, taking examples from up to 64 shards in turn.

    If there are fewer examples than that, they are repeated. For the other arguments and the
    errors, see `training_batches`.
    """
    metadata = records if isinstance(records, RecordsMetadata) else load_metadata(records)
    paths = [metadata.path(shard) for shard in metadata.shards if shard.examples]
    dataset = tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset, cycle_length=min(len(paths), 64)
    )
    dataset = dataset.repeat().take(num_batches * batch_size)
    return _batch(dataset, metadata, batch_size, max_seq_length, rows, pad_id)


def batch_sources(
    metadata: RecordsMetadata, batch_size: int, seed: int, step: int
) -> dict[str, list[int]]:
    """Finds the records of batch number `step` of `training_batches`, in each shard, by path.

    It does not read the records. They are given by their indices in the shard, ascending.
    """
    counts = {metadata.path(shard): shard.examples for shard in metadata.shards}
    sources = collections.defaultdict(list)
    left = batch_size
    for paths, order in _blocks(metadata, seed, step * batch_size):
        ends = np.cumsum([counts[path] for path in paths])
        for index in order[:left]:
            shard = int(np.searchsorted(ends, index, side="right"))
            path = paths[shard]
            sources[path].append(int(index - ends[shard] + counts[path]))
        left -= min(left, len(order))
        if not left:
            break
    return {path: sorted(indices) for path, indices in sorted(sources.items())}


def _blocks(metadata, seed, position) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields the files of each block and the order of its examples, starting at an example."""
    epoch, skipped = divmod(position, metadata.num_examples)
    while True:
        # NumPy guarantees that the numbers of RandomState do not change between versions.
        order = np.random.RandomState((seed, epoch)).permutation(len(metadata.shards))
        paths, count, block = [], 0, 0
        for number, index in enumerate(order, start=1):
            shard = metadata.shards[index]
            paths.append(metadata.path(shard))
            count += shard.examples
            if number < len(order):
                following = metadata.shards[order[number]].examples
                if count + following <= BLOCK_EXAMPLES:
                    continue
            if skipped < count:
                permutation = np.random.RandomState((seed, epoch, block)).permutation(count)
                yield paths, permutation[skipped:]
            skipped = max(0, skipped - count)
            paths, count, block = [], 0, block + 1
        epoch += 1


def _read_block(paths, order):
    """Returns the serialized records of whole files in the given order."""
    records = tf.data.TFRecordDataset(paths, buffer_size=1 << 20).batch(1 << 30)
    return tf.gather(records.get_single_element(), order)


def check_length(metadata: RecordsMetadata, length: int) -> None:
    """Raises an `InputError` unless the examples of these records fit into rows of `length`."""
    if length < metadata.max_seq_length:
        raise InputError(
            f"`max_seq_length` is {length}, but the records in {metadata.records_dir} are up to "
            f"{metadata.max_seq_length} tokens long. Build them again with --max-seq-length "
            f"{length}, or set `max_seq_length` to {metadata.max_seq_length}."
        )


def _batch(dataset, metadata, batch_size, max_seq_length, rows, pad_id):
    length = metadata.max_seq_length if max_seq_length is None else max_seq_length
    check_length(metadata, length)
    parse = _parse_compact if metadata.record_format == "compact" else _parse_original

    def parse_rows(records):
        batch = parse(records[rows], metadata, length)  # padded with zeros
        if pad_id:
            is_token = batch["input_mask"] == 1
            batch["input_ids"] = tf.where(is_token, batch["input_ids"], pad_id)
        return batch

    dataset = dataset.batch(batch_size, drop_remainder=True)
    dataset = dataset.map(parse_rows, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _parse_compact(records, metadata, length):
    id_bytes = id_type(metadata.vocab_size).itemsize
    numbers = tf.io.decode_raw(
        records, tf.uint16 if id_bytes == 2 else tf.int32, fixed_length=(1 + length) * id_bytes
    )  # [B, 1 + T]; shorter examples are padded with zeros
    numbers = tf.cast(numbers, tf.int32)
    first_lengths, ids = numbers[:, :1], numbers[:, 1:]
    lengths = tf.strings.length(records)[:, None] // id_bytes - 1
    positions = tf.range(length)[None]
    is_token = positions < lengths  # [B, T]
    return {
        "input_ids": ids,
        "input_mask": tf.cast(is_token, tf.int32),
        "segment_ids": tf.cast(is_token & (positions >= first_lengths), tf.int32),
    }


def _parse_original(records, metadata, length):
    feature = tf.io.FixedLenFeature([metadata.max_seq_length], tf.int64)
    features = tf.io.parse_example(records, dict.fromkeys(FEATURES, feature))
    padding = [[0, 0], [0, length - metadata.max_seq_length]]
    return {name: tf.pad(tf.cast(features[name], tf.int32), padding) for name in FEATURES}
