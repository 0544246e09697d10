"""What the workers of a cluster do, and what a stopped pipeline leaves, without Beam itself."""

import functools
import json
import lzma
import os
import pathlib

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.cluster import BeamWorkers, build_with_note, collect_notes
from data.records.metadata import PROGRESS_FILE
from tests.support.corpora import archive_of, contents, tar_of
from tests.support.files import write


@pytest.fixture
def pipeline(monkeypatch):
    """Runs the tasks here, up to a limit; lists the shards begun."""

    def run(self, tasks):
        vocabulary = pathlib.Path(self._options.vocab_file).read_bytes()
        for task in tasks:
            if len(run.begun) == run.limit:
                raise RuntimeError("the pipeline was stopped")
            run.begun.append(task.name)
            build_with_note(task, self._options, vocabulary)

    run.begun, run.limit = [], 99
    monkeypatch.setattr(BeamWorkers, "_run_pipeline", run)
    return run


def build(corpus, options, records_dir):
    make_workers = functools.partial(BeamWorkers, pipeline_arguments=[])
    return build_records(corpus, options, records_dir, make_workers=make_workers)


def test_the_build_is_the_local_one(tmp_path, corpus, options, pipeline):
    local = build_records(corpus, options, tmp_path / "local")
    built = build(corpus, options, tmp_path / "r")
    assert built.shards == local.shards and len(pipeline.begun) == 4
    assert contents(tmp_path / "r") == contents(tmp_path / "local")
    assert build(corpus, options, tmp_path / "r") is None


def test_workers_need_no_vocabulary_file(tmp_path, corpus, options, monkeypatch):
    tasks = []
    monkeypatch.setattr(BeamWorkers, "_run_pipeline", lambda self, given: tasks.extend(given))
    with pytest.raises(InputError, match=r"note\.json does not exist\. Is .*/r the same"):
        build(corpus, options, tmp_path / "r")
    vocab_file = pathlib.Path(options.vocab_file)
    vocabulary = vocab_file.read_bytes()
    vocab_file.unlink()
    build_with_note(tasks[2], options, vocabulary)
    note = json.loads((tmp_path / "r" / f"{tasks[2].name}.note.json").read_text())
    path = tmp_path / "r" / tasks[2].name
    assert note["name"] == path.name and note["bytes"] == path.stat().st_size
    assert note["documents"] == 8 * len(tasks[2].sources)


def test_a_stopped_pipeline_is_resumed(tmp_path, corpus, options, pipeline):
    build_records(corpus, options, tmp_path / "local")
    collect_notes(tmp_path / "r")  # nothing exists yet
    for limit, finished in ((1, 1), (3, 3)):
        pipeline.limit = limit
        with pytest.raises(RuntimeError):
            build(corpus, options, tmp_path / "r")
        progress = tmp_path / "r" / PROGRESS_FILE
        with progress.open("a") as file:
            file.write('{"name": "pretrain_da')  # killed while it was written
        collect_notes(tmp_path / "r")
        assert progress.read_text().count("\n") == 1 + finished
    pipeline.limit = 99
    build(corpus, options, tmp_path / "r")
    assert len(pipeline.begun) == len(set(pipeline.begun)) == 4
    assert contents(tmp_path / "r") == contents(tmp_path / "local")


def test_damage_is_named_and_the_other_shards_are_kept(tmp_path, options, pipeline):
    damaged = bytearray(archive_of(["ba da " * 50] * 4))
    damaged[60] ^= 0xFF
    good = archive_of(["ba da"])
    for name, content in (("a", good), ("b", bytes(damaged)), ("c", good)):
        write(tmp_path / "archives" / f"{name}.xz", content)
    corpus = find_corpus(tmp_path, tmp_path / "archives")
    with pytest.raises(InputError, match=r"b\.xz: damaged"):
        build(corpus, options, tmp_path / "r")
    names = sorted(contents(tmp_path / "r"))
    assert [name.split("-", 1)[-1] for name in names[1:]] == ["00000-of-00003", "00002-of-00003"]
    assert (tmp_path / "r" / PROGRESS_FILE).read_text().count("\n") == 3


def test_a_worker_that_does_not_see_the_corpus_is_named(tmp_path, corpus, options, pipeline):
    path = corpus.path.rename(tmp_path / "elsewhere.tar")
    with pytest.raises(InputError, match=rf"{os.uname().nodename} does not see .*openwebtext\.tar"):
        build(corpus, options, tmp_path / "r")
    path.rename(corpus.path)
    assert len(build(corpus, options, tmp_path / "r").shards) == 4


def test_a_compressed_tar_is_refused(tmp_path, options, pipeline):
    tar = tar_of({"a.xz": archive_of(["ba da"])})
    (tmp_path / "t.tar.xz").write_bytes(lzma.compress(tar))
    with pytest.raises(InputError, match=r"compressed tar.*build_data\.py"):
        build(find_corpus(tmp_path, tmp_path / "t.tar.xz"), options, tmp_path / "r")
    assert pipeline.begun == []
