"""What the workers of a cluster do, and what a stopped driver leaves, without Spark itself."""

import functools
import lzma
import os
import pathlib

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.cluster import SparkWorkers, build_on_worker
from data.records.metadata import PROGRESS_FILE, progress_files
from tests.support.corpora import archive_of, contents, tar_of
from tests.support.files import write


class Context:
    """Runs the tasks here, up to a limit; lists the shards begun."""

    def __init__(self):
        self.begun, self.limit = [], 99

    def parallelize(self, tasks, num_slices):
        assert num_slices == len(tasks)
        self.tasks = tasks
        return self

    def map(self, function):
        self.function = function
        return self

    def collect(self):
        return list(map(self.run, self.tasks))

    def run(self, task):
        if len(self.begun) == self.limit:
            raise RuntimeError("the driver was stopped")
        self.begun.append(task.name)
        return self.function(task)


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return Context()


def build(corpus, options, records_dir, context):
    make_workers = functools.partial(SparkWorkers, context=context)
    return build_records(corpus, options, records_dir, make_workers=make_workers)


def test_the_build_is_the_local_one(tmp_path, corpus, options, context):
    local = build_records(corpus, options, tmp_path / "local")
    built = build(corpus, options, tmp_path / "r", context)
    assert built.shards == local.shards and len(context.begun) == 4
    assert contents(tmp_path / "r") == contents(tmp_path / "local")
    assert build(corpus, options, tmp_path / "r", context) is None


def test_workers_need_no_vocabulary_file(tmp_path, corpus, options, context):
    context.limit = 0
    with pytest.raises(RuntimeError):
        build(corpus, options, tmp_path / "r", context)
    vocab_file = pathlib.Path(options.vocab_file)
    vocabulary, task = vocab_file.read_bytes(), context.tasks[2]
    vocab_file.unlink()
    shard = build_on_worker(task, options, vocabulary, "id")
    assert (shard.name, shard.bytes) == (task.name, pathlib.Path(task.path).stat().st_size)
    assert shard.documents == 8 * len(task.sources)


def test_a_stopped_driver_loses_nothing(tmp_path, corpus, options, context):
    build_records(corpus, options, tmp_path / "local")
    for limit in (1, 3):
        context.limit = limit
        with pytest.raises(RuntimeError):
            build(corpus, options, tmp_path / "r", context)
        assert len(progress_files(tmp_path / "r")) == 2  # the driver's, and this process's
    context.limit = 99
    build(corpus, options, tmp_path / "r", context)
    assert len(context.begun) == len(set(context.begun)) == 4
    assert contents(tmp_path / "r") == contents(tmp_path / "local")


def test_damage_is_named_and_the_other_shards_are_kept(tmp_path, options, context):
    damaged = bytearray(archive_of(["ba da " * 50] * 4))
    damaged[60] ^= 0xFF
    good = archive_of(["ba da"])
    for name, content in (("a", good), ("b", bytes(damaged)), ("c", good)):
        write(tmp_path / "archives" / f"{name}.xz", content)
    corpus = find_corpus(tmp_path, tmp_path / "archives")
    with pytest.raises(InputError, match=r"b\.xz: damaged"):
        build(corpus, options, tmp_path / "r", context)
    shards = [name for name in contents(tmp_path / "r") if name.startswith("pretrain_data")]
    assert [name.split("-", 1)[-1] for name in shards] == ["00000-of-00003", "00002-of-00003"]
    assert (tmp_path / "r" / PROGRESS_FILE).read_text().count("\n") == 3


def test_a_worker_that_does_not_see_the_files_is_named(tmp_path, corpus, options, context):
    host = os.uname().nodename
    path = corpus.path.rename(tmp_path / "elsewhere.tar")
    with pytest.raises(InputError, match=rf"worker {host} does not see .*openwebtext\.tar"):
        build(corpus, options, tmp_path / "r", context)
    path.rename(corpus.path)
    (tmp_path / "r" / PROGRESS_FILE).unlink()  # as in a directory of another machine
    answer = build_on_worker(context.tasks[0], options, b"", "id")
    assert answer.startswith(f"the worker {host} does not see {tmp_path}/r/{PROGRESS_FILE}.")
    assert len(build(corpus, options, tmp_path / "r", context).shards) == 4


def test_a_compressed_tar_is_refused(tmp_path, options, context):
    tar = tar_of({"a.xz": archive_of(["ba da"])})
    (tmp_path / "t.tar.xz").write_bytes(lzma.compress(tar))
    with pytest.raises(InputError, match=r"compressed tar.*build_data\.py"):
        build(find_corpus(tmp_path, tmp_path / "t.tar.xz"), options, tmp_path / "r", context)
    assert context.begun == []
