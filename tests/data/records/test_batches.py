"""The order of training batches, from any position; and the content of a batch."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from data.records import batches
from data.records.batches import batch_sources, evaluation_batches, training_batches
from data.records.metadata import RecordsMetadata, Shard
from data.records.shard_io import open_shard
from tests.support.corpora import write_records

COUNTS = [7, 4, 0, 9, 1, 6]  # 27 examples
ORDER = [
    [13, 17, 11, 15, 12, 19, 14, 16, 18],
    [21, 25, 22, 23, 20, 26, 24, 0, 6],
    [2, 3, 5, 4, 1, 9, 7, 8, 10],
]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_EXAMPLES", 10)


def numbers(dataset, count=-1):
    """The numbers of the examples, batch by batch."""
    return [batch["input_ids"][:, 1].numpy().tolist() for batch in dataset.take(count)]


def stream(records, batch_size, seed, count):
    """The numbers of the examples of the first `count` training batches."""
    return list(itertools.chain(*numbers(training_batches(records, batch_size, seed), count)))


def test_each_epoch_has_each_example_once_and_loses_none_between(tmp_path, small_blocks):
    metadata = write_records(tmp_path / "r", COUNTS)
    whole = stream(tmp_path / "r", 4, 3, count=27)  # 4 epochs
    epochs = [whole[i : i + 27] for i in range(0, 108, 27)]
    assert all(sorted(epoch) == list(range(27)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert whole == stream(metadata, 4, 3, count=27)
    assert whole != stream(metadata, 4, 4, count=27)
    assert whole == stream(metadata, 1, 3, count=108)


def test_the_order_is_this_one(tmp_path, small_blocks):
    """With another order, a resumed run would repeat and skip text."""
    write_records(tmp_path / "r", COUNTS)
    assert numbers(training_batches(tmp_path / "r", 9, seed=0), 3) == ORDER


@pytest.mark.parametrize("block", [1, 10, 1000])
def test_a_stream_can_begin_anywhere(tmp_path, monkeypatch, block):
    monkeypatch.setattr(batches, "BLOCK_EXAMPLES", block)
    metadata = write_records(tmp_path / "r", COUNTS)
    whole = numbers(training_batches(metadata, 5, seed=1), 18)
    for first_step in (1, 2, 5, 6, 11, 16):
        tail = training_batches(metadata, 5, seed=1, first_step=first_step)
        assert numbers(tail, 18 - first_step) == whole[first_step:]


def test_skipped_batches_are_not_read(tmp_path, small_blocks):
    metadata = write_records(tmp_path / "r", COUNTS)
    for path in batch_sources(metadata, 9, 0, step=0):  # a whole block
        tf.io.gfile.remove(path)
    assert numbers(training_batches(metadata, 9, seed=0, first_step=1), 2) == ORDER[1:]


def test_where_a_batch_comes_from(tmp_path, small_blocks):
    metadata = write_records(tmp_path / "r", COUNTS)
    starts = dict(zip(map(metadata.path, metadata.shards), np.cumsum([0, *COUNTS]), strict=False))
    for step, batch in enumerate(numbers(training_batches(metadata, 5, seed=1), 14)):
        sources = batch_sources(metadata, 5, 1, step)
        found = [starts[path] + index for path in sources for index in sources[path]]
        assert sorted(found) == sorted(batch), step


def test_a_million_steps_are_skipped(tmp_path):
    """10,000 shards, which are one file: 5 million examples, 128 million to skip.

    A second or two. To read what is skipped would take an hour.
    """
    folder = tmp_path / "r"
    first = write_records(folder, [500]).shards[0]
    names = [f"s{index:05d}" for index in range(10_000)]
    for name in names:
        (folder / name).symlink_to(folder / first.name)
    shards = tuple(Shard(name, first.bytes, 500) for name in names)
    RecordsMetadata(folder, "compact", 12, shards, 1000, "abc123", True, True).save()
    (batch,) = numbers(training_batches(folder, 128, 0, first_step=1_000_000), 1)
    sources = batch_sources(RecordsMetadata(folder, "compact", 12, shards, 1000), 128, 0, 1_000_000)
    assert sorted(batch) == sorted(itertools.chain(*sources.values()))


def test_both_formats_give_the_same_batches(tmp_path):
    write_records(tmp_path / "c", COUNTS)
    write_records(tmp_path / "o", COUNTS, "original")
    (tmp_path / "o" / "metadata.json").unlink()  # the original does not write it
    for compact, original in zip(
        training_batches(tmp_path / "c", 5, 0).take(6),
        training_batches(tmp_path / "o", 5, 0).take(6),
        strict=True,
    ):
        for name, value in compact.items():
            np.testing.assert_array_equal(value, original[name])


@pytest.mark.parametrize("record_format", ["compact", "original"])
def test_a_batch(tmp_path, record_format):
    write_records(tmp_path / "r", [4], record_format, max_seq_length=6)
    dataset = evaluation_batches(tmp_path / "r", 4, 1, max_seq_length=8)
    spec = tf.TensorSpec([4, 8], tf.int32)
    assert dataset.element_spec == dict.fromkeys(("input_ids", "input_mask", "segment_ids"), spec)
    (batch,) = dataset.as_numpy_iterator()
    assert batch["input_ids"].tolist() == [
        [7, 0, 7, 0, 0, 0, 0, 0],
        [7, 1, 7, 7, 0, 0, 0, 0],
        [7, 2, 7, 7, 7, 0, 0, 0],
        [7, 3, 7, 7, 7, 7, 0, 0],
    ]
    assert batch["input_mask"].sum(1).tolist() == [3, 4, 5, 6]
    assert batch["input_mask"][0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch["segment_ids"].tolist() == [
        [0] * 8,
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0] * 8,
        [0, 0, 1, 1, 1, 1, 0, 0],
    ]


def test_a_vocabulary_over_65536_tokens(tmp_path):
    with open_shard(tmp_path / "s", "compact", 4) as write:
        write(np.array([1, 65_536, 70_000], "<u4"), 3)
    shards = (Shard("s", (tmp_path / "s").stat().st_size, 1),)
    metadata = RecordsMetadata(tmp_path, "compact", 4, shards, 70_001)
    (batch,) = evaluation_batches(metadata, 1, 1).as_numpy_iterator()
    assert batch["input_ids"].tolist() == [[1, 65_536, 70_000, 0]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 0]]


def test_evaluation_batches_are_fixed_and_cover_all_shards(tmp_path):
    write_records(tmp_path / "r", COUNTS)
    dataset = evaluation_batches(tmp_path / "r", 5, 2)
    # Shards begin at 0, 7, 11, 11 (empty), 20, 21.
    assert numbers(dataset) == [[0, 7, 11, 20, 21], [1, 8, 12, 22, 2]] == numbers(dataset)
    assert len(numbers(evaluation_batches(tmp_path / "r", 5, 7))) == 7  # over 27 examples


def test_records_longer_than_asked_for(tmp_path):
    metadata = write_records(tmp_path / "r", [3])
    with pytest.raises(InputError, match=r"`max_seq_length` is 8, but the records .* up to 12"):
        training_batches(metadata, 2, 0, max_seq_length=8)
