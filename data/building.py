"""Building the records: a corpus is cut into shards, and processes turn each into a file.

`build_shard` is the unit of work: what it writes depends on the shard's index, its part of the
corpus and the options, so it makes no difference who runs it, when, or how many run at once.
"""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from data.corpus import Corpus, Source, read_lines
from data.examples import MIN_TARGET_LENGTH, SEGMENT_RULES, ExampleBuilder
from data.records import (
    METADATA_FILE,
    PROGRESS_FILE,
    RECORD_FORMATS,
    SHARD_PREFIX,
    RecordsMetadata,
    Shard,
    ShardWriter,
    id_type,
    shard_name,
    write_atomically,
)
from errors import InputError

TOKENIZER_BATCH_BYTES = 1 << 19


@dataclass(frozen=True)
class BuildOptions:
    """All that decides, with the corpus, what the shards hold."""

    vocab_file: str
    max_seq_length: int = 128
    do_lower_case: bool = True
    strip_accents: bool = True
    segment_rule: str = "electra"
    carry_over: bool = True
    record_format: str = "compact"
    seed: int = 42
    num_out_files: int = 1000
    """At most so many shards: one holds at least an archive, or a range of a text file."""

    def __post_init__(self):
        for name, least in (
            ("max_seq_length", MIN_TARGET_LENGTH),
            ("num_out_files", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(
                    f"`{name}` must be at least {least}. Received: {getattr(self, name)}"
                )
        for name, allowed in (("segment_rule", SEGMENT_RULES), ("record_format", RECORD_FORMATS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"`{name}` must be one of {', '.join(allowed)}. "
                    f"Received: {getattr(self, name)!r}"
                )

    def identity(self, corpus: Corpus) -> dict:
        """Returns what two builds must share to give the same shards."""
        options = dataclasses.asdict(self)
        try:
            vocabulary = Path(options.pop("vocab_file")).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {self.vocab_file}: {error.strerror}."
            ) from error
        files = "".join(f"{source.name}\t{source.size}\n" for source in corpus.sources)
        return options | {
            "vocab_file_sha256": hashlib.sha256(vocabulary).hexdigest(),
            "corpus": corpus.path.name,
            "corpus_files_sha256": hashlib.sha256(files.encode()).hexdigest(),
        }


@dataclass(frozen=True)
class ShardTask:
    """A shard to build."""

    index: int
    path: str
    """The file to write."""
    sources: list[Source]
    contents: list[bytes] | None = None
    """The bytes of the sources, where the corpus is a compressed tar."""

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name


class LineTokenizer:
    """Tokenizes many lines in one call; made once in a process.

    Attributes:
        vocabulary: the fields of `RecordsMetadata` on the vocabulary.
        id_type: NumPy type of the ids.
        cls_id, sep_id, unk_id: special tokens.
    """

    def __init__(self, options: BuildOptions):
        import tensorflow as tf

        from data.tokenizer import ConvBertTokenizer

        tokenizer = ConvBertTokenizer(
            options.vocab_file, options.do_lower_case, options.strip_accents
        )
        self.vocabulary = {
            name: getattr(tokenizer, name)
            for name in ("vocab_size", "vocab_sha256", "do_lower_case", "strip_accents")
        }
        self.id_type = id_type(tokenizer.vocab_size)
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        self.unk_id = tokenizer.unk_id

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def tokenize(text):
            ids = tokenizer.tokenize(tf.strings.split(text, "\n"))
            return ids.flat_values, ids.row_splits

        self._tokenize = tokenize

    def __call__(self, lines: list[bytes]) -> tuple[np.ndarray, list[int]]:
        """Returns the ids of all lines, one after the other, and where each begins and ends.

        Args:
            lines: n lines, without line ends and none of them empty.

        Returns:
            ids [tokens] and n + 1 offsets into them.
        """
        ids, offsets = self._tokenize(b"\n".join(lines))
        return ids.numpy().astype(self.id_type), offsets.numpy().tolist()


def build_shard(task: ShardTask, options: BuildOptions, tokenizer: LineTokenizer) -> Shard:
    """Writes a shard and returns what it holds."""
    builder = ExampleBuilder(
        options.max_seq_length,
        tokenizer.cls_id,
        tokenizer.sep_id,
        random.Random(f"{options.seed} {task.index}"),
        options.segment_rule,
        options.carry_over,
        tokenizer.id_type,
    )
    documents = text_bytes = text_tokens = unknown_tokens = 0
    examples = tokens = full_examples = two_segment_examples = 0
    with ShardWriter(task.path, options.record_format, options.max_seq_length) as writer:
        for items in _batched_lines(task):
            lines = [line for line in items if line is not None]
            documents += len(items) - len(lines)
            if not lines:
                ids, offsets = np.empty(0, tokenizer.id_type), [0]
            else:
                ids, offsets = tokenizer(lines)
            text_bytes += sum(map(len, lines))
            text_tokens += len(ids)
            unknown_tokens += int(np.count_nonzero(ids == tokenizer.unk_id))
            row = 0
            for line in items:
                if line is None:
                    finished = builder.end_document()
                else:
                    finished = builder.add_line(ids[offsets[row] : offsets[row + 1]])
                    row += 1
                for example in finished:
                    writer.write(*example)
                    examples += 1
                    tokens += len(example.ids)
                    full_examples += len(example.ids) == options.max_seq_length
                    two_segment_examples += example.first_length < len(example.ids)
    return Shard(
        name=task.name,
        bytes=os.path.getsize(task.path),
        examples=examples,
        tokens=tokens,
        full_examples=full_examples,
        two_segment_examples=two_segment_examples,
        documents=documents,
        text_bytes=text_bytes,
        text_tokens=text_tokens,
        unknown_tokens=unknown_tokens,
    )


def build_records(
    corpus: Corpus,
    options: BuildOptions,
    records_dir: str | os.PathLike,
    num_processes: int = 1,
    overwrite: bool = False,
) -> RecordsMetadata | None:
    """Builds the records of a corpus, or what is missing of them.

    A file in the folder notes the options and each finished shard; where a build was stopped, the
    next one with the same options goes on from there. `metadata.json` takes its place at the end.

    Args:
        corpus: from `data.corpus.find_corpus`.
        options: what to build.
        records_dir: the folder; made if need be.
        num_processes: 1 builds in this process.
        overwrite: remove records of other options that are there.

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
    with _workers(options, min(num_processes, max(1, len(remaining)))) as workers:
        # Only now is the vocabulary known to be usable; nothing was changed before.
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
        raise InputError(f"no text: the corpus {corpus.path} gave no examples.")
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
    with (
        (records_dir / PROGRESS_FILE).open("a") as file,
        tqdm(total=sum(sizes.values()), initial=kept, unit="B", unit_scale=True) as bar,
    ):
        for shard in shards:
            file.write(json.dumps(dataclasses.asdict(shard)) + "\n")
            file.flush()
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


def _batched_lines(task: ShardTask) -> Iterator[list[bytes | None]]:
    """Gathers lines, and None for each document's end, to a size that keeps TensorFlow busy."""
    batch, size = [], 0
    for index, source in enumerate(task.sources):
        for line in read_lines(source, task.contents[index] if task.contents else None):
            batch.append(line)
            size += len(line) if line is not None else 0
            if size >= TOKENIZER_BATCH_BYTES:
                yield batch
                batch, size = [], 0
    yield batch


def _finished_shards(records_dir: Path, identity: dict) -> dict[str, Shard] | None:
    """Returns the shards an earlier run finished, by name; None where all were.

    Raises:
        InputError: the folder holds records of other options.
    """
    try:
        if (records_dir / METADATA_FILE).exists():
            found = json.loads((records_dir / METADATA_FILE).read_text())["options"]
            entries = None
        elif (records_dir / PROGRESS_FILE).exists():
            lines = (records_dir / PROGRESS_FILE).read_text().splitlines(keepends=True)
            found = json.loads(lines[0])
            entries = [json.loads(line) for line in lines[1:] if line.endswith("\n")]
        elif any(records_dir.glob(f"{SHARD_PREFIX}*")):
            found, entries = {}, None
        else:
            return {}
    except (ValueError, KeyError, IndexError):
        found, entries = {}, None
    different = [name for name, value in identity.items() if found.get(name, "unknown") != value]
    if different:
        listing = ", ".join(
            f"{name} {found.get(name, 'unknown')!r} there, {identity[name]!r} asked for"
            for name in different
        )
        raise InputError(
            f"{records_dir} already holds other records ({listing}). Use --overwrite to replace "
            "them, or another --data-dir."
        )
    if entries is None:
        return None
    shards = [Shard(**entry) for entry in entries]
    return {
        shard.name: shard
        for shard in shards
        if (records_dir / shard.name).exists()
        and (records_dir / shard.name).stat().st_size == shard.bytes
    }


def _start_folder(records_dir: Path, identity: dict, finished: dict[str, Shard]) -> None:
    """Makes the folder, or clears it of all but finished shards, and notes the options in it."""
    records_dir.mkdir(parents=True, exist_ok=True)
    (records_dir / METADATA_FILE).unlink(missing_ok=True)
    entries = [identity, *map(dataclasses.asdict, finished.values())]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_atomically(records_dir / PROGRESS_FILE, lines)
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
