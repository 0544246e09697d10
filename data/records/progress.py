"""What a build has finished so far, noted in the directory of its records.

Whoever builds shards has a file of its own there, so that no two processes write to the same one:
a line with the options of the build (`BuildOptions.identity`), then one for each finished shard.
`metadata.json` replaces these files when all shards are there.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import InputError
from common.files import TEMPORARY_SUFFIX, write_text
from common.lock import locked
from data.records.metadata import (
    METADATA_FILE,
    PROGRESS_FILE,
    SHARD_PREFIX,
    Shard,
    load_metadata,
    progress_files,
    shard_files,
)
from data.records.shard_io import write_errors

# Shards, and what a killed process left of one.
_BUILT = re.compile(
    rf"(?P<leftover>\.)?{SHARD_PREFIX}\d+-of-\d+(?(leftover)\..*{re.escape(TEMPORARY_SUFFIX)})"
)


def lock(
    records_dir: Path, part: str = "", shared: bool = False
) -> contextlib.AbstractContextManager:
    """A context in which no other build writes to the directory, or only others that share it.

    With `part`, it is only for builds of that part. See `common.lock.locked`.
    """
    file = f".build-{part}.lock" if part else ".build.lock"
    what = f"{records_dir}, part {part}," if part else str(records_dir)
    return locked(records_dir / file, what, "Wait until it ends, or end it.", shared)


def finished_shards(records_dir: Path, identity: dict) -> dict[str, Shard] | None:
    """Returns the shards that earlier builds finished, by name; None if all are in metadata.json.

    Raises:
        InputError: the directory holds records of other options, or damaged ones.
    """
    has_shards = bool(shard_files(records_dir))  # first: what builds them notes its options before
    metadata_file, files = records_dir / METADATA_FILE, progress_files(records_dir)
    if metadata_file.exists():
        content = _parse(metadata_file.read_text(errors="replace"))
        _check_options(records_dir, content.get("options"), identity)
        load_metadata(records_dir)  # checks the shards
        return None
    if has_shards and not files:
        _check_options(records_dir, None, identity)
    shards = {}
    for path in files:
        options, *lines = map(_parse, path.read_text(errors="replace").split("\n"))
        _check_options(records_dir, options, identity)
        for line in filter(None, lines):  # the last is cut if the build was killed
            with contextlib.suppress(TypeError):
                shard = Shard(**line)
                shards[shard.name] = shard
    # Of these alone: what other parts are writing gets another name at any time.
    entries = (entry for entry in _entries(records_dir) if entry.name in shards)
    sizes = {entry.name: entry.stat().st_size for entry in entries}
    return {name: shard for name, shard in shards.items() if sizes.get(name) == shard.bytes}


def options_of(path: Path) -> dict:
    """The options in a file of a build."""
    with path.open() as file:
        return json.loads(file.readline())


def begin(path: Path, identity: dict, finished: Iterable[Shard] = ()) -> None:
    """Writes the file of one that builds, with the shards that are finished already."""
    entries = [identity, *map(dataclasses.asdict, finished)]
    with write_errors(path):
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def add(path: Path, shard: Shard) -> None:
    """Adds a finished shard to the file of the one that built it."""
    with write_errors(path), path.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(shard)) + "\n")


def start_directory(records_dir: Path, identity: dict, finished: dict[str, Shard]) -> None:
    """Creates the directory, or removes all but the finished shards, and notes the options."""
    with write_errors(records_dir):
        records_dir.mkdir(parents=True, exist_ok=True)
        (records_dir / METADATA_FILE).unlink(missing_ok=True)
        begin(records_dir / PROGRESS_FILE, identity, finished.values())
        remove_files(records_dir, but=PROGRESS_FILE)
        for entry in list(_entries(records_dir)):
            if _BUILT.fullmatch(entry.name) and entry.name not in finished:
                os.unlink(entry)


def remove_files(records_dir: Path, but: str | None = None) -> None:
    """Removes the files about what is finished, one excepted."""
    for path in progress_files(records_dir):
        if path.name != but:
            path.unlink()


def _entries(records_dir: Path) -> Iterator[os.DirEntry]:
    if records_dir.is_dir():
        with os.scandir(records_dir) as entries:
            yield from entries


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
