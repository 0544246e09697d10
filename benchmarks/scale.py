"""`scale`: the cost of listing, planning and finishing for many files and shards.

The files are links to a few small files, and the shards are empty. So this measures only the work
of a build besides reading, tokenizing and writing. Only the first step lists the files; the other
steps get the result.
"""

import argparse
import functools
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.data import in_new_process
from common.files import write_text
from data.corpus.readers import ReadOptions, TextSource
from data.corpus.sources import Corpus, find_corpus
from data.records.build import Workers, build_part, build_records
from data.records.build_shard import BuildOptions, ShardTask
from data.records.command_line import BERT_VOCAB
from data.records.metadata import Shard, load_metadata
from data.records.options import Part

CONTENT = b"a document"
FILES_PER_FOLDER = 1000  # below the number of links to a file that file systems allow


def run(args: argparse.Namespace) -> None:
    """Measures each step in a process of its own, as steps run on a cluster."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), args.files)
        print("| step | CPU seconds | peak MB |\n|---|---|---|", flush=True)
        for name, step in steps(args.files, args.shards, args.parts).items():
            seconds, num_bytes = in_new_process(measure, step, Path(folder))
            print(f"| {name} | {seconds:.1f} | {num_bytes / 1e6:,.0f} |", flush=True)


def measure(step: Callable[[Path], object], folder: Path) -> tuple[float, int]:
    """CPU seconds and peak bytes of a step, whose process does nothing else."""
    begin = time.process_time()
    step(folder)
    seconds = time.process_time() - begin
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def names(num_files: int) -> Iterator[str]:
    """The names of the files, in their order."""
    for index in range(num_files):
        yield f"{index // FILES_PER_FOLDER:05d}/{index % FILES_PER_FOLDER:04d}.txt"


def make_files(folder: Path, num_files: int) -> None:
    """Makes the files below `folder`."""
    for index, name in enumerate(names(num_files)):
        path = folder / "corpus" / name
        if index % FILES_PER_FOLDER:
            os.link(path.with_name("0000.txt"), path)
        else:
            path.parent.mkdir(parents=True)
            path.write_bytes(CONTENT)


def steps(num_files: int, num_shards: int, num_parts: int) -> dict[str, Callable[[Path], object]]:
    """The steps of a build in their order, by name; each takes the folder of `make_files`."""
    options = BuildOptions(str(BERT_VOCAB), num_out_files=num_shards)
    parts = [Part(number, num_parts) for number in range(1, num_parts + 1)]
    step = functools.partial(build, num_files=num_files, options=options)
    built = {f"part {part}": functools.partial(step, part=part) for part in parts}
    finish = functools.partial(step, part=None)
    return {"list the files": find, **built, "finish": finish, "open the records": load}


def find(folder: Path) -> Corpus:
    """Lists the corpus."""
    return find_corpus(folder, folder / "corpus")


def as_found(folder: Path, num_files: int) -> Corpus:
    """Makes the result of `find` without reading the directory."""
    path, options = folder / "corpus", ReadOptions()
    sources = [
        TextSource(f"{path}/{name}", f"{name}:0", "text", 0, len(CONTENT), options=options)
        for name in names(num_files)
    ]
    return Corpus(path, sources, is_stream=False, read_options=options)


def build(folder: Path, num_files: int, options: BuildOptions, part: Part | None) -> None:
    """Builds a part, or finishes the build."""
    corpus, records_dir = as_found(folder, num_files), folder / "records"
    if part:
        build_part(corpus, options, records_dir, part, make_workers=make_workers)
    else:
        build_records(corpus, options, records_dir, make_workers=make_workers, finish_only=True)


def load(folder: Path) -> None:
    """Reads the records that were built."""
    load_metadata(folder / "records")


def make_workers(options: BuildOptions) -> Workers:
    """Workers that write empty shards, with counts like those of real ones."""

    def write(tasks: Iterator[ShardTask]) -> Iterator[Shard]:
        for task in tasks:
            write_text(task.path, "")
            counts = dict.fromkeys(("documents", "examples", "full_examples"), len(task.sources))
            yield Shard(task.name, 0, tokens=1 << 20, text_bytes=1 << 22, **counts)

    vocabulary = {"vocab_size": 30522, "do_lower_case": True, "strip_accents": True}
    return Workers(vocabulary | {"vocab_sha256": "0" * 64}, write)
