"""Records in an object store: the same bytes as here, whole or not there, checked when fetched."""

import json
import os
from pathlib import Path

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records import build as building
from data.records import progress
from data.records.build import build_part, build_records
from data.records.build_shard import build_shard
from data.records.metadata import METADATA_FILE, load_metadata
from data.records.options import Part
from tests.support.corpora import contents
from tests.support.object_store import memory_store

URL = "memory://bucket/pretrain_tfrecords"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    return memory_store(monkeypatch, tmp_path)


@pytest.fixture
def remote_corpus(memory, corpus):
    memory.put_file(str(corpus.path), "/bucket/openwebtext.tar")
    return find_corpus("memory://bucket")


def stored(memory, folder=URL):
    path = folder.removeprefix("memory:/")
    return {os.path.basename(name): memory.cat(name) for name in memory.find(path)}


def stop_at(monkeypatch, index):
    def build_some(task, *arguments):
        if task.index == index:
            raise KeyboardInterrupt
        return build_shard(task, *arguments)

    monkeypatch.setattr(building, "build_shard", build_some)


def test_a_stopped_build_goes_on_and_gives_the_same_bytes(
    memory, remote_corpus, corpus, options, tmp_path, monkeypatch
):
    build_records(corpus, options, tmp_path / "here")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build_records(remote_corpus, options, URL)
    names = [name for name in stored(memory) if name.startswith("pretrain_data")]
    assert len(names) == 2 and METADATA_FILE not in stored(memory)
    with pytest.raises(InputError, match=f"{Path(URL).name} are not complete"):
        load_metadata(URL)
    memory.pipe(f"/bucket/pretrain_tfrecords/{names[0]}", b"cut")  # is noticed, and built again
    built = []
    monkeypatch.setattr(
        building, "build_shard", lambda task, *a: built.append(task.index) or build_shard(task, *a)
    )
    metadata = build_records(remote_corpus, options, URL)
    assert built == [0, 2, 3]
    assert stored(memory) == contents(tmp_path / "here")
    assert str(metadata.records_dir) == URL
    assert build_records(remote_corpus, options, URL) is None
    assert load_metadata(URL).sha256() == load_metadata(tmp_path / "here").sha256()
    with pytest.raises(InputError, match="seed"):
        build_records(remote_corpus, options.__class__(**vars(options) | {"seed": 7}), URL)


def test_parts_are_built_and_finished(memory, remote_corpus, corpus, options, tmp_path):
    build_records(corpus, options, tmp_path / "here")
    build_part(remote_corpus, options, URL, Part(1, 2))
    with pytest.raises(InputError, match=r"00001-of-00004, .*00003-of-00004.* --part 2/2"):
        build_records(remote_corpus, options, URL, finish_only=True)
    build_part(remote_corpus, options, URL, Part(2, 2))
    build_records(remote_corpus, options, URL, finish_only=True)
    assert stored(memory) == contents(tmp_path / "here")


def test_only_one_build_at_a_time_on_a_machine(memory, remote_corpus, options):
    with progress.lock(building.as_path(URL)), pytest.raises(InputError, match=f"{URL} is in use"):
        build_records(remote_corpus, options, URL)


def test_a_shard_that_changed_under_its_name_is_noticed(memory, remote_corpus, options):
    build_records(remote_corpus, options, URL)
    assert load_metadata(URL).num_examples
    name = "pretrain_data.tfrecord-00002-of-00004"
    path = f"/bucket/pretrain_tfrecords/{name}"
    shard = memory.cat(path)
    memory.pipe(path, bytes([shard[0] ^ 1]) + shard[1:])  # of the same size
    for _ in range(2):
        with pytest.raises(InputError, match=f"{URL}/{name} is not the one .*SHA-256"):
            load_metadata(URL)
    memory.pipe(path, shard)
    metadata = load_metadata(URL)
    content = json.loads(memory.cat(f"/bucket/pretrain_tfrecords/{METADATA_FILE}"))
    assert content["shards"][2]["sha256"] == metadata.shards[2].sha256 != ""
    memory.rm(path)
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_metadata(URL)
    with pytest.raises(InputError, match=f"{URL}/{name} is missing"):
        build_records(remote_corpus, options, URL)


def test_no_records(memory):
    memory.pipe("/bucket/pretrain_tfrecords/x", b"")
    for url in (URL, "memory://bucket/none"):
        with pytest.raises(InputError, match=f"{url}: not found"):
            load_metadata(url)
