"""The two formats of records, and damage to shards."""

import numpy as np
import pytest
import tensorflow as tf

from data.records.shard_io import find_damage, id_type, open_shard, record_offsets
from tests.support.corpora import write_records


@pytest.fixture
def shard(tmp_path):
    """A shard of six records."""
    return tmp_path / "r" / write_records(tmp_path / "r", [6]).shards[0].name


def write_one(path, record_format, ids, first_length):
    with open_shard(path, record_format, 8) as write:
        assert not path.exists()  # the name stands for a complete shard
        write(np.array(ids, "<u2"), first_length)
    (record,) = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    return record


def test_a_compact_record_is_one_length_and_ids(tmp_path):
    record = write_one(tmp_path / "s", "compact", [101, 40_000, 102, 5, 102], 3)
    assert np.frombuffer(record, "<u2").tolist() == [3, 101, 40_000, 102, 5, 102]


def test_an_original_record_is_three_padded_lists(tmp_path):
    record = write_one(tmp_path / "s", "original", [101, 9, 102, 5, 102], 3)
    features = tf.train.Example.FromString(record).features.feature
    assert {name: feature.int64_list.value[:] for name, feature in features.items()} == {
        "input_ids": [101, 9, 102, 5, 102, 0, 0, 0],
        "input_mask": [1, 1, 1, 1, 1, 0, 0, 0],
        "segment_ids": [0, 0, 0, 1, 1, 0, 0, 0],
    }


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), open_shard(tmp_path / "s", "compact", 8) as write:
        write(np.array([1, 2], "<u2"), 2)
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []


def test_id_type():
    assert id_type(30_522) == np.dtype("<u2") == id_type(65_536)
    assert id_type(65_537) == np.dtype("<u4")


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


# Relative to the second record: a byte of its data (after the length and its checksum); a byte of
# its length, which hides all later records too; the file ends in its data.
@pytest.mark.parametrize("flipped, end", [(20, None), (1, None), (None, 20)])
def test_damage_is_located(shard, flipped, end):
    sound = shard.read_bytes()
    assert find_damage(str(shard), 6) is None
    second = list(record_offsets(shard))[1]
    assert second == 16 + int.from_bytes(sound[:8], "little")
    if end is not None:
        shard.write_bytes(sound[: second + end])
    if flipped is not None:
        flip_byte(shard, second + flipped)
    damage = find_damage(str(shard), 6)
    assert damage.startswith(f"record 1 (from 0), which begins at byte {second}: ")
    assert ("corrupted" in damage or "truncated" in damage) and "{{" not in damage


@pytest.mark.parametrize("extra", [0, 5])
def test_missing_records_are_counted(shard, extra):
    shard.write_bytes(shard.read_bytes()[: list(record_offsets(shard))[4] + extra])
    assert find_damage(str(shard), 6) == "it has 4 records; 6 were written"


def test_damage_far_inside_a_shard_is_located(tmp_path):
    metadata = write_records(tmp_path / "r", [3000])
    path = tmp_path / "r" / metadata.shards[0].name
    offset = list(record_offsets(path))[2500]
    flip_byte(path, offset + 13)
    assert f"record 2,500 (from 0), which begins at byte {offset:,}: " in find_damage(path, 3000)
