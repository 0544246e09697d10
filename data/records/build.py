"""Builds the records of a corpus: divides it into shards, which processes write in parallel."""

import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing.connection
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from absl import logging

from common.console import progress_bar
from common.errors import InputError
from common.fields import require
from common.files import TEMPORARY_SUFFIX, write_text
from common.lock import locked
from data.corpus.files import read_errors
from data.corpus.sources import Corpus
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import (
    METADATA_FILE,
    PROGRESS_FILE,
    SHARD_PREFIX,
    RecordsMetadata,
    Shard,
    load_metadata,
    shard_files,
    shard_name,
)
from data.records.shard_io import write_errors

# Shards, the notes about them on a cluster, and what a killed process left of either.
_BUILT = re.compile(
    rf"(?P<leftover>\.)?{SHARD_PREFIX}\d+-of-\d+(\.note\.json)?"
    rf"(?(leftover)\..*{re.escape(TEMPORARY_SUFFIX)})"
)


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
) -> RecordsMetadata | None:
    """Builds the records of a corpus, or those that are missing.

    A file in the directory lists the options and each finished shard, so that the next build with
    the same options resumes a stopped one. At the end, `metadata.json` replaces that file.

    Args:
        corpus, options: what to build.
        records_dir: the directory; created if necessary.
        num_processes: with 1, this process builds.
        overwrite: replace records that were built with other options.
        make_workers: replaces the processes of this machine.

    Returns:
        What was built; None if it already existed.

    Raises:
        InputError: the directory holds other records, the vocabulary cannot be used, an archive is
            damaged or a process was killed. The last two keep the finished shards.
    """
    require(num_processes >= 1, "num_processes", "at least 1", num_processes)
    records_dir = Path(records_dir)
    with lock(records_dir):
        return _build(corpus, options, records_dir, num_processes, overwrite, make_workers)


def lock(records_dir: Path) -> contextlib.AbstractContextManager:
    """A context in which no other build writes to the directory."""
    return locked(records_dir / ".build.lock", str(records_dir), "Wait until it ends, or end it.")


def _build(corpus, options, records_dir, num_processes, overwrite, make_workers):
    identity = options.identity(corpus)
    with read_errors(records_dir):
        finished = {} if overwrite else _finished_shards(records_dir, identity)
    if finished is None:
        return None
    tasks = _plan(corpus, options, records_dir)
    remaining = [task for task in tasks if task.name not in finished]
    start = time.monotonic()
    with _workers(options, min(num_processes, len(remaining)), make_workers) as workers:
        # Nothing is changed before this point, where the vocabulary is known to be usable.
        _start_directory(records_dir, identity, finished)
        logging.info("%d of %d shards to build", len(remaining), len(tasks))
        shards = workers.run(_with_contents(remaining, corpus))
        text_bytes = _record_shards(shards, tasks, finished, records_dir / PROGRESS_FILE)
    shards = tuple(finished[task.name] for task in tasks)
    metadata = RecordsMetadata(
        records_dir,
        options.record_format,
        options.max_seq_length,
        shards,
        options=identity,
        **workers.vocabulary,
    )
    _finish_directory(metadata, corpus)
    seconds = time.monotonic() - start
    logging.info("%.1f MB of text in %.1f s, including startup", text_bytes / 1e6, seconds)
    return metadata


def _finished_shards(records_dir: Path, identity: dict) -> dict[str, Shard] | None:
    """Returns the shards that an earlier build finished, by name; None if it finished all.

    Records of other options, and damaged ones, are an `InputError`.
    """
    metadata_file, progress_file = records_dir / METADATA_FILE, records_dir / PROGRESS_FILE
    shards, options = None, {}
    try:
        if metadata_file.exists():
            options = json.loads(metadata_file.read_text())["options"]
        elif progress_file.exists():
            first, *lines = progress_file.read_text().splitlines(keepends=True)
            # The last line is cut if the build was killed while writing it.
            shards = [Shard(**json.loads(line)) for line in lines if line.endswith("\n")]
            options = json.loads(first)
        elif not shard_files(records_dir):
            return {}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # damaged: its options are unknown
    options = options if isinstance(options, dict) else {}
    if different := [name for name, value in identity.items() if options.get(name) != value]:
        pairs = [f"{name} {options.get(name)!r} != {identity[name]!r}" for name in different]
        listing = ", ".join(pairs) if options else "their options are unknown"
        raise InputError(
            f"{records_dir} holds records that were built with other options ({listing}). Replace "
            "them with --overwrite, or use another --data-dir."
        )
    if shards is None:
        load_metadata(records_dir)  # checks the shards
        return None
    sizes = {path.name: path.stat().st_size for path in records_dir.glob(f"{SHARD_PREFIX}*")}
    return {shard.name: shard for shard in shards if sizes.get(shard.name) == shard.bytes}


def _plan(corpus: Corpus, options: BuildOptions, records_dir: Path) -> list[ShardTask]:
    """Gives each shard an equal number of consecutive sources of the corpus."""
    sources = corpus.sources
    count = min(options.num_out_files, len(sources))
    bounds = [index * len(sources) // count for index in range(count + 1)]
    return [
        ShardTask(index, str(records_dir / shard_name(index, count)), sources[start:end])
        for index, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def _start_directory(records_dir: Path, identity: dict, finished: dict[str, Shard]) -> None:
    """Creates the directory, or removes all but the finished shards, and saves the options."""
    with write_errors(records_dir):
        records_dir.mkdir(parents=True, exist_ok=True)
        (records_dir / METADATA_FILE).unlink(missing_ok=True)
        entries = [identity, *map(dataclasses.asdict, finished.values())]
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        write_text(records_dir / PROGRESS_FILE, lines)
        for path in records_dir.iterdir():
            if _BUILT.fullmatch(path.name) and path.name not in finished:
                path.unlink()


def _finish_directory(metadata: RecordsMetadata, corpus: Corpus) -> None:
    """Replaces the progress file with `metadata.json`, unless there are no examples."""
    if not metadata.num_examples:
        skipped = json.dumps(metadata.skipped)
        raise InputError(f"no text: the corpus {corpus.path} gave no examples. Skipped: {skipped}")
    metadata.save()
    (metadata.records_dir / PROGRESS_FILE).unlink()


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


def _record_shards(shards, tasks, finished, progress) -> int:
    """Adds each shard to `finished`, the progress file and a progress bar; returns text bytes."""
    sizes = {task.name: sum(source.size for source in task.sources) for task in tasks}
    total, kept = sum(sizes.values()), sum(sizes[name] for name in finished)
    text_bytes, start = 0, time.monotonic()
    with progress_bar(total, "building", initial=kept, unit="B", unit_scale=True) as bar:
        for shard in shards:
            with write_errors(progress), progress.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(shard)) + "\n")
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
