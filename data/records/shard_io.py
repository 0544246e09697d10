"""Shards: TFRecord files with one example per record, in one of two formats.

- compact: little-endian uint16 (uint32 for a vocabulary over 65,536 tokens): the number of ids in
  the first segment, then the ids, without padding.
- original: a `tf.train.Example` with int64 lists `input_ids`, `input_mask`, `segment_ids`, each
  `max_seq_length` long, as ELECTRA and the original ConvBERT write it.
"""

import contextlib
import errno
import functools
import itertools
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator

import numpy as np

from common import remote
from common.errors import InputError
from common.files import atomic_path, write_errors_named

FEATURES = ("input_ids", "input_mask", "segment_ids")

write_errors = functools.partial(
    write_errors_named,
    advice="Finished shards are kept: make room, or fix the cause, and run the same command again.",
)


def id_type(vocab_size: int) -> np.dtype:
    """The integer type of the ids of a vocabulary in compact records."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@contextlib.contextmanager
def open_shard(
    path: str | os.PathLike, record_format: str, max_seq_length: int, pad_id: int = 0
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Writes a shard, which gets its name when the `with` block ends without an error.

    The original format is padded to `max_seq_length` tokens, with `pad_id`.

    Yields:
        A function that writes an example. Its arguments: ids [length], in the type of `id_type`,
        and how many of them are in the first segment.
    """
    import tensorflow as tf

    example = tf.train.Example()  # one message, filled again for each example
    feature = example.features.feature

    def write_compact(ids, first_length):
        header = first_length.to_bytes(ids.itemsize, "little")
        checked(writer.write, header + ids.tobytes())

    def write_original(ids, first_length):
        padding = [0] * (max_seq_length - len(ids))
        segment_ids = [0] * first_length + [1] * (len(ids) - first_length)
        input_ids = ids.tolist() + [pad_id] * len(padding)
        rows = (input_ids, [1] * len(ids) + padding, segment_ids + padding)
        for name, values in zip(FEATURES, rows, strict=True):
            feature[name].int64_list.value[:] = values
        checked(writer.write, example.SerializeToString(deterministic=True))

    def checked(operation, *arguments):
        try:
            operation(*arguments)
        except tf.errors.OpError as error:
            reason = error.message.rpartition("; ")[2]  # without the temporary file's name
            raise OSError(errno.EIO, reason) from error

    with write_errors(path), atomic_path(path) as temporary:
        writer = tf.io.TFRecordWriter(temporary)
        yield write_compact if record_format == "compact" else write_original
        checked(writer.close)


def record_offsets(path: str | os.PathLike) -> Iterator[int]:
    """Yields the byte at which each record of a shard begins. Does not check the content.

    If the file ends inside a record, an `InputError` follows that record's offset.
    """
    size = os.path.getsize(path)
    if not size:
        return
    offset = count = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while offset < size:
            yield offset
            # Length (8 bytes), checksum of the length (4), data, checksum of the data (4).
            length = struct.unpack_from("<Q", content, offset)[0] if offset + 8 <= size else size
            offset, count = offset + 16 + length, count + 1
    if offset != size:
        raise InputError(
            f"the shard {path} is damaged: its {size:,} bytes end inside record {count:,}"
            f"{gzip_hint(path)}. Copy or build it again."
        )


def gzip_hint(path: str | os.PathLike) -> str:
    """What to add to the message about a shard of the wrong size."""
    with remote.open_binary(path) as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return " (it is gzip-compressed: decompress it)" if is_gzip else ""


def find_damage(path: str, num_examples: int) -> str | None:
    """Reads a shard and describes its damage; None if it is sound and has `num_examples`."""
    count, reason = _count_sound_records(path)
    if reason is not None:
        offset = next(itertools.islice(record_offsets(path), count, None))
        return f"record {count:,} (from 0), which begins at byte {offset:,}: {reason}"
    if count != num_examples:
        return f"it has {count:,} records; {num_examples:,} were written"
    return None


def _count_sound_records(path):
    """Returns the number of sound records before any damage, and what the damage is, or None."""
    import tensorflow as tf

    dataset, count = tf.data.TFRecordDataset(path), 0
    try:
        for batch in dataset.batch(1024):
            count += len(batch)
    except tf.errors.OpError:
        try:
            for _ in dataset.skip(count):  # one of the next 1,024 is damaged
                count += 1
        except tf.errors.OpError as error:
            return count, re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message).strip()
    return count, None
