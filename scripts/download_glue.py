"""Fetches GLUE's official files and puts them where finetune.py looks for them.

    python3 scripts/download_glue.py --data-dir DATA_DIR all
    python3 scripts/download_glue.py --data-dir DATA_DIR cola rte

Writes DATA_DIR/finetuning_data/CoLA/train.tsv and so on; "mnli" brings the diagnostic set along.
Every download is checked against a known size and SHA-256 before anything in it is used. A transfer
that was cut goes on where it stopped when the command is given again, and a task whose files are
all there is left as it is.
"""

import argparse
import dataclasses
import hashlib
import http.client
import io
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import bootstrap  # noqa: F401
from tqdm import tqdm

from common import errors, files
from common.errors import InputError
from data.tasks import glue

BASE_URL = "https://dl.fbaipublicfiles.com"
ATTEMPTS = 5  # transfers of one file that may be cut, one after the other
SECONDS_BETWEEN_ATTEMPTS = 2.0
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Source:
    """A file on the server: its path below the base URL, and what it must be."""

    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Download:
    """What fills one folder of finetuning_data: files to fetch, and the task that reads them."""

    task: str
    folder: str
    sources: tuple[Source, ...]


# Sizes and hashes are those that the `glue` data set of Hugging Face's datasets 1.x recorded.
DOWNLOADS = tuple(
    Download(task, folder, tuple(Source(*source) for source in sources))
    for task, folder, *sources in (
        ("cola", "CoLA",
         ("glue/data/CoLA.zip", 376_971,
          "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff")),
        ("sst", "SST-2",
         ("glue/data/SST-2.zip", 7_439_277,
          "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa")),
        # GLUE may not pass MRPC on: its texts are SentEval's, GLUE names the dev pairs.
        ("mrpc", "MRPC",
         ("senteval/senteval_data/msr_paraphrase_train.txt", 1_047_044,
          "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"),
         ("senteval/senteval_data/msr_paraphrase_test.txt", 441_275,
          "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"),
         ("glue/data/mrpc_dev_ids.tsv", 6_222,
          "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7")),
        ("sts", "STS-B",
         ("glue/data/STS-B.zip", 802_872,
          "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85")),
        ("qqp", "QQP",
         ("glue/data/QQP-clean.zip", 41_696_084,
          "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0")),
        ("mnli", "MNLI",
         ("glue/data/MNLI.zip", 312_783_507,
          "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633")),
        ("mnli", "diagnostic",
         ("glue/data/AX.tsv", 222_257,
          "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd")),
        ("qnli", "QNLI",
         ("glue/data/QNLIv2.zip", 10_627_589,
          "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5")),
        ("rte", "RTE",
         ("glue/data/RTE.zip", 697_150,
          "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee")),
        ("wnli", "WNLI",
         ("glue/data/WNLI.zip", 28_999,
          "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46")),
    )
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Fetches and lays out what is missing of each task asked for; one's failure stops no other."""
    args = parse_arguments(arguments)
    names = list(glue.TASKS) if "all" in args.tasks else args.tasks
    tasks = {glue.get_task(name).name for name in names}
    if not os.path.isdir(args.data_dir):
        raise InputError(f"the folder {args.data_dir} does not exist")
    if not args.base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url: expected http://… or https://…, got {args.base_url}")
    directory = os.path.join(args.data_dir, "finetuning_data")
    failures = []
    for download in DOWNLOADS:
        if download.task in tasks:
            try:
                print(complete(download, directory, args.base_url))
            except InputError as error:
                failures.append(str(error))
    if failures:
        raise InputError("\n".join(failures))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", help=f'{", ".join(glue.TASKS)}; or "all"')
    parser.add_argument("--data-dir", required=True, help="holds finetuning_data/")
    parser.add_argument(
        "--base-url", default=BASE_URL, help="a mirror with the same paths (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def complete(download: Download, directory: str, base_url: str) -> str:
    """Fetches and lays out one folder's files unless they are all there; says what was done."""
    folder = os.path.join(directory, download.folder)
    parts = [
        os.path.join(folder, f"{os.path.basename(source.path)}.part") for source in download.sources
    ]
    outcome = "already there"
    if missing_splits(download, directory):
        os.makedirs(folder, exist_ok=True)
        try:
            for source, part in zip(download.sources, parts, strict=True):
                fetch(source, base_url, part)
        except InputError as error:
            raise InputError(
                f"{error}. The task's .tsv files, put into {folder} by hand, will do, too"
            ) from None
        outcome = ", ".join(lay_out(download, parts, folder)) or "nothing new"
        missing = missing_splits(download, directory)
        if missing:
            raise InputError(f"{folder}: the download has no file for {', '.join(missing)}")
    for part in parts:
        if os.path.exists(part):
            os.remove(part)
    return f"{folder}: {outcome}"


def lay_out(download: Download, parts: list[str], folder: str) -> list[str]:
    """Writes the .tsv files that the downloads hold and `folder` lacks; returns their names."""
    written = []
    for name, stream in UNPACKERS.get(download.folder, read_zip)(parts, download.folder):
        path = os.path.join(folder, name)
        if os.path.exists(path):  # from an interrupted call, or the user's own
            continue
        try:
            with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}. What was fetched is kept: run the same "
                "command again once there is room"
            ) from error
        written.append(name)
    return written


def missing_splits(download: Download, directory: str) -> list[str]:
    """The splits of this folder that finetune.py would not find."""
    task = glue.get_task(download.task)
    if download.folder == "diagnostic":
        splits = ["diagnostic"]
    else:
        splits = ["train", "dev", *task.more_dev_splits, *task.test_splits]
        splits = [split for split in splits if split != "diagnostic"]
    return [split for split in splits if not any(map(os.path.isfile, task.paths(directory, split)))]


def fetch(source: Source, base_url: str, part: str) -> None:
    """Downloads a file, or what `part` lacks of it, to `part`, and verifies it.

    Raises:
        InputError: the server cannot be reached, has no such file or another one, or the transfer
            was cut too often. What has arrived stays, unless it is wrong.
    """
    url = f"{base_url.rstrip('/')}/{source.path}"
    name = os.path.basename(source.path)
    with tqdm(total=source.size, desc=name, unit="B", unit_scale=True) as bar:
        for attempt in range(ATTEMPTS):
            if size_of(part) >= source.size:
                break
            if attempt:
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
            problem = transfer(url, part, source.size, bar)
    if size_of(part) < source.size:
        raise InputError(
            f"{url}: the transfer was cut {ATTEMPTS} times, at last after {size_of(part):,} of "
            f"{source.size:,} bytes ({problem}). The same command goes on from there"
        )
    with open(part, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != source.sha256:
        size = size_of(part)
        os.remove(part)
        raise InputError(
            f"{url}: not the file that is known: expected {source.size:,} bytes with the SHA-256 "
            f"{source.sha256}, got {size:,} with {sha256}. {part} was removed: give the "
            "command again, or another --base-url"
        )


def transfer(url: str, part: str, size: int, bar: tqdm) -> str:
    """Requests what `part` lacks of `size` bytes and appends it; returns why the transfer ended."""
    bar.n = start = size_of(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response, open(part, "ab") as file:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                bar.n = start = 0  # the server sends the whole file, whatever was asked for
            length = int(response.headers.get("Content-Length", size - start))
            if start + length != size:
                raise InputError(
                    f"{url}: not the file that is known: expected {size:,} bytes, the server has "
                    f"{start + length:,}"
                )
            file.truncate(start)
            # One byte too many is enough to see that it is another file.
            while bar.n <= size and (chunk := response.read(CHUNK)):
                file.write(chunk)
                bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code} {error.reason}"
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            os.remove(part)  # the server's file ends before: begin again
        elif error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InputError(f"{url}: {problem}") from None
        return problem
    except urllib.error.URLError as error:
        raise InputError(f"{url} cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return "the connection was closed"


def size_of(path: str) -> int:
    """A file's size; 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def read_zip(paths: list[str], folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """The .tsv files that an archive has directly in `folder`, by name.

    "train.tsv" is the last of them in every task: if it is there, then so are the others.
    """
    with zipfile.ZipFile(paths[0]) as archive:
        members = sorted(archive.namelist())
        for member in members:
            path = PurePosixPath(member)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f'{paths[0]}: "{member}" in the archive would leave its folder')
        for member in members:
            path = PurePosixPath(member)
            if path.parent == PurePosixPath(folder) and path.suffix == ".tsv":
                with archive.open(member) as stream:
                    yield path.name, stream


def split_mrpc(paths: list[str], _folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """GLUE's three files out of the corpus's two and the list of dev pairs.

    As the public GLUE scripts do it: the rows of train and dev stay as they are, in their order;
    a test row has its number in the place of its label.
    """
    contents = [Path(path).read_bytes() for path in paths]
    train, test, dev_ids = (
        content.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n") for content in contents
    )
    dev_pairs = {tuple(line.split(b"\t")) for line in dev_ids}
    header, *rows = train
    split = {True: [header], False: [header]}
    for row in rows:
        split[tuple(row.split(b"\t")[1:3]) in dev_pairs].append(row)
    numbered = [b"%d\t%b" % (i, row.split(b"\t", 1)[1]) for i, row in enumerate(test[1:])]
    header = b"index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for name, lines in (
        ("dev.tsv", split[True]), ("test.tsv", [header, *numbered]), ("train.tsv", split[False])
    ):  # fmt: skip
        yield name, io.BytesIO(b"\n".join(lines) + b"\n")


def rename_diagnostic(paths: list[str], _folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """The diagnostic set under the name that finetune.py looks for."""
    with open(paths[0], "rb") as stream:
        yield "diagnostic.tsv", stream


# What turns a folder's downloads into its .tsv files; everything else is a zip.
UNPACKERS = {"MRPC": split_mrpc, "diagnostic": rename_diagnostic}


if __name__ == "__main__":
    errors.run(main)
