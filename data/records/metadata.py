"""The folder of pre-training records: its shards, its `metadata.json`, and what can be wrong.

A shard is a TFRecord file; a record is an example, in one of two layouts:
- compact: little-endian uint16 (uint32 for a vocabulary over 65,536 tokens): how many of the ids
  are segment 0, then the ids, without padding.
- original: a `tf.train.Example` of int64 lists `input_ids`, `input_mask`, `segment_ids`, each
  `max_seq_length` long, as ELECTRA and the original ConvBERT write them.

`metadata.json` is written last, so a folder that has it is complete.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.files import atomic_path, write_text
from data.corpus.readers import MAX_LISTED

RECORD_FORMATS = ("compact", "original")
METADATA_FILE = "metadata.json"
PROGRESS_FILE = "build_progress.jsonl"
SHARD_PREFIX = "pretrain_data.tfrecord-"

write_errors_named = functools.partial(
    files.write_errors_named,
    advice="Finished shards are kept: free some space, or fix what is wrong, and run the same "
    "command again.",
)


def shard_name(index: int, num_shards: int) -> str:
    """Names a shard as the original does."""
    return f"{SHARD_PREFIX}{index:05d}-of-{num_shards:05d}"


def id_type(vocab_size: int) -> np.dtype:
    """The integer type that holds the ids of a vocabulary in compact records."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Shard:
    """What a shard holds. The text's figures are 0 where they are not known."""

    name: str
    bytes: int
    examples: int
    tokens: int = 0
    """Tokens of the examples, special tokens included."""
    full_examples: int = 0
    """Examples of exactly `max_seq_length` tokens."""
    two_segment_examples: int = 0
    documents: int = 0
    text_bytes: int = 0
    text_tokens: int = 0
    unknown_tokens: int = 0
    """How many of `text_tokens` are [UNK]."""
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Documents and files that were left out, counted by reason."""
    skipped_listed: list[list[str]] = dataclasses.field(default_factory=list, compare=False)
    """The first of them: file, place in it, reason. `metadata.json` lists some for all shards."""


@dataclass(frozen=True)
class RecordsMetadata:
    """A complete folder of records. Fields are None where the original wrote the folder."""

    records_dir: Path
    record_format: str
    max_seq_length: int
    shards: tuple[Shard, ...]
    vocab_size: int | None = None
    vocab_sha256: str | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    options: dict = dataclasses.field(default_factory=dict)
    """What the folder was built with, its seed and a hash of the corpus's file list included."""

    def total(self, field: str) -> int:
        """Sums a field of the shards."""
        return sum(getattr(shard, field) for shard in self.shards)

    @property
    def skipped(self) -> dict[str, int]:
        """Documents and files that were left out, counted by reason."""
        counts = {}
        for shard in self.shards:
            for reason, count in shard.skipped.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    @property
    def num_examples(self) -> int:
        """Examples in all shards."""
        return self.total("examples")

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards, special tokens included; 0 where the original wrote them."""
        return self.total("tokens")

    @property
    def id_bytes(self) -> int:
        """Bytes of an id in compact records."""
        return id_type(self.vocab_size).itemsize

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
        listed = [entry for shard in content["shards"] for entry in shard.pop("skipped_listed")]
        content["skipped"] = {
            "counts": self.skipped,
            "listed": [
                dict(zip(("file", "place", "reason"), entry, strict=True))
                for entry in listed[:MAX_LISTED]
            ],
        }
        with write_errors_named(self.records_dir / METADATA_FILE):
            write_text(self.records_dir / METADATA_FILE, json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def open_shard(
    path: str | os.PathLike, record_format: str, max_seq_length: int
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Writes a shard, which takes its name when the `with` block ends well.

    Args:
        path: the shard's file.
        record_format: "compact" or "original".
        max_seq_length: length that the original's layout is padded to.

    Yields:
        A function that writes an example: ids [length], in the type of `id_type`, and how many of
        them are segment 0.
    """
    import tensorflow as tf

    def checked(operation, *arguments):
        try:
            operation(*arguments)
        except tf.errors.OpError as error:
            reason = error.message.rpartition("; ")[2]  # after the temporary file's name
            raise OSError(0, reason) from error

    record = tf.train.Example()  # one message, filled anew for each example
    feature = record.features.feature

    def write_compact(ids, first_length):
        header = first_length.to_bytes(ids.itemsize, "little")
        checked(writer.write, header + ids.tobytes())

    def write_original(ids, first_length):
        padding = [0] * (max_seq_length - len(ids))
        segment_ids = [0] * first_length + [1] * (len(ids) - first_length)
        feature["input_ids"].int64_list.value[:] = ids.tolist() + padding
        feature["input_mask"].int64_list.value[:] = [1] * len(ids) + padding
        feature["segment_ids"].int64_list.value[:] = segment_ids + padding
        checked(writer.write, record.SerializeToString(deterministic=True))

    with write_errors_named(path), atomic_path(path) as temporary:
        writer = tf.io.TFRecordWriter(temporary)
        yield write_compact if record_format == "compact" else write_original
        checked(writer.close)


def load_metadata(records_dir: str | os.PathLike) -> RecordsMetadata:
    """Reads what a folder of records holds, and checks that its shards are all there, complete.

    A folder that the original wrote has no `metadata.json`: its records are counted.

    Raises:
        InputError: there are no records, the build did not end, or a shard is missing or was cut.
    """
    records_dir = Path(records_dir)
    path = records_dir / METADATA_FILE
    if path.exists():
        try:
            content = json.loads(path.read_text())
            del content["totals"]
            content.pop("skipped", None)
            content["shards"] = tuple(Shard(**shard) for shard in content["shards"])
            metadata = RecordsMetadata(records_dir=records_dir, **content)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} cannot be read ({error}). Build the records again, with --overwrite."
            ) from error
        _check_shards(metadata)
    elif (records_dir / PROGRESS_FILE).exists():
        raise InputError(
            f"the records in {records_dir} are not complete: the build was stopped. "
            "Run build_data.sh again with the same options; it goes on where it stopped."
        )
    else:
        metadata = _scan_original(records_dir)
    if not metadata.num_examples:
        raise InputError(f"the records in {records_dir} hold no examples. Build them again.")
    return metadata


def _check_shards(metadata: RecordsMetadata) -> None:
    for shard in metadata.shards:
        path = Path(metadata.path(shard))
        if not path.exists():
            raise InputError(
                f"the shard {path} is missing. Put it back, or build the records again with "
                "--overwrite."
            )
        if path.stat().st_size != shard.bytes:
            raise InputError(
                f"the shard {path} is damaged: it has {path.stat().st_size:,} bytes, and "
                f"{shard.bytes:,} by {METADATA_FILE}. Copy it again, or build the records again "
                "with --overwrite."
            )


def _scan_original(records_dir: Path) -> RecordsMetadata:
    """Makes the metadata of a folder that the original wrote, by reading it."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    paths = [path for path in sorted(records_dir.glob(f"{SHARD_PREFIX}*")) if path.suffix != ".tmp"]
    shards = tuple(Shard(path.name, path.stat().st_size, _count_records(path)) for path in paths)
    full = [path for path, shard in zip(paths, shards, strict=True) if shard.examples]
    if not full:
        raise InputError(
            f"no records in {records_dir}: it has no {METADATA_FILE}, and no {SHARD_PREFIX}* files "
            "with records in them. Run build_data.sh first."
        )
    try:
        first = next(iter(tf.data.TFRecordDataset(str(full[0])).take(1))).numpy()
    except tf.errors.DataLossError as error:
        raise InputError(f"the shard {full[0]} is damaged: {error}") from error
    try:
        features = tf.train.Example.FromString(first).features.feature
    except DecodeError:  # a compact record, most likely
        features = collections.defaultdict(tf.train.Feature)
    lengths = {
        len(features[name].int64_list.value) for name in ("input_ids", "input_mask", "segment_ids")
    }
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            f"the first record of {full[0]} has no int64 lists `input_ids`, `input_mask` and "
            f"`segment_ids` of one length, and {records_dir} has no {METADATA_FILE}. Build the "
            "records again."
        )
    return RecordsMetadata(records_dir, "original", lengths.pop(), shards)


def _count_records(path: Path) -> int:
    """Counts the records of a TFRecord file, from the lengths before each (no checksums)."""
    size = path.stat().st_size
    if not size:
        return 0
    count = position = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while position + 12 <= size:
            position += 16 + struct.unpack_from("<Q", content, position)[0]
            count += 1
    if position != size:
        raise InputError(
            f"the shard {path} is damaged: its {size:,} bytes end inside record {count:,}. "
            "Copy or build it again."
        )
    return count


def hold_out(metadata: RecordsMetadata, count: int) -> tuple[RecordsMetadata, RecordsMetadata]:
    """Splits records into those to train on, and the last `count` shards, to evaluate on.

    Empty shards do not count.

    Raises:
        InputError: that would leave nothing to train on.
    """
    shards = tuple(shard for shard in metadata.shards if shard.examples)
    if not 0 < count < len(shards):
        raise InputError(
            f"`eval_holdout_shards` is {count}, but the records in {metadata.records_dir} have "
            f"{len(shards)} shards with examples, of which one at least must be left to train on. "
            "Keep fewer aside, or build the records again with a larger --num-out-files."
        )
    return tuple(
        dataclasses.replace(metadata, shards=part) for part in (shards[:-count], shards[-count:])
    )


def check_vocab(metadata: RecordsMetadata, tokenizer) -> None:
    """Checks that records were made with this tokenizer (a `ConvBertTokenizer`).

    Records that the original wrote do not say, and pass.

    Raises:
        InputError: another vocabulary, or other options.
    """
    if metadata.vocab_sha256 is None:
        return
    if metadata.vocab_sha256 != tokenizer.vocab_sha256:
        raise InputError(
            f"the vocabulary ({tokenizer.vocab_size:,} tokens) is not the one the records in "
            f"{metadata.records_dir} were built with ({metadata.vocab_size:,} tokens, SHA-256 "
            f"{metadata.vocab_sha256[:12]}…). Use that one, or build the records again."
        )
    for name in ("do_lower_case", "strip_accents"):
        built, given = getattr(metadata, name), getattr(tokenizer, name)
        if built != given:
            raise InputError(
                f"the records in {metadata.records_dir} were built with {name}={built}, and the "
                f"tokenizer has {name}={given}. Use the same, or build the records again."
            )


def load_tokenizer(metadata: RecordsMetadata, vocab_file: str | os.PathLike):
    """Loads the `ConvBertTokenizer` that records were made with.

    Raises:
        InputError: the vocabulary is missing or unusable, or is not the records' one.
    """
    from data.tokenizer.tokenizer import ConvBertTokenizer

    tokenizer = ConvBertTokenizer(
        vocab_file,
        # None where the original wrote the records, which do not say: its defaults
        do_lower_case=metadata.do_lower_case is not False,
        strip_accents=metadata.strip_accents is not False,
    )
    check_vocab(metadata, tokenizer)
    return tokenizer


def explain_data_error(error: Exception, metadata: RecordsMetadata) -> InputError:
    """Turns TensorFlow's error over a damaged shard into one that names shard, record and byte.

    Args:
        error: what was raised while batches were read (`tf.errors.DataLossError`, usually).
        metadata: of the records.

    Returns:
        The error to raise. All shards are read to find the damaged one.
    """
    for shard in metadata.shards:
        path = metadata.path(shard)
        if not os.path.exists(path):
            return InputError(f"the shard {path} is no longer there. Put it back.")
        count, reason = _readable_records(path)
        if reason is None and count == shard.examples:
            continue
        place = f"{count:,} records, where {shard.examples:,} were written"
        if reason is not None:
            position = record_position(path, count)
            place = f"record {count:,} (from 0), which begins at byte {position:,}: {reason}"
        return InputError(
            f"the shard {path} is damaged: {place}. Copy it again, or build the records again "
            "with --overwrite."
        )
    return InputError(f"reading the records in {metadata.records_dir} failed: {error}")


def _readable_records(path: str) -> tuple[int, str | None]:
    """How many records come before the first whose checksum fails, and what is said of that one.

    The second is None where all records are sound.
    """
    import tensorflow as tf

    dataset, count = tf.data.TFRecordDataset(path), 0
    try:
        for batch in dataset.batch(1024):
            count += len(batch)
    except tf.errors.OpError:
        try:
            for _ in dataset.skip(count):  # it is one of the next 1,024
                count += 1
        except tf.errors.OpError as error:
            return count, re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message).strip()
    return count, None


def record_position(path: str | os.PathLike, index: int) -> int:
    """The byte of a TFRecord file where record `index` begins; those before it must be sound."""
    position = 0
    with open(path, "rb") as file:
        for _ in range(index):
            file.seek(position)
            # Length (8 bytes), the length's checksum (4), data, the data's checksum (4).
            position += 16 + struct.unpack("<Q", file.read(8))[0]
    return position
