"""Shards, their metadata, and what is said of damaged or missing ones."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from data.records.batches import training_batches
from data.records.metadata import (
    PROGRESS_FILE,
    check_vocab,
    explain_data_error,
    id_type,
    load_metadata,
    open_shard,
    record_position,
)
from tests.support.corpora import write_records


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def tokenizer(**changes):
    values = {
        "vocab_size": 1000,
        "vocab_sha256": "abc123",
        "do_lower_case": True,
        "strip_accents": True,
    }
    return types.SimpleNamespace(**(values | changes))


def test_metadata_comes_back_as_written(tmp_path):
    metadata = write_records(tmp_path / "r", [3, 0, 5])
    assert load_metadata(tmp_path / "r") == metadata
    assert metadata.num_examples == 8
    assert metadata.shards[2].name == "pretrain_data.tfrecord-00002-of-00003"
    totals = json.loads((tmp_path / "r" / "metadata.json").read_text())["totals"]
    assert totals["examples"] == 8
    assert totals["bytes"] == sum(p.stat().st_size for p in (tmp_path / "r").glob("pretrain*"))


def test_a_compact_record_is_one_length_and_ids(tmp_path):
    with open_shard(tmp_path / "s", "compact", 8) as write:
        assert not (tmp_path / "s").exists()  # not under its name before it is complete
        write(np.array([101, 40_000, 102, 5, 102], "<u2"), 3)
    (record,) = [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "s"))]
    assert np.frombuffer(record, "<u2").tolist() == [3, 101, 40_000, 102, 5, 102]


def test_an_original_record_is_three_padded_lists(tmp_path):
    with open_shard(tmp_path / "s", "original", 8) as write:
        write(np.array([101, 9, 102, 5, 102], "<u2"), 3)
    (record,) = [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "s"))]
    features = tf.train.Example.FromString(record).features.feature
    assert {name: feature.int64_list.value[:] for name, feature in features.items()} == {
        "input_ids": [101, 9, 102, 5, 102, 0, 0, 0],
        "input_mask": [1, 1, 1, 1, 1, 0, 0, 0],
        "segment_ids": [0, 0, 0, 1, 1, 0, 0, 0],
    }


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        open_shard(tmp_path / "s", "compact", 8) as write,
    ):
        write(np.array([1, 2], "<u2"), 2)
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []


def test_id_type():
    assert id_type(30_522) == np.dtype("<u2") == id_type(65_536)
    assert id_type(65_537) == np.dtype("<u4")


def test_missing_and_cut_shards_are_named(tmp_path):
    metadata = write_records(tmp_path / "r", [5, 5])
    shard = tmp_path / "r" / metadata.shards[1].name
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{shard.name} is damaged: it has {len(content) // 2}"):
        load_metadata(tmp_path / "r")
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name} is missing"):
        load_metadata(tmp_path / "r")


def test_folders_that_are_not_complete(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*Run build_data\.sh first"):
        load_metadata(tmp_path / "nowhere")
    write_records(tmp_path / "r", [5])
    (tmp_path / "r" / "metadata.json").unlink()
    (tmp_path / "r" / PROGRESS_FILE).write_text("{}\n")
    with pytest.raises(InputError, match="not complete: the build was stopped"):
        load_metadata(tmp_path / "r")
    (tmp_path / "r" / PROGRESS_FILE).unlink()
    with pytest.raises(InputError, match=r"no int64 lists .* no metadata\.json"):
        load_metadata(tmp_path / "r")
    (tmp_path / "r" / "metadata.json").write_text('{"shards": [{}], "totals": 1}')
    with pytest.raises(InputError, match=r"metadata\.json cannot be read"):
        load_metadata(tmp_path / "r")
    write_records(tmp_path / "empty", [0, 0])
    with pytest.raises(InputError, match="hold no examples"):
        load_metadata(tmp_path / "empty")


def test_a_folder_of_the_originals_is_counted(tmp_path):
    write_records(tmp_path / "r", [4, 0, 3], "original")
    (tmp_path / "r" / "metadata.json").unlink()
    metadata = load_metadata(tmp_path / "r")
    assert metadata.record_format == "original" and metadata.max_seq_length == 12
    assert [shard.examples for shard in metadata.shards] == [4, 0, 3]
    assert metadata.vocab_sha256 is None
    check_vocab(metadata, tokenizer(vocab_sha256="another"))  # nothing to compare with

    shard = tmp_path / "r" / metadata.shards[2].name
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{shard.name} is damaged: its .* end inside record 3"):
        load_metadata(tmp_path / "r")


def test_damage_inside_a_shard_is_traced(tmp_path):
    metadata = write_records(tmp_path / "r", [5, 6])
    shard = tmp_path / "r" / metadata.shards[1].name
    sound = shard.read_bytes()
    second = 16 + int.from_bytes(sound[:8], "little")
    flip_byte(shard, second + 20)  # the data of record 2, after its length and checksum
    with pytest.raises(tf.errors.DataLossError) as caught:
        list(training_batches(tmp_path / "r", 2, seed=0).take(1))
    message = str(explain_data_error(caught.value, metadata))
    assert (
        f"{shard.name} is damaged: record 1 (from 0), which begins at byte {second}: corrupted"
        in message
    )
    assert "--overwrite" in message and "{{" not in message

    shard.write_bytes(sound)
    flip_byte(shard, second + 1)  # the length: every later record is lost too
    message = str(explain_data_error(caught.value, metadata))
    assert f"record 1 (from 0), which begins at byte {second}: corrupted" in message

    shard.write_bytes(sound[:second])
    message = str(explain_data_error(caught.value, metadata))
    assert f"{shard.name} is damaged: 1 records, where 6 were written" in message
    shard.write_bytes(sound)
    assert "reading the records" in str(explain_data_error(caught.value, metadata))
    shard.unlink()
    message = str(explain_data_error(caught.value, metadata))
    assert message == f"the shard {shard} is no longer there. Put it back."


def test_damage_far_inside_a_shard_is_traced(tmp_path):
    metadata = write_records(tmp_path / "r", [3000])
    shard = tmp_path / "r" / metadata.shards[0].name
    position = record_position(shard, 2500)
    assert record_position(shard, 3000) == shard.stat().st_size
    flip_byte(shard, position + 13)
    message = str(explain_data_error(ValueError(), metadata))
    assert f"record 2,500 (from 0), which begins at byte {position:,}: corrupted" in message


def test_check_vocab_names_the_difference(tmp_path):
    metadata = write_records(tmp_path / "r", [1])
    check_vocab(metadata, tokenizer())
    with pytest.raises(InputError, match=r"the vocabulary \(7 tokens\) is not the one .* \(1,000"):
        check_vocab(metadata, tokenizer(vocab_sha256="x", vocab_size=7))
    with pytest.raises(InputError, match=r"strip_accents=True, and the tokenizer has .*=False"):
        check_vocab(metadata, tokenizer(strip_accents=False))
