"""Downloads GLUE's official files and puts them where finetune.py looks for them.

    python3 scripts/download_glue.py --data-dir DATA_DIR all
    python3 scripts/download_glue.py --data-dir DATA_DIR cola rte
    python3 scripts/download_glue.py --data-dir DATA_DIR --source hub cola rte

Writes DATA_DIR/finetuning_data/CoLA/train.tsv and so on; "mnli" includes the diagnostic set. Every
download must have the size and SHA-256 listed in scripts/glue_files.tsv. With --source hub, the
files are made from GLUE's copy on the Hugging Face hub (nyu-mll/glue), which must have GLUE's
number of rows; columns that no task reads are empty. Existing files are kept, and a task that has
all its files is not downloaded.
"""

import argparse
import csv
import http.client
import io
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import bootstrap  # noqa: F401

from common import errors, files
from common.console import progress_bar
from common.errors import InputError
from common.lock import locked
from data.tasks import glue, glue_hub

BASE_URL = "https://dl.fbaipublicfiles.com"
ATTEMPTS = 5
SECONDS_BETWEEN_ATTEMPTS = 2.0
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20
# Sizes and hashes are those that the `glue` data set of Hugging Face's datasets 1.x recorded.
FILES = Path(__file__).with_name("glue_files.tsv")


class RemoteFile(NamedTuple):
    """A file on the server: its path below the base URL, and its expected size and hash."""

    path: str
    size: int
    sha256: str


class Download(NamedTuple):
    """A folder of finetuning_data: the task that reads it, and the files it is made from."""

    task: str
    folder: str
    remote_files: tuple[RemoteFile, ...]


def main(arguments: list[str] | None = None) -> None:
    """Downloads the missing files of each task; a task that fails does not stop the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", help=f'{", ".join(glue.TASKS)}; or "all"')
    parser.add_argument("--data-dir", required=True, help="holds finetuning_data/")
    parser.add_argument(
        "--source",
        choices=("glue", "hub"),
        default="glue",
        help="GLUE's own server, or its copy on the Hugging Face hub (default: %(default)s)",
    )
    parser.add_argument(
        "--base-url", default=BASE_URL, help="a mirror of GLUE's server (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    names = list(glue.TASKS) if "all" in args.tasks else args.tasks
    tasks = {glue.get_task(name).name for name in names}
    if not os.path.isdir(args.data_dir):
        raise InputError(f"--data-dir: {args.data_dir} does not exist")
    if not args.base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url: expected http://… or https://…, got {args.base_url}")
    directory = os.path.join(args.data_dir, "finetuning_data")
    base_url = args.base_url if args.source == "glue" else None
    failures = []
    for download in [each for each in read_downloads(FILES) if each.task in tasks]:
        try:
            print(complete(download, directory, base_url))
        except InputError as error:
            failures.append(str(error))
    if failures:
        raise InputError("\n".join(failures))


def read_downloads(path: Path) -> list[Download]:
    """The table of files, grouped by folder."""
    folders: dict[tuple[str, str], list[RemoteFile]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            remote_file = RemoteFile(row["path"], int(row["bytes"]), row["sha256"])
            folders.setdefault((row["task"], row["folder"]), []).append(remote_file)
    return [Download(*key, tuple(remote_files)) for key, remote_files in folders.items()]


def complete(download: Download, directory: str, base_url: str | None) -> str:
    """Downloads a folder's files unless it has them; returns a line for the user.

    They come from `base_url` or, if it is None, from the copy on the hub.
    """
    folder = os.path.join(directory, download.folder)
    if not missing_splits(download, directory):
        return f"{folder}: already there"
    try:
        with (
            locked(os.path.join(folder, ".download.lock"), folder, "Wait until it ends"),
            files.temporary_directory(folder) as temporary,
        ):
            if base_url is None:
                task, splits = glue.get_task(download.task), splits_of(download)
                opened = glue_hub.make_files(task, download.folder, splits)
            else:
                opened = fetch_files(download, base_url, temporary)
            written = write_files(opened, folder)
    except InputError as error:
        raise InputError(
            f"{error}. You can also put the task's .tsv files into {folder} yourself"
        ) from None
    if missing := missing_splits(download, directory):
        raise InputError(f"{folder}: the download has no file for {', '.join(missing)}")
    return f"{folder}: {', '.join(written)}"


def splits_of(download: Download) -> list[str]:
    """The splits that are in this folder."""
    splits = glue.NUM_EXAMPLES[download.task]
    return [s for s in splits if (s == "diagnostic") == (download.folder == "diagnostic")]


def missing_splits(download: Download, directory: str) -> list[str]:
    """The splits of this folder that finetune.py would not find."""
    task = glue.get_task(download.task)
    return [
        split
        for split in splits_of(download)
        if not any(map(os.path.isfile, task.paths(directory, split)))
    ]


def fetch_files(
    download: Download, base_url: str, directory: str
) -> Iterator[tuple[str, BinaryIO]]:
    """The files from GLUE's own server; downloads go to `directory`."""
    paths = [fetch(each, base_url, directory) for each in download.remote_files]
    if download.folder == "MRPC":
        yield from split_mrpc(paths)
    elif download.folder == "diagnostic":
        with open(paths[0], "rb") as stream:
            yield "diagnostic.tsv", stream  # the name that finetune.py looks for
    else:
        yield from read_zip(paths[0], download.folder)


def fetch(remote_file: RemoteFile, base_url: str, directory: str) -> str:
    """Downloads a file into `directory` and verifies it; returns its path."""
    url = f"{base_url.rstrip('/')}/{remote_file.path}"
    path = os.path.join(directory, os.path.basename(remote_file.path))
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
        problem = transfer(url, path, remote_file.size)
        if problem is None:
            break
    else:
        raise InputError(f"{url}: {ATTEMPTS} attempts failed; the last one: {problem}")
    size, sha256 = os.path.getsize(path), files.sha256_of(path)
    if (size, sha256) != (remote_file.size, remote_file.sha256):
        raise InputError(
            f"{url}: expected {remote_file.size:,} bytes with the SHA-256 {remote_file.sha256}, "
            f"got {size:,} with {sha256}. Try again, or another --base-url"
        )
    return path


def transfer(url: str, path: str, size: int) -> str | None:
    """Downloads a file; returns a problem that may be temporary, or None."""
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,
            open(path, "wb") as file,
            progress_bar(size, os.path.basename(path), unit="B", unit_scale=True) as bar,
        ):
            # A file that is larger than expected is not read to its end.
            while bar.n <= size and (chunk := response.read(CHUNK)):
                with files.write_errors_named(path):
                    file.write(chunk)
                bar.update(len(chunk))
            is_cut = bar.n <= size and response.length
            return f"the connection was closed after {bar.n:,} bytes" if is_cut else None
    except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code} {error.reason}"
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InputError(f"{url}: {problem}") from None
        return problem
    except urllib.error.URLError as error:
        raise InputError(f"{url}: cannot reach the server: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def write_files(opened: Iterable[tuple[str, BinaryIO]], folder: str) -> list[str]:
    """Writes the files that are not in `folder`; returns their names."""
    written = []
    for file_name, stream in opened:
        path = os.path.join(folder, file_name)
        if os.path.exists(path):  # from an interrupted call, or put there by the user
            continue
        with (
            files.write_errors_named(path),
            files.atomic_path(path) as temporary,
            open(temporary, "wb") as file,
        ):
            shutil.copyfileobj(stream, file)
        written.append(file_name)
    return written


def read_zip(path: str, name: str) -> Iterator[tuple[str, BinaryIO]]:
    """The .tsv files that are directly in the folder `name` of an archive.

    "train.tsv" sorts last in every task: if it exists, so do the others.
    """
    with zipfile.ZipFile(path) as archive:
        members = [PurePosixPath(member) for member in sorted(archive.namelist())]
        for member in members:
            if member.is_absolute() or ".." in member.parts:
                raise InputError(f"{path}: the archive has a file outside its folder: {member}")
        for member in members:
            if member.parent == PurePosixPath(name) and member.suffix == ".tsv":
                with archive.open(str(member)) as stream:
                    yield member.name, stream


def split_mrpc(paths: list[str]) -> Iterator[tuple[str, BinaryIO]]:
    """GLUE's three files, from the corpus's two and the list of dev pairs.

    GLUE may not distribute MRPC: its texts come from SentEval, and GLUE lists the dev pairs. As in
    the public GLUE scripts, the rows of train and dev are unchanged and keep their order; a test
    row has its number instead of its label.
    """
    train, test, dev_ids = (
        Path(path).read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n") for path in paths
    )
    dev_pairs = {tuple(line.split(b"\t")) for line in dev_ids}
    header, *rows = train
    in_dev = [tuple(row.split(b"\t")[1:3]) in dev_pairs for row in rows]
    splits = {
        "dev": [header, *(row for row, is_dev in zip(rows, in_dev, strict=True) if is_dev)],
        "test": [b"index\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        + [b"%d\t%b" % (i, row.split(b"\t", 1)[1]) for i, row in enumerate(test[1:])],
        "train": [header, *(row for row, is_dev in zip(rows, in_dev, strict=True) if not is_dev)],
    }
    for split, lines in splits.items():
        yield f"{split}.tsv", io.BytesIO(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    errors.run(main)
