"""A directory of pre-training records: its shards and its `metadata.json`.

`metadata.json` is written last, so a directory that has it is complete.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from common import remote, remote_cache
from common.errors import InputError
from common.files import read_json_object, write_json
from common.remote import RemotePath
from data.corpus.readers import MAX_LISTED
from data.records.options import RECORD_FORMATS
from data.records.shard_io import FEATURES, find_damage, gzip_hint, record_offsets, write_errors

METADATA_FILE = "metadata.json"
PROGRESS_PREFIX = "build_progress"
PROGRESS_FILE = f"{PROGRESS_PREFIX}.jsonl"
SHARD_PREFIX = "pretrain_data.tfrecord-"
# What `RecordsMetadata` records about a tokenizer.
TOKENIZER_FIELDS = ("vocab_size", "vocab_sha256", "do_lower_case", "strip_accents")


def file_sizes(records_dir: Path | RemotePath) -> dict[str, int]:
    """The files in a directory, here or in a store, and their bytes; none if it does not exist."""
    if isinstance(records_dir, RemotePath):
        found = remote.list_files(records_dir.url)
        return {name: file.size for name, file in found.items() if "/" not in name}
    if not records_dir.is_dir():
        return {}
    sizes = {}
    with os.scandir(records_dir) as entries:
        for entry in entries:
            # Files that other processes are writing can be renamed at any time.
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name] = entry.stat().st_size
    return sizes


def shard_files(records_dir: Path | RemotePath) -> list[Path | RemotePath]:
    """The shards in a directory, by name; warns of files with other endings, such as copies."""
    found = sorted(records_dir.glob(f"{SHARD_PREFIX}*"))
    shards = [path for path in found if re.fullmatch(rf"{SHARD_PREFIX}\d+-of-\d+", path.name)]
    if others := sorted({path.name for path in found} - {path.name for path in shards}):
        logging.warning("%s: unknown names, not read: %s", records_dir, ", ".join(others[:10]))
    return shards


def progress_files(records_dir: Path | RemotePath) -> list[Path | RemotePath]:
    """The files in a directory that say which shards are finished: see `data.records.progress`."""
    return sorted(records_dir.glob(f"{PROGRESS_PREFIX}*.jsonl"))


def shard_name(index: int, num_shards: int) -> str:
    """Names a shard as the original does."""
    return f"{SHARD_PREFIX}{index:05d}-of-{num_shards:05d}"


@dataclass(frozen=True)
class Shard:
    """What a shard holds. The counts of text are 0 if they are unknown."""

    name: str
    bytes: int
    examples: int
    tokens: int = 0
    """Tokens in the examples, including special tokens."""
    full_examples: int = 0
    """Examples of exactly `max_seq_length` tokens."""
    two_segment_examples: int = 0
    documents: int = 0
    text_bytes: int = 0
    text_tokens: int = 0
    unknown_tokens: int = 0
    """How many of `text_tokens` are [UNK]."""
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Skipped documents and files: reason → number."""
    skipped_listed: list[list[str]] = dataclasses.field(default_factory=list, compare=False)
    """The first of them: file, where in it, reason. `metadata.json` has one such list for all."""
    sha256: str = ""
    """Of the file; empty if an older version wrote it."""


@dataclass(frozen=True)
class RecordsMetadata:
    """A complete directory of records. Fields that the original lacks are None or empty."""

    records_dir: Path | RemotePath
    record_format: str
    max_seq_length: int
    shards: tuple[Shard, ...]
    vocab_size: int | None = None
    vocab_sha256: str | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    options: dict = dataclasses.field(default_factory=dict)
    """`BuildOptions.identity`: the options, and hashes of the vocabulary and the list of files."""

    def total(self, field: str) -> int:
        """Sums a field over the shards."""
        return sum(getattr(shard, field) for shard in self.shards)

    @property
    def skipped(self) -> dict[str, int]:
        """Skipped documents and files: reason → number."""
        return dict(sum((Counter(shard.skipped) for shard in self.shards), Counter()))

    @property
    def num_examples(self) -> int:
        """Examples in all shards."""
        return self.total("examples")

    def sha256(self) -> str:
        """Identifies the records: equal for a copy elsewhere, different for other examples."""
        shards = [[each.name, each.bytes, each.examples, each.tokens] for each in self.shards]
        known = [self.record_format, self.max_seq_length, self.options, shards]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def path(self, shard: Shard) -> str:
        """The file of a shard."""
        return str(self.records_dir / shard.name)

    def save(self) -> None:
        """Writes `metadata.json`."""
        content = dataclasses.asdict(self)
        del content["records_dir"]
        content["totals"] = {
            field.name: self.total(field.name)
            for field in dataclasses.fields(Shard)
            if field.type is int
        }
        listed = [case for shard in content["shards"] for case in shard.pop("skipped_listed")]
        keys = ("file", "place", "reason")
        content["skipped"] = {
            "counts": self.skipped,
            "listed": [dict(zip(keys, case, strict=True)) for case in listed[:MAX_LISTED]],
        }
        path = self.records_dir / METADATA_FILE
        with write_errors(path):
            write_json(path, content, indent=1)


def load_metadata(records_dir: str | os.PathLike) -> RecordsMetadata:
    """Reads the metadata of a directory of records, and checks the size of each shard.

    A directory that the original wrote does not have `metadata.json`: its records are counted. A
    directory in an object store is fetched first, and the hash of each shard is checked, too.

    Raises:
        InputError: there are no records, the build did not finish, `metadata.json` is broken, or a
            shard is missing, cut, or not the one that it describes.
    """
    if remote.is_url(records_dir):
        return _fetch(os.fspath(records_dir))
    records_dir = Path(records_dir)
    if (records_dir / METADATA_FILE).exists():
        metadata = read_metadata(records_dir)
    elif progress_files(records_dir):
        raise InputError(
            f"the records in {records_dir} are not complete: the build was stopped. Run "
            "build_data.sh again with the same options to resume it."
        )
    else:
        metadata = _scan_original(records_dir)
    if not metadata.num_examples:
        raise InputError(f"the records in {records_dir} hold no examples. Build them again.")
    return metadata


def read_metadata(records_dir: Path | RemotePath) -> RecordsMetadata:
    """Reads `metadata.json` where it is, and checks each shard's size; see `load_metadata`."""
    path = records_dir / METADATA_FILE
    content = read_json_object(path, max_bytes=1 << 30)
    try:
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        del content["totals"]
        content.pop("skipped", None)
        metadata = RecordsMetadata(records_dir, shards=shards, **content)
        _check_types(metadata)
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path}: not the metadata of records ({error}). Build the records again, with "
            "--overwrite."
        ) from error
    sizes = file_sizes(records_dir)
    for shard in shards:
        size, file = sizes.get(shard.name), records_dir / shard.name
        if size != shard.bytes:
            found = "no such file" if size is None else f"{size:,} bytes{gzip_hint(file)}"
            raise InputError(
                f"the shard {file} is missing or damaged: expected {shard.bytes:,} bytes "
                f"({METADATA_FILE}), found {found}. Copy it again, or build the records again "
                "with --overwrite."
            )
    return metadata


def _fetch(url: str) -> RecordsMetadata:
    def choose(names):
        is_build = METADATA_FILE not in names and any(n.startswith(PROGRESS_PREFIX) for n in names)
        prefix = PROGRESS_PREFIX if is_build else (METADATA_FILE, SHARD_PREFIX)
        return [name for name in names if name.startswith(prefix)]

    copy = remote_cache.fetch(url, choose)
    metadata = load_metadata(copy.path)
    for shard in metadata.shards:
        if shard.sha256 not in ("", copy.hashes[shard.name]):
            raise InputError(
                f"the shard {url}/{shard.name} is not the one that {METADATA_FILE} describes: its "
                f"SHA-256 is {copy.hashes[shard.name]}, expected {shard.sha256}. Copy it again, or "
                "build the records again with --overwrite."
            )
    return metadata


def _check_types(metadata: RecordsMetadata) -> None:
    """Raises a `TypeError` if a file holds values that are impossible in `RecordsMetadata`."""
    numbers = [field.name for field in dataclasses.fields(Shard) if field.type is int]
    for shard in metadata.shards:
        if not all(type(getattr(shard, name)) is int for name in numbers):
            raise TypeError(f"a shard with impossible numbers: {shard.name}")
        if os.path.basename(shard.name) != shard.name:
            raise TypeError(f"a shard outside the directory: {shard.name}")
    if metadata.record_format not in RECORD_FORMATS or type(metadata.max_seq_length) is not int:
        raise TypeError("`record_format` or `max_seq_length`")


def _scan_original(records_dir: Path) -> RecordsMetadata:
    """Makes the metadata of a directory that the original wrote, by reading it."""
    import tensorflow as tf

    shards = tuple(
        Shard(path.name, path.stat().st_size, sum(1 for _ in record_offsets(path)))
        for path in shard_files(records_dir)
    )
    expected = sum({int(shard.name.rpartition("-")[2]) for shard in shards})
    if len(shards) != expected:
        logging.warning(
            "%s has %d shards, but their names say %d: some are missing, or are from another build",
            records_dir,
            len(shards),
            expected,
        )
    first = next((str(records_dir / shard.name) for shard in shards if shard.examples), None)
    if first is None:
        raise InputError(
            f"no records in {records_dir}: it has neither {METADATA_FILE} nor {SHARD_PREFIX}* "
            "files with records. Run build_data.sh first."
        )
    try:
        record = tf.data.TFRecordDataset(first).take(1).get_single_element()
        features = dict.fromkeys(FEATURES, tf.io.RaggedFeature(tf.int64))
        lengths = {len(values) for values in tf.io.parse_single_example(record, features).values()}
    except tf.errors.DataLossError as error:
        raise InputError(f"the shard {first} is damaged: {error}") from error
    except tf.errors.InvalidArgumentError:  # a compact record, most likely
        lengths = {0}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            f"the first record of {first} does not have int64 lists `input_ids`, `input_mask` and "
            f"`segment_ids` of equal length, and {records_dir} does not have {METADATA_FILE}. "
            "Build the records again."
        )
    return RecordsMetadata(records_dir, "original", lengths.pop(), shards)


def hold_out(metadata: RecordsMetadata, count: int) -> tuple[RecordsMetadata, RecordsMetadata]:
    """Splits records into those to train on and the last `count` shards, to evaluate on.

    Empty shards are ignored; at least one other must be left to train on.
    """
    shards = tuple(shard for shard in metadata.shards if shard.examples)
    if not 0 < count < len(shards):
        raise InputError(
            f"`eval_holdout_shards` is {count}, but the records in {metadata.records_dir} have "
            f"{len(shards)} shards with examples, and training needs at least one. Hold out "
            "fewer, or build the records again with a larger --num-out-files."
        )
    parts = shards[:-count], shards[-count:]
    return tuple(dataclasses.replace(metadata, shards=part) for part in parts)


def check_vocab(metadata: RecordsMetadata, tokenizer) -> None:
    """Raises an `InputError` unless records were built with this tokenizer or an equal one.

    Records that the original wrote pass, because their tokenizer is unknown.
    """
    for name in TOKENIZER_FIELDS:
        built, given = getattr(metadata, name), getattr(tokenizer, name)
        if built is not None and built != given:
            raise InputError(
                f"the records in {metadata.records_dir} were built with {name} {built}, but the "
                f"tokenizer has {name} {given}. Use the vocabulary and the options of the records, "
                "or build the records again."
            )


def load_tokenizer(metadata: RecordsMetadata, vocab_file: str | os.PathLike):
    """Loads the `ConvBertTokenizer` of records; the file must have their vocabulary."""
    from data.tokenizer.tokenizer import ConvBertTokenizer

    tokenizer = ConvBertTokenizer(
        vocab_file,
        # None if the original wrote the records: use its defaults
        do_lower_case=metadata.do_lower_case is not False,
        strip_accents=metadata.strip_accents is not False,
    )
    check_vocab(metadata, tokenizer)
    return tokenizer


def explain_data_error(error: Exception, metadata: RecordsMetadata) -> InputError:
    """Turns an error from reading batches into one that names the damaged shard, record and byte.

    All shards are read to find it.
    """
    for shard in metadata.shards:
        path = metadata.path(shard)
        if not os.path.exists(path):
            return InputError(f"the shard {path} no longer exists. Copy it again.")
        try:
            damage = find_damage(path, shard.examples)
        except OSError as problem:
            return InputError(f"cannot read the shard {path}: {problem.strerror}")
        if damage:
            return InputError(
                f"the shard {path} is damaged: {damage}. Copy it again, or build the records again "
                "with --overwrite."
            )
    return InputError(f"reading the records in {metadata.records_dir} failed: {error}")
