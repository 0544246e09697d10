"""Files of data sets on the Hugging Face hub, by addresses such as hf://datasets/OWNER/NAME/PATH.

PATH is a file, a folder or a pattern, and may be missing; `@REVISION` may follow NAME. The files
are downloaded into huggingface_hub's cache once, and are then read like any others.
"""

import functools
import glob
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from common.errors import InputError
from common.hub import errors_explained

SCHEME = "hf://"
_PREFIX = f"{SCHEME}datasets/"
_ADDRESS = re.compile(rf"{_PREFIX}[^/]+/[^/]+")


class Dataset(NamedTuple):
    """Downloaded files of a data set.

    Args:
        directory: where they are, under their names in the data set.
        names: the names of the files that were wanted, in order.
        others: names of the files that match the address and were not wanted.
        address: the address, without a revision.
        commit: the hash of the revision that was read.
    """

    directory: str
    names: list[str]
    others: list[str]
    address: str
    commit: str


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is an address on the hub, not a local path."""
    return os.fspath(path).startswith(SCHEME)


def fetch(address: str, is_wanted: Callable[[str], bool] = lambda name: True) -> Dataset:
    """Downloads the files at an address, unless they are in the cache.

    Raises:
        InputError: not the address of a data set, no such data set or revision, no access, or no
            connection.
    """
    from huggingface_hub import HfApi, HfFileSystem, snapshot_download

    if not _ADDRESS.match(address):
        raise InputError(f"{address}: expected {_PREFIX}OWNER/NAME/PATH")
    with errors_explained(f"read {address}", "data set"):
        system = HfFileSystem()
        place = system.resolve_path(address)
        commit = HfApi().dataset_info(place.repo_id, revision=place.revision).sha
        root = f"datasets/{place.repo_id}@{commit}"
        found = _matches(system, os.path.join(root, place.path_in_repo).rstrip("/"))
        names = sorted(name.removeprefix(f"{root}/") for name in found)
        wanted = [name for name in names if is_wanted(name)]
        directory = ""
        if wanted:
            patterns = [glob.escape(name) for name in wanted]
            options = {"repo_type": "dataset", "revision": commit, "allow_patterns": patterns}
            directory = snapshot_download(place.repo_id, **options)
    others = [name for name in names if name not in set(wanted)]
    without_revision = os.path.join(f"{_PREFIX}{place.repo_id}", place.path_in_repo).rstrip("/")
    return Dataset(directory, wanted, others, without_revision, commit)


@functools.cache
def fetch_file(address: str) -> str:
    """The local path of the one file at an address; see `fetch`."""
    found = fetch(address)
    if len(found.names) != 1:
        count = f"{len(found.names):,} files" if found.names else "no file"
        raise InputError(f"{address}: expected one file, found {count}")
    return os.path.join(found.directory, found.names[0])


def _matches(system, path):
    """The paths of all files at a path; if it does not exist, it is taken as a pattern."""
    if system.isfile(path):
        return [path]
    if system.isdir(path):
        return system.find(path)
    found = system.glob(path, detail=True)
    return {
        file
        for name, info in found.items()
        for file in ([name] if info["type"] == "file" else system.find(name))
    }
