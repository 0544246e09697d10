"""Builds the records of a corpus: divides it into shards, which processes write in parallel."""

import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from absl import logging

from common import lean_imports
from common.console import progress_bar
from common.errors import InputError
from common.remote import RemotePath, as_path
from data.corpus.files import read_errors
from data.corpus.sources import Corpus
from data.records import progress
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import PROGRESS_FILE, RecordsMetadata, Shard, progress_files, shard_name
from data.records.options import Part


class Workers(NamedTuple):
    """What builds shards."""

    vocabulary: dict
    """The fields of `RecordsMetadata` about the vocabulary."""
    run: Callable[[Iterator[ShardTask]], Iterator[Shard]]
    """Builds shards, and yields each one when it is finished."""


def build_records(
    corpus: Corpus,
    options: BuildOptions,
    records_dir: str | os.PathLike,
    num_processes: int = 1,
    overwrite: bool = False,
    make_workers: Callable[[BuildOptions], Workers] | None = None,
    finish_only: bool = False,
) -> RecordsMetadata | None:
    """Builds the records of a corpus, or those that are missing.

    Files in the directory list the options and each finished shard, so that the next build with the
    same options can resume a stopped one, or finish several parts. At the end, `metadata.json`
    replaces them. The result is None if the records were already complete.

    Args:
        corpus, options: what to build.
        records_dir: the directory, or its URL; created if necessary.
        num_processes: how many processes build; with 1, it is this one.
        overwrite: replace records that were built with other options.
        make_workers: makes workers that replace the processes of this machine.
        finish_only: do not build; a missing shard is an error.

    Raises:
        InputError: the directory holds other records or is in use, the vocabulary cannot be used,
            the corpus gives no examples, a file of it is damaged or cannot be read, or a process
            was killed. The finished shards are kept.
        WriteError: a file cannot be written. The finished shards are kept.
    """
    records_dir = as_path(records_dir)
    with progress.lock(records_dir):
        identity = options.identity(corpus)
        with read_errors(records_dir):
            finished = {} if overwrite else progress.finished_shards(records_dir, identity)
        if finished is None:
            return None
        tasks = _plan(corpus, options, records_dir)
        if finish_only:
            _require_all(tasks, finished, records_dir)
        start = time.monotonic()
        count = min(num_processes, len(tasks) - len(finished))
        with _workers(options, count, make_workers) as workers:
            # Nothing is changed before this point, where the vocabulary is known to be usable.
            progress.start_directory(records_dir, identity, finished)
            text_bytes = _run(workers, tasks, finished, corpus, records_dir / PROGRESS_FILE)
        metadata = RecordsMetadata(
            records_dir,
            options.record_format,
            options.max_seq_length,
            tuple(finished[task.name] for task in tasks),
            options=identity,
            **workers.vocabulary,
        )
        if not metadata.num_examples:
            found = f"gave no examples. Skipped: {json.dumps(metadata.skipped)}"
            raise InputError(f"no text: the corpus {corpus.path} {found}")
        metadata.save()
        progress.remove_files(records_dir)
    seconds = time.monotonic() - start
    logging.info("%.1f MB of text in %.1f s, including startup", text_bytes / 1e6, seconds)
    return metadata


def build_part(
    corpus: Corpus,
    options: BuildOptions,
    records_dir: str | os.PathLike,
    part: Part,
    num_processes: int = 1,
    make_workers: Callable[[BuildOptions], Workers] | None = None,
) -> list[Shard] | None:
    """Builds the shards of a part that are missing, and no `metadata.json`.

    Other parts can be built in the same directory at the same time; `build_records`, which has the
    same arguments and errors, finishes it. Returns the shards of the part; None if the directory is
    complete.
    """
    records_dir, name = as_path(records_dir), f"{part.number}-of-{part.count}"
    with progress.lock(records_dir, name), progress.lock(records_dir, shared=True):
        identity = options.identity(corpus)
        with read_errors(records_dir):
            finished = progress.finished_shards(records_dir, identity)
        if finished is None:
            return None
        tasks = _plan(corpus, options, records_dir)[part.number - 1 :: part.count]
        finished = {task.name: finished[task.name] for task in tasks if task.name in finished}
        count = min(num_processes, len(tasks) - len(finished))
        with _workers(options, count, make_workers) as workers:
            file = records_dir / f"build_progress-{name}.jsonl"
            progress.begin(file, identity, finished.values())
            try:  # again, for parts with other options that began at the same moment
                progress.finished_shards(records_dir, identity)
            except InputError:
                file.unlink()
                raise
            _run(workers, tasks, finished, corpus, file)
        return [finished[task.name] for task in tasks]


def _plan(corpus: Corpus, options: BuildOptions, records_dir: Path | RemotePath) -> list[ShardTask]:
    """Gives each shard an equal number of consecutive sources of the corpus."""
    sources = corpus.sources
    count = min(options.num_out_files, len(sources))
    bounds = [index * len(sources) // count for index in range(count + 1)]
    return [
        ShardTask(index, str(records_dir / shard_name(index, count)), sources[start:end])
        for index, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def _require_all(tasks, finished, records_dir):
    """Raises an `InputError` that names the missing shards and the parts that build them."""
    missing = [task for task in tasks if task.name not in finished]
    if not missing:
        return
    names = [path.stem for path in progress_files(records_dir)]
    count = max((int(name.rpartition("-of-")[2]) for name in names if "-of-" in name), default=0)
    if not count:
        raise InputError(f"no part was built in {records_dir}. Run the parts first, with --part.")
    parts = sorted({Part(task.index % count + 1, count) for task in missing})
    raise InputError(
        f"{len(missing)} of {len(tasks)} shards in {records_dir} are missing or cut: "
        f"{_some(task.name for task in missing)}. They belong to --part {_some(map(str, parts))}: "
        "run these parts with the same options, then --finish again."
    )


def _some(names: Iterable[str]) -> str:
    """The first of many names, for messages."""
    names, limit = list(names), 20
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _with_contents(tasks: list[ShardTask], corpus: Corpus) -> Iterator[ShardTask]:
    """Reads the sources of a compressed tar, which is only possible in their order."""
    if not corpus.is_stream:
        yield from tasks
        return
    contents = zip(corpus.sources, corpus.stream(), strict=True)
    for task in tasks:
        found = []
        while len(found) < len(task.sources):
            source, content = next(contents)
            if source in task.sources:
                found.append(content)
        yield dataclasses.replace(task, contents=found)


def _run(workers, tasks, finished, corpus, file) -> int:
    """Builds what is not finished, and adds it to `finished` and the file; returns text bytes."""
    remaining = [task for task in tasks if task.name not in finished]
    logging.info("%d of %d shards to build", len(remaining), len(tasks))
    sizes = {task.name: sum(source.size for source in task.sources) for task in tasks}
    total, kept = sum(sizes.values()), sum(sizes[name] for name in finished)
    text_bytes, start = 0, time.monotonic()
    with progress_bar(total, "building", initial=kept, unit="B", unit_scale=True) as bar:
        for shard in workers.run(_with_contents(remaining, corpus)):
            progress.add(file, shard)
            finished[shard.name] = shard
            text_bytes += shard.text_bytes
            rate = text_bytes / 1e6 / (time.monotonic() - start)
            bar.set_postfix_str(f"{rate:.1f} MB of text/s", refresh=False)
            bar.update(sizes[shard.name])
    return text_bytes


def _workers(options, count, make_workers):
    """Returns a context with `Workers`: those of `make_workers`, processes, or this process."""
    if make_workers is not None:
        return contextlib.nullcontext(make_workers(options))
    if count > 1:
        return _processes(options, count)
    tokenizer = LineTokenizer(options)
    run = functools.partial(map, lambda task: build_shard(task, options, tokenizer))
    return contextlib.nullcontext(Workers(tokenizer.vocabulary, run))


@contextlib.contextmanager
def _processes(options: BuildOptions, count: int) -> Iterator[Workers]:
    """Starts processes that end with the `with` block or with this process."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    executor = futures.ProcessPoolExecutor(count, context, _start_worker, (reader,))
    building: dict[futures.Future, str] = {}

    def run(tasks):
        while True:
            # No more tasks than processes, because a task can hold the text of its shard.
            for task in itertools.islice(tasks, count - len(building)):
                building[executor.submit(_build_in_worker, task, options)] = task.name
            if not building:
                return
            done, _ = futures.wait(building, return_when=futures.FIRST_COMPLETED)
            for future in sorted(done, key=lambda each: each.exception() is not None):
                shard = future.result()
                del building[future]
                yield shard

    try:
        # One call per process, so that all of them start now.
        load = functools.partial(_load_vocabulary, options)
        vocabulary, *_ = executor.map(load, [False] + [True] * (count - 1))
        yield Workers(vocabulary, run)
    except BrokenProcessPool as error:
        names = ", ".join(sorted(building.values()))
        work = f"these shards were being built: {names}" if names else "it started"
        raise InputError(
            f"a process was killed (often because memory ran out) while {work}. Finished shards "
            "are kept: run the same command again, with a lower --num-processes if memory is short."
        ) from error
    finally:
        writer.close()
        executor.shutdown()


def _start_worker(connection: multiprocessing.connection.Connection) -> None:
    """Prepares a process. It ends at once when the parent closes the connection or dies."""

    def end_with_parent():
        multiprocessing.connection.wait([connection])
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=end_with_parent, daemon=True).start()
    lean_imports.install()
    import tensorflow as tf

    # The processes are the parallelism.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


_worker_tokenizer = functools.cache(LineTokenizer)


def _load_vocabulary(options: BuildOptions, is_quiet: bool) -> dict:
    # The warnings of one process about the vocabulary are enough.
    logging.set_verbosity(logging.ERROR if is_quiet else logging.WARNING)
    return _worker_tokenizer(options).vocabulary


def _build_in_worker(task: ShardTask, options: BuildOptions) -> Shard:
    return build_shard(task, options, _worker_tokenizer(options))
