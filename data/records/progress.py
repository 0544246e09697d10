"""What a build has finished so far, noted in the directory of its records.

Each process that builds shards has its own progress file there: a line with the options of the
build (`BuildOptions.identity`), then one for each finished shard. In an object store, where nothing
can be added to a file, each shard has its own progress file. `metadata.json` replaces these files
when all shards are there.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path

from common import remote, remote_cache
from common.errors import InputError
from common.files import TEMPORARY_SUFFIX, write_text
from common.lock import locked
from common.remote import RemotePath
from data.records.metadata import (
    METADATA_FILE,
    PROGRESS_FILE,
    PROGRESS_PREFIX,
    SHARD_PREFIX,
    Shard,
    file_sizes,
    progress_files,
    read_metadata,
    shard_files,
)
from data.records.shard_io import write_errors

# Shards, and what a killed process left of one.
_BUILT = re.compile(
    rf"(?P<leftover>\.)?{SHARD_PREFIX}\d+-of-\d+(?(leftover)\..*{re.escape(TEMPORARY_SUFFIX)})"
)


def lock(
    records_dir: Path | RemotePath, part: str = "", shared: bool = False
) -> contextlib.AbstractContextManager:
    """Locks the directory, or with `part` that part of it; see `common.lock.locked`."""
    file = f".build-{part}.lock" if part else ".build.lock"
    what = f"{records_dir}, part {part}," if part else str(records_dir)
    directory = remote_cache.local_path(str(records_dir))  # no store has locks
    return locked(os.path.join(directory, file), what, "Wait until it ends, or end it.", shared)


def finished_shards(records_dir: Path | RemotePath, identity: dict) -> dict[str, Shard] | None:
    """Returns the shards that earlier builds finished, by name; None if all are in metadata.json.

    Raises:
        InputError: the directory holds records of other options, or damaged ones.
    """
    has_shards = bool(shard_files(records_dir))  # first: a build writes its options earlier
    metadata_file, files = records_dir / METADATA_FILE, progress_files(records_dir)
    if metadata_file.exists():
        content = _parse(metadata_file.read_text(errors="replace"))
        _check_options(records_dir, content.get("options"), identity)
        read_metadata(records_dir)  # checks the shards
        return None
    if has_shards and not files:
        _check_options(records_dir, None, identity)
    shards = {}
    with futures.ThreadPoolExecutor() as pool:
        texts = pool.map(lambda path: path.read_text(errors="replace"), files)
    for text in texts:
        options, *lines = map(_parse, text.split("\n"))
        _check_options(records_dir, options, identity)
        for line in filter(None, lines):  # the last line is cut if the build was killed
            with contextlib.suppress(TypeError):
                shard = Shard(**line)
                shards[shard.name] = shard
    sizes = file_sizes(records_dir)
    return {name: shard for name, shard in shards.items() if sizes.get(name) == shard.bytes}


def options_of(path: Path | RemotePath) -> dict:
    """The options in a progress file."""
    return json.loads(path.read_text().partition("\n")[0])


def begin(path: Path | RemotePath, identity: dict, finished: Iterable[Shard] = ()) -> None:
    """Begins a progress file, with the shards that are finished already."""
    entries = [identity, *map(dataclasses.asdict, finished)]
    with write_errors(path):
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def add(path: Path | RemotePath, shard: Shard) -> None:
    """Adds a finished shard to a progress file."""
    if remote.is_url(path):
        number = shard.name.removeprefix(SHARD_PREFIX).replace("-of-", "_of_")
        begin(path.with_name(f"{PROGRESS_PREFIX}-shard_{number}.jsonl"), options_of(path), [shard])
        return
    with write_errors(path), path.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(shard)) + "\n")


def start_directory(
    records_dir: Path | RemotePath, identity: dict, finished: dict[str, Shard]
) -> None:
    """Creates the directory, or removes all but the finished shards, and notes the options."""
    with write_errors(records_dir):
        records_dir.mkdir(parents=True, exist_ok=True)
        (records_dir / METADATA_FILE).unlink(missing_ok=True)
        begin(records_dir / PROGRESS_FILE, identity, finished.values())
        remove_files(records_dir, but=PROGRESS_FILE)
        names = file_sizes(records_dir).keys() - finished.keys()
        _remove(records_dir / name for name in names if _BUILT.fullmatch(name))


def remove_files(records_dir: Path | RemotePath, but: str | None = None) -> None:
    """Removes all progress files but one."""
    _remove(path for path in progress_files(records_dir) if path.name != but)


def _remove(paths):
    paths = list(paths)
    remote.remove([str(path) for path in paths if remote.is_url(path)])
    for path in paths:
        if not remote.is_url(path):
            path.unlink()


def _parse(text: str) -> dict:
    """The JSON object in a text; empty if it is another text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_options(records_dir, options, identity):
    options = options if isinstance(options, dict) else {}
    if different := [name for name, value in identity.items() if options.get(name) != value]:
        pairs = [f"{name} {options.get(name)!r} != {identity[name]!r}" for name in different]
        listing = ", ".join(pairs) if options else "their options are unknown"
        raise InputError(
            f"{records_dir} holds records that were built with other options ({listing}). Replace "
            "them with --overwrite, or use another --data-dir."
        )
