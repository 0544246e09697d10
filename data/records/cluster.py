"""Builds shards with Apache Beam: in the workers of a cluster instead of local processes.

All machines share a file system, where corpus and records have the same paths. A worker writes a
note beside each shard that it finishes, so that no finished work is lost if the pipeline stops.
"""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError
from common.files import write_text
from data.records.build import lock
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import PROGRESS_FILE, SHARD_PREFIX, Shard

NOTE_SUFFIX = ".note.json"


class BeamWorkers:
    """The `Workers` of a Beam pipeline; `pipeline_arguments` are Beam's own options."""

    def __init__(self, options: BuildOptions, pipeline_arguments: list[str]):
        self._options = options
        self._pipeline_arguments = pipeline_arguments
        self.vocabulary = LineTokenizer(options).vocabulary

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[Shard]:
        """Runs the pipeline, then yields the shards.

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
        if planned:
            self._run_pipeline(planned)
        failures = []
        for task in planned:
            note = Path(task.path + NOTE_SUFFIX)
            try:
                content = json.loads(note.read_text())
            except FileNotFoundError as error:
                raise InputError(
                    f"the pipeline ended, but {note} does not exist. Is {note.parent} the same "
                    "shared directory on all workers?"
                ) from error
            if "error" in content:
                failures.append(content["error"])
            else:
                yield Shard(**content)
            note.unlink()
        if failures:
            raise InputError("\n".join(failures))

    def _run_pipeline(self, tasks: list[ShardTask]) -> None:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        # The workers get the content of the vocabulary, because its file may be local.
        vocabulary = Path(self._options.vocab_file).read_bytes()
        with beam.Pipeline(options=PipelineOptions(self._pipeline_arguments)) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(tasks, reshuffle=False)
                | "DealToWorkers" >> beam.Reshuffle()
                | "Build" >> beam.Map(build_with_note, self._options, vocabulary)
            )


def build_with_note(task: ShardTask, options: BuildOptions, vocabulary: bytes) -> None:
    """Builds a shard on a worker, and writes a note: what it holds, or why it cannot be built.

    An error in the corpus is an error on every worker. It is not raised, because runners would
    retry it and then give up the whole pipeline.
    """
    try:
        for source in task.sources:
            if not os.path.exists(source.path):
                raise InputError(
                    f"the worker {os.uname().nodename} does not see {source.path}. The corpus must "
                    "be in a shared directory, with the same path on all machines."
                )
        content = dataclasses.asdict(build_shard(task, options, _tokenizer(options, vocabulary)))
    except InputError as error:
        content = {"error": str(error)}
    write_text(task.path + NOTE_SUFFIX, json.dumps(content) + "\n")


def collect_notes(records_dir: Path) -> None:
    """Adds the notes that the workers of a stopped pipeline left to the directory's progress."""
    progress = records_dir / PROGRESS_FILE
    if progress.exists():
        with lock(records_dir):
            _collect_notes(records_dir, progress)


def _collect_notes(records_dir, progress):
    lines = [line for line in progress.read_text().splitlines(keepends=True) if line[-1] == "\n"]
    for note in sorted(records_dir.glob(f"{SHARD_PREFIX}*{NOTE_SUFFIX}")):
        text = note.read_text()
        if "error" not in json.loads(text):
            lines.append(text)
    write_text(progress, "".join(lines))


@functools.cache
def _tokenizer(options: BuildOptions, vocabulary: bytes) -> LineTokenizer:
    with tempfile.NamedTemporaryFile() as file:
        file.write(vocabulary)
        file.flush()
        return LineTokenizer(dataclasses.replace(options, vocab_file=file.name))
