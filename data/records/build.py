"""Building the records of a corpus: it is cut into shards, and processes turn each into a file."""

import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging

from common.console import progress_bar
from common.errors import InputError
from common.files import write_text
from data.corpus.sources import Corpus
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import (
    METADATA_FILE,
    PROGRESS_FILE,
    SHARD_PREFIX,
    RecordsMetadata,
    Shard,
    load_metadata,
    shard_name,
    write_errors_named,
)


def build_records(
    corpus: Corpus,
    options: BuildOptions,
    records_dir: str | os.PathLike,
    num_processes: int = 1,
    overwrite: bool = False,
    make_workers: Callable[[BuildOptions], "_ThisProcess"] | None = None,
) -> RecordsMetadata | None:
    """Builds the records of a corpus, or what is missing of them.

    A file in the folder notes the options and each finished shard; where a build was stopped, the
    next one with the same options goes on from there. `metadata.json` takes its place at the end.

    Args:
        corpus: from `data.corpus.sources.find_corpus`.
        options: what to build.
        records_dir: the folder; made if need be.
        num_processes: 1 builds in this process.
        overwrite: remove records of other options that are there.
        make_workers: what builds the shards in place of processes of this machine.

    Returns:
        What was built; None where it was already there.

    Raises:
        InputError: the folder holds other records; the vocabulary cannot be used; an archive is
            damaged; a process was killed. Only the last two leave anything behind: the shards
            that were finished.
    """
    if num_processes < 1:
        raise InputError(f"`num_processes` must be at least 1. Received: {num_processes}")
    records_dir = Path(records_dir)
    identity = options.identity(corpus)
    finished = {} if overwrite else _finished_shards(records_dir, identity)
    if finished is None:
        return None
    tasks = _plan(corpus, options, records_dir)
    remaining = [task for task in tasks if task.name not in finished]
    start = time.monotonic()
    if make_workers is None:
        starting = _workers(options, min(num_processes, max(1, len(remaining))))
    else:
        starting = contextlib.nullcontext(make_workers(options))
    with starting as workers:
        # Only now is the vocabulary known to be usable; nothing was changed before.
        with write_errors_named(records_dir):
            _start_folder(records_dir, identity, finished)
        logging.info("%d of %d shards to build", len(remaining), len(tasks))
        shards = workers.run(_with_contents(remaining, corpus))
        finished |= _note_shards(shards, tasks, finished, records_dir)
        vocabulary = workers.vocabulary
    metadata = RecordsMetadata(
        records_dir=records_dir,
        record_format=options.record_format,
        max_seq_length=options.max_seq_length,
        shards=tuple(finished[task.name] for task in tasks),
        options=identity,
        **vocabulary,
    )
    if not metadata.num_examples:
        skipped = ", ".join(f"{count} {reason}" for reason, count in metadata.skipped.items())
        raise InputError(
            f"no text: the corpus {corpus.path} gave no examples. Skipped: {skipped or 'nothing'}."
        )
    metadata.save()
    (records_dir / PROGRESS_FILE).unlink()
    seconds = time.monotonic() - start
    megabytes = sum(finished[task.name].text_bytes for task in remaining) / 1e6
    rate = megabytes / seconds
    logging.info("%.1f MB of text in %.1f s, start included: %.2f MB/s", megabytes, seconds, rate)
    return metadata


def _note_shards(
    shards: Iterator[Shard],
    tasks: list[ShardTask],
    finished: dict[str, Shard],
    records_dir: Path,
) -> dict[str, Shard]:
    """Notes each shard as it is finished, on disk and on a progress bar; returns them by name."""
    sizes = {task.name: sum(source.size for source in task.sources) for task in tasks}
    kept = sum(sizes[name] for name in finished)
    built, text_bytes, start = {}, 0, time.monotonic()
    progress = records_dir / PROGRESS_FILE
    total = sum(sizes.values())
    with progress_bar(total, "building", initial=kept, unit="B", unit_scale=True) as bar:
        for shard in shards:
            with write_errors_named(progress), progress.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(shard)) + "\n")
            built[shard.name] = shard
            text_bytes += shard.text_bytes
            rate = text_bytes / 1e6 / (time.monotonic() - start)
            bar.set_postfix_str(f"{rate:.1f} MB of text/s", refresh=False)
            bar.update(sizes[shard.name])
    return built


def _plan(corpus: Corpus, options: BuildOptions, records_dir: Path) -> list[ShardTask]:
    """Gives each shard its part of the corpus: as many sources in a row as the others."""
    sources = corpus.sources
    count = min(options.num_out_files, len(sources))
    bounds = [index * len(sources) // count for index in range(count + 1)]
    return [
        ShardTask(
            index,
            str(records_dir / shard_name(index, count)),
            sources[bounds[index] : bounds[index + 1]],
        )
        for index in range(count)
    ]


def _with_contents(tasks: list[ShardTask], corpus: Corpus) -> Iterator[ShardTask]:
    """Reads the sources of a compressed tar, which is possible in their order only."""
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


def _finished_shards(records_dir: Path, identity: dict) -> dict[str, Shard] | None:
    """Returns the shards an earlier run finished, by name; None where all were.

    Raises:
        InputError: the folder holds records of other options, or damaged ones.
    """
    try:
        if (records_dir / METADATA_FILE).exists():
            found = json.loads((records_dir / METADATA_FILE).read_text())["options"]
            entries = None
        elif (records_dir / PROGRESS_FILE).exists():
            lines = (records_dir / PROGRESS_FILE).read_text().splitlines(keepends=True)
            found = json.loads(lines[0])
            entries = [Shard(**json.loads(line)) for line in lines[1:] if line.endswith("\n")]
        elif any(records_dir.glob(f"{SHARD_PREFIX}*")):
            found, entries = {}, None
        else:
            return {}
    except (ValueError, TypeError, KeyError, IndexError):
        found, entries = {}, None
    different = [name for name, value in identity.items() if found.get(name) != value]
    if different:
        listing = ", ".join(
            f"{name} {found.get(name)!r} there, {identity[name]!r} asked for" for name in different
        )
        if not found:
            listing = "it is not known of which options"
        raise InputError(
            f"{records_dir} already holds other records ({listing}). Use --overwrite to replace "
            "them, or another --data-dir."
        )
    if entries is None:
        load_metadata(records_dir)  # complains of shards that are missing or were cut
        return None
    return {
        shard.name: shard
        for shard in entries
        if (records_dir / shard.name).exists()
        and (records_dir / shard.name).stat().st_size == shard.bytes
    }


def _start_folder(records_dir: Path, identity: dict, finished: dict[str, Shard]) -> None:
    """Makes the folder, or clears it of all but finished shards, and notes the options in it."""
    records_dir.mkdir(parents=True, exist_ok=True)
    (records_dir / METADATA_FILE).unlink(missing_ok=True)
    entries = [identity, *map(dataclasses.asdict, finished.values())]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_text(records_dir / PROGRESS_FILE, lines)
    for path in records_dir.glob(f"{SHARD_PREFIX}*"):
        if path.name not in finished:
            path.unlink()


class _ThisProcess:
    """Builds shards in this process."""

    def __init__(self, options: BuildOptions):
        self._options = options
        self._tokenizer = LineTokenizer(options)
        self.vocabulary = self._tokenizer.vocabulary

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[Shard]:
        for task in tasks:
            yield build_shard(task, self._options, self._tokenizer)


class _Pool:
    """Builds shards in processes of their own.

    Python's pools wait for ever, or name no cause, when one of their processes is killed; here
    that is seen at once. If this process is killed, the others end at its closed connections.
    """

    def __init__(self, options: BuildOptions, num_processes: int):
        context = multiprocessing.get_context("spawn")
        self._processes = {}
        for index in range(num_processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, options, index > 0)
            process = context.Process(target=_worker_main, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process
        try:
            for connection in self._processes:
                self.vocabulary = self._receive(connection, "started")
        except InputError:
            self.close()
            raise

    def run(self, tasks: Iterator[ShardTask]) -> Iterator[Shard]:
        """Yields the shards as they are finished."""
        busy = {}
        idle = list(self._processes)
        for task in tasks:
            if not idle:
                for connection in multiprocessing.connection.wait(list(busy)):
                    yield self._receive(connection, f"built {busy.pop(connection)}")
                    idle.append(connection)
            connection = idle.pop()
            busy[connection] = task.path
            try:
                connection.send(task)
            except BrokenPipeError:
                self._receive(connection, f"built {task.path}")
        while busy:
            for connection in multiprocessing.connection.wait(list(busy)):
                yield self._receive(connection, f"built {busy.pop(connection)}")

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
            process.join()

    def _receive(self, connection, doing: str):
        try:
            result = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._processes[connection]
            process.join()
            raise InputError(
                f"a process ended with exit code {process.exitcode} while it {doing}"
                + (" (killed; often memory ran out)" if process.exitcode == -9 else "")
                + ". Finished shards are kept: run the same command again, with fewer "
                "--num-processes if memory is short."
            ) from error
        if isinstance(result, InputError):
            raise result
        return result


@contextlib.contextmanager
def _workers(options: BuildOptions, num_processes: int) -> Iterator[_ThisProcess | _Pool]:
    if num_processes == 1:
        yield _ThisProcess(options)
        return
    pool = _Pool(options, num_processes)
    try:
        yield pool
    finally:
        pool.close()


def _worker_main(
    connection: multiprocessing.connection.Connection, options: BuildOptions, quiet: bool
) -> None:
    """Builds the shards that come over the connection, until it closes."""
    if quiet:  # one process's warnings about the vocabulary are enough
        logging.set_verbosity(logging.ERROR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import tensorflow as tf

    # The processes are the parallelism.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        tokenizer = LineTokenizer(options)
        connection.send(tokenizer.vocabulary)
        while True:
            connection.send(build_shard(connection.recv(), options, tokenizer))
    except InputError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone


def _end_with_parent() -> None:
    """Ends this process once its parent was killed: its shard might come in the next run's way."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
