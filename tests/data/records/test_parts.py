"""Parts of a build: together they are the plain build, however they were stopped and repeated."""

import dataclasses
import lzma

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records import progress
from data.records.build import build_part, build_records
from data.records.metadata import load_metadata
from data.records.options import Part
from tests.support.corpora import begun_shards, contents


@pytest.mark.parametrize("compressed", [False, True])
def test_parts_in_any_order_are_the_plain_build(tmp_path, corpus, options, monkeypatch, compressed):
    if compressed:
        corpus.path.with_suffix(".tar.xz").write_bytes(lzma.compress(corpus.path.read_bytes()))
        corpus.path.unlink()
        corpus = find_corpus(tmp_path)
    whole = build_records(corpus, options, tmp_path / "whole")
    built = {}
    for number in (3, 1, 2):
        begun = begun_shards(monkeypatch)
        shards = build_part(corpus, options, tmp_path / "r", Part(number, 3))
        built[number] = begun
        assert [shard.name for shard in shards] == [whole.shards[index].name for index in begun]
        with pytest.raises(InputError, match="not complete"):
            load_metadata(tmp_path / "r")
    assert built == {1: [0, 3], 2: [1], 3: [2]}
    assert build_records(corpus, options, tmp_path / "r", finish_only=True) == dataclasses.replace(
        whole, records_dir=tmp_path / "r"
    )
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")
    assert build_part(corpus, options, tmp_path / "r", Part(1, 3)) is None
    assert build_records(corpus, options, tmp_path / "r", finish_only=True) is None
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_more_parts_than_shards(tmp_path, corpus, options):
    for number in range(1, 8):
        shards = build_part(corpus, options, tmp_path / "r", Part(number, 7))
        assert len(shards) == (number <= 4)
    assert len(build_records(corpus, options, tmp_path / "r", finish_only=True).shards) == 4


def test_a_stopped_part_is_repeated_and_a_missing_one_is_named(
    tmp_path, corpus, options, monkeypatch
):
    build_records(corpus, options, tmp_path / "whole")
    directory = tmp_path / "r"
    finish = dict(records_dir=directory, finish_only=True)
    with pytest.raises(InputError, match=rf"no part was built in {directory}"):
        build_records(corpus, options, **finish)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        begun_shards(patch, limit=1)
        build_part(corpus, options, directory, Part(1, 2))
    with (directory / "build_progress-1-of-2.jsonl").open("a") as file:
        file.write('{"name": "pretrain_da')  # killed while it was written
    (directory / ".pretrain_data.tfrecord-00002-of-00004.a-1-2-0.convbert-tmp").write_bytes(b"half")
    with pytest.raises(InputError, match=r"^3 of 4 .*00001-of-.*00003.* --part 1/2, 2/2: run"):
        build_records(corpus, options, **finish)
    build_part(corpus, options, directory, Part(2, 2))
    with pytest.raises(InputError, match=r"^1 of 4 .*: pretrain_data\S*2-of-00004\. .* 1/2: run"):
        build_records(corpus, options, **finish)
    begun = begun_shards(monkeypatch)
    build_part(corpus, options, directory, Part(1, 2))
    assert begun == [2]

    shard = directory / "pretrain_data.tfrecord-00001-of-00004"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"missing or cut: \S*00001-of-00004\. .* 2/2: run"):
        build_records(corpus, options, **finish)
    build_part(corpus, options, directory, Part(2, 2))
    assert begun == [2, 1]
    build_records(corpus, options, **finish)
    assert contents(directory) == contents(tmp_path / "whole")


def test_parts_of_other_numbers_and_plain_builds_go_on_from_each_other(
    tmp_path, corpus, options, monkeypatch
):
    build_records(corpus, options, tmp_path / "whole")
    begun = begun_shards(monkeypatch)
    build_part(corpus, options, tmp_path / "r", Part(1, 4))
    build_part(corpus, options, tmp_path / "r", Part(1, 2))
    assert begun == [0, 2]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        begun_shards(patch, limit=1)
        build_records(corpus, options, tmp_path / "r")
    build_part(corpus, options, tmp_path / "r", Part(2, 2))
    assert begun == [0, 2, 3]
    build_records(corpus, options, tmp_path / "r")
    assert begun == [0, 2, 3]
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_parts_with_other_options_are_refused(tmp_path, corpus, options, monkeypatch):
    other = dataclasses.replace(options, seed=7)
    build_part(corpus, options, tmp_path / "r", Part(1, 2))
    before = contents(tmp_path / "r")
    for build in (
        lambda: build_part(corpus, other, tmp_path / "r", Part(2, 2)),
        lambda: build_records(corpus, other, tmp_path / "r", finish_only=True),
    ):
        with pytest.raises(InputError, match="seed 42 != 7"):
            build()
    del before[".build.lock"]
    assert contents(tmp_path / "r") == before

    begin = progress.begin

    def begin_both(path, *arguments):  # another part, begun at the same moment
        begin(path.with_name("build_progress-1-of-2.jsonl"), options.identity(corpus))
        begin(path, *arguments)

    monkeypatch.setattr(progress, "begin", begin_both)
    with pytest.raises(InputError, match="seed 42 != 7"):
        build_part(corpus, other, tmp_path / "s", Part(2, 2))
    names = {".build.lock", "build_progress-1-of-2.jsonl"}
    assert contents(tmp_path / "s").keys() == names


def test_parts_share_the_folder_but_with_no_other_build(tmp_path, corpus, options):
    # One process cannot show that two share it: tests/test_build_data.py has them.
    is_locked = pytest.raises(InputError, match=f"{tmp_path}/r is in use")
    with progress.lock(tmp_path / "r", shared=True), is_locked:
        build_records(corpus, options, tmp_path / "r")
    with progress.lock(tmp_path / "r", "2-of-3"):
        with pytest.raises(InputError, match=r"r, part 2-of-3, is in use"):
            build_part(corpus, options, tmp_path / "r", Part(2, 3))
        assert build_part(corpus, options, tmp_path / "r", Part(1, 3))
