"""The metadata of a directory of records, and the errors about damaged or missing shards."""

import gzip
import json
import shutil
import types

import pytest
import tensorflow as tf

from common.errors import InputError
from data.records.batches import training_batches
from data.records.metadata import PROGRESS_FILE, check_vocab, explain_data_error, load_metadata
from tests.support.corpora import write_records


def tokenizer(**changes):
    names = ("vocab_size", "vocab_sha256", "do_lower_case", "strip_accents")
    values = dict(zip(names, (1000, "abc123", True, True), strict=True))
    return types.SimpleNamespace(**(values | changes))


def test_metadata_comes_back_as_written(tmp_path):
    metadata = write_records(tmp_path / "r", [3, 0, 5])
    assert load_metadata(tmp_path / "r") == metadata
    assert metadata.num_examples == 8
    assert metadata.shards[2].name == "pretrain_data.tfrecord-00002-of-00003"
    totals = json.loads((tmp_path / "r" / "metadata.json").read_text())["totals"]
    assert totals["examples"] == 8
    assert totals["bytes"] == sum(p.stat().st_size for p in (tmp_path / "r").glob("pretrain*"))


def test_missing_and_cut_shards_are_named(tmp_path):
    metadata = write_records(tmp_path / "r", [5, 5])
    shard = tmp_path / "r" / metadata.shards[1].name
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{shard.name} .* found {len(content) // 2} bytes"):
        load_metadata(tmp_path / "r")
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name} is missing.*found no such file"):
        load_metadata(tmp_path / "r")


def test_incomplete_directories(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*Run build_data\.sh first"):
        load_metadata(tmp_path / "nowhere")
    write_records(tmp_path / "r", [5])
    (tmp_path / "r" / "metadata.json").unlink()
    (tmp_path / "r" / PROGRESS_FILE).write_text("{}\n")
    with pytest.raises(InputError, match="not complete: the build was stopped"):
        load_metadata(tmp_path / "r")
    (tmp_path / "r" / PROGRESS_FILE).unlink()
    with pytest.raises(InputError, match=r"int64 lists .* does not have metadata\.json"):
        load_metadata(tmp_path / "r")
    for content in ('{"shards": [{}], "totals": 1}', "{", '{"shards": 1}'):
        (tmp_path / "r" / "metadata.json").write_text(content)
        with pytest.raises(InputError, match=r"metadata\.json: not "):
            load_metadata(tmp_path / "r")
    write_records(tmp_path / "empty", [0, 0])
    with pytest.raises(InputError, match="hold no examples"):
        load_metadata(tmp_path / "empty")


def test_the_records_of_the_original_are_counted(tmp_path):
    write_records(tmp_path / "r", [4, 0, 3], "original")
    (tmp_path / "r" / "metadata.json").unlink()
    leftover = ".pretrain_data.tfrecord-00000-of-00003.host-1-0.convbert-tmp"
    (tmp_path / "r" / leftover).write_bytes(b"half a shard")
    metadata = load_metadata(tmp_path / "r")
    assert metadata.record_format == "original" and metadata.max_seq_length == 12
    assert [shard.examples for shard in metadata.shards] == [4, 0, 3]
    assert metadata.vocab_sha256 is None
    check_vocab(metadata, tokenizer(vocab_sha256="another"))  # unknown, so any is right

    shard = tmp_path / "r" / metadata.shards[2].name
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{shard.name} is damaged: its .* end inside record 3"):
        load_metadata(tmp_path / "r")


def test_copies_beside_the_shards_are_not_read(tmp_path, caplog):
    write_records(tmp_path / "r", [4, 3], "original")
    (tmp_path / "r" / "metadata.json").unlink()
    shard = tmp_path / "r" / "pretrain_data.tfrecord-00000-of-00002"
    for ending in (".bak", "~", " (copy)", ".gz"):
        shutil.copy(shard, f"{shard}{ending}")
    assert load_metadata(tmp_path / "r").num_examples == 7
    assert f"{shard.name}.bak" in caplog.text


@pytest.mark.parametrize("change", ["missing", "another build"])
def test_shards_that_do_not_belong_together_are_warned_of(tmp_path, caplog, change):
    write_records(tmp_path / "r", [4, 3], "original")
    (tmp_path / "r" / "metadata.json").unlink()
    load_metadata(tmp_path / "r")
    assert caplog.text == ""
    shard = tmp_path / "r" / "pretrain_data.tfrecord-00001-of-00002"
    if change == "missing":
        shard.unlink()
    else:
        shutil.copy(shard, tmp_path / "r" / "pretrain_data.tfrecord-1-of-9")
    load_metadata(tmp_path / "r")
    assert f"{tmp_path / 'r'} has {1 if change == 'missing' else 3} shards" in caplog.text


@pytest.mark.parametrize("has_metadata", [True, False])
def test_a_gzipped_shard_is_named(tmp_path, has_metadata):
    write_records(tmp_path / "r", [4, 3], "original")
    if not has_metadata:
        (tmp_path / "r" / "metadata.json").unlink()
    shard = tmp_path / "r" / "pretrain_data.tfrecord-00001-of-00002"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(InputError, match=rf"{shard.name} is .*gzip.*decompress"):
        load_metadata(tmp_path / "r")


@pytest.mark.parametrize(
    "fields",
    [
        {"record_format": "json"},
        {"max_seq_length": "128"},
        {"shards": {"name": "x"}},
        {"shards": [{"name": "../x", "bytes": 1, "examples": 1}]},
        {"shards": [{"name": "x", "bytes": "1", "examples": 1}]},
        {"shards": [{"name": None, "bytes": 1, "examples": 1}]},
        {"shards": [5]},
        {"unknown": 1},
    ],
)
def test_impossible_metadata(tmp_path, fields):
    write_records(tmp_path / "r", [5])
    path = tmp_path / "r" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(InputError, match=r"metadata\.json: not the metadata of records"):
        load_metadata(tmp_path / "r")


def test_a_data_error_is_explained(tmp_path):
    metadata = write_records(tmp_path / "r", [5, 6])
    shard = tmp_path / "r" / metadata.shards[1].name
    sound = shard.read_bytes()
    shard.write_bytes(sound[:20] + b"\xff" + sound[21:])
    with pytest.raises(tf.errors.DataLossError) as caught:
        list(training_batches(tmp_path / "r", 2, seed=0).take(1))
    message = str(explain_data_error(caught.value, metadata))
    assert f"{shard.name} is damaged: record 0 (from 0)" in message and "--overwrite" in message
    shard.write_bytes(sound)
    assert "reading the records" in str(explain_data_error(caught.value, metadata))
    shard.unlink()
    assert f"{shard} no longer exists" in str(explain_data_error(caught.value, metadata))


@pytest.mark.parametrize(
    "name, value",
    [("vocab_size", 7), ("vocab_sha256", "x"), ("do_lower_case", False), ("strip_accents", False)],
)
def test_check_vocab_names_the_difference(tmp_path, name, value):
    metadata = write_records(tmp_path / "r", [1])
    check_vocab(metadata, tokenizer())
    message = rf"built with {name} {getattr(metadata, name)}, but the tokenizer has {name} {value}"
    with pytest.raises(InputError, match=message):
        check_vocab(metadata, tokenizer(**{name: value}))
