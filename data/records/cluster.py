"""Builds shards with Apache Spark: in the executors of a cluster instead of local processes.

All machines share a file system, where corpus and records have the same paths. A worker notes each
shard that it finishes in a file of its own, so that no work is lost if the driver stops.
"""

import functools
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.remote import RemotePath, as_path, is_url
from data.records import progress
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import PROGRESS_FILE, Shard


class SparkWorkers:
    """The `Workers` of a Spark cluster; `context` is its `SparkContext`."""

    def __init__(self, options: BuildOptions, context: Any):
        self._options = options
        self._context = context
        self.vocabulary = LineTokenizer(options).vocabulary

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[Shard]:
        """Builds all shards, then yields them.

        Damage to the corpus is an `InputError` after all other shards were yielded.
        """
        planned = []
        for task in tasks:
            if task.contents is not None:
                raise InputError(
                    "the corpus is a compressed tar, which only one process can read. Decompress "
                    "it first (xz -d), or build it with build_data.py."
                )
            planned.append(task)
        if not planned:
            return
        # The workers get the content of the vocabulary, because its file may be local.
        vocabulary = as_path(self._options.vocab_file).read_bytes()
        build = functools.partial(
            build_on_worker, options=self._options, vocabulary=vocabulary, build_id=uuid.uuid4().hex
        )
        results = self._context.parallelize(planned, len(planned)).map(build).collect()
        yield from (result for result in results if isinstance(result, Shard))
        if failures := [result for result in results if not isinstance(result, Shard)]:
            raise InputError("\n".join(failures))


def build_on_worker(
    task: ShardTask, options: BuildOptions, vocabulary: bytes, build_id: str
) -> Shard | str:
    """Builds a shard on a worker, and notes it; returns what it holds, or why it cannot be built.

    An error in the corpus is not raised: Spark would retry the shard elsewhere, then give up the
    whole job. `build_id` is different for each driver.
    """
    records_dir = as_path(task.path).parent
    try:
        for path in (records_dir / PROGRESS_FILE, *(source.path for source in task.sources)):
            if not is_url(path) and not os.path.exists(path):
                raise InputError(
                    f"the worker {os.uname().nodename} does not see {path}. The corpus and the "
                    "data directory must be shared, with the same paths on all machines."
                )
        shard = build_shard(task, options, _tokenizer(options, vocabulary))
        progress.add(_own_progress(records_dir, build_id), shard)
        return shard
    except InputError as error:
        return str(error)


@functools.cache
def _own_progress(records_dir: Path | RemotePath, build_id: str) -> Path | RemotePath:
    """Begins this process's progress file, with the options from the driver's file."""
    path = records_dir / f"build_progress-{build_id}-{uuid.uuid4().hex}.jsonl"
    progress.begin(path, progress.options_of(records_dir / PROGRESS_FILE))
    return path


@functools.cache
def _tokenizer(options: BuildOptions, vocabulary: bytes) -> LineTokenizer:
    # TensorFlow reads these when it starts: the workers are the parallelism.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.NamedTemporaryFile() as file:
        file.write(vocabulary)
        file.flush()
        return LineTokenizer(replace(options, vocab_file=file.name))
