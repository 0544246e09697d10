"""A shard: the unit of work in building records.

What `build_shard` writes depends only on the shard's index, its part of the corpus and the options;
not on the process or the time, or on how many shards are built at once.
"""

import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import remote
from common.files import sha256_of
from data.corpus.readers import Skipped, TextSource, read_lines
from data.records.examples import ExampleBuilder
from data.records.metadata import TOKENIZER_FIELDS, Shard
from data.records.options import BuildOptions
from data.records.shard_io import id_type, open_shard

TOKENIZER_BATCH_BYTES = 1 << 19


@dataclass(frozen=True)
class ShardTask:
    """A shard to build."""

    index: int
    path: str
    """The file to write, or its URL."""
    sources: list[TextSource]
    contents: list[bytes] | None = None
    """The bytes of the sources, if the corpus is a compressed tar."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.path).name


class LineTokenizer:
    """Tokenizes many lines in one call; made once per process.

    Its `vocabulary` holds the fields of `RecordsMetadata` about the vocabulary.
    """

    def __init__(self, options: BuildOptions):
        import tensorflow as tf

        from data.tokenizer.tokenizer import ConvBertTokenizer

        tokenizer = ConvBertTokenizer(
            options.vocab_file, options.do_lower_case, options.strip_accents
        )
        self.vocabulary = {name: getattr(tokenizer, name) for name in TOKENIZER_FIELDS}
        self.id_type = id_type(tokenizer.vocab_size)
        self.pad_id, self.unk_id = tokenizer.pad_id, tokenizer.unk_id
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id

        # AutoGraph would spend seconds, and there is nothing for it to convert.
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
        def tokenize(text):
            ids = tokenizer.tokenize(tf.strings.split(text, "\n"))
            return ids.flat_values, ids.row_splits

        self._tokenize = tokenize

    def __call__(self, lines: list[bytes]) -> tuple[np.ndarray, list[int]]:
        """The ids [tokens] of n lines that are not empty, and n + 1 row splits."""
        if not lines:
            return np.empty(0, self.id_type), [0]
        ids, row_splits = self._tokenize(b"\n".join(lines))
        return ids.numpy().astype(self.id_type), row_splits.numpy().tolist()


def build_shard(task: ShardTask, options: BuildOptions, tokenizer: LineTokenizer) -> Shard:
    """Writes a shard, here or to an object store, and returns what it holds."""
    is_remote = remote.is_url(task.path)
    staged = remote.written_whole(task.path) if is_remote else contextlib.nullcontext(task.path)
    with staged as path:
        counts, skipped = _write_examples(path, task, options, tokenizer)
        size, sha256 = os.path.getsize(path), sha256_of(path)
    listed = {"skipped": skipped.counts, "skipped_listed": skipped.listed}
    return Shard(task.name, size, **counts, **listed, sha256=sha256)


def _write_examples(path, task, options, tokenizer) -> tuple[dict[str, int], Skipped]:
    """Writes the shard to a file here; returns its counts, and what was skipped."""
    builder = ExampleBuilder(
        options.max_seq_length,
        tokenizer.cls_id,
        tokenizer.sep_id,
        random.Random(f"{options.seed} {task.index}"),
        options.segment_rule,
        options.carry_over,
        tokenizer.id_type,
    )
    skipped, counts = Skipped(), Counter(examples=0)
    layout = options.record_format, options.max_seq_length, tokenizer.pad_id
    with open_shard(path, *layout) as write:
        for items in _batched_lines(task, skipped):
            lines = [line for line in items if line is not None]
            ids, row_splits = tokenizer(lines)
            counts["documents"] += len(items) - len(lines)
            counts["text_bytes"] += sum(map(len, lines))
            counts["text_tokens"] += len(ids)
            counts["unknown_tokens"] += int(np.count_nonzero(ids == tokenizer.unk_id))
            row = 0
            for line in items:
                if line is None:
                    finished = builder.end_document()
                else:
                    finished = builder.add_line(ids[row_splits[row] : row_splits[row + 1]])
                    row += 1
                for example in finished:
                    write(*example)
                    length = len(example.ids)
                    counts["examples"] += 1
                    counts["tokens"] += length
                    counts["full_examples"] += length == options.max_seq_length
                    counts["two_segment_examples"] += example.first_length < length
    return counts, skipped


def _batched_lines(task: ShardTask, skipped: Skipped) -> Iterator[list[bytes | None]]:
    """Gathers lines, and None for each end of a document, until TensorFlow has enough to do."""
    batch, size = [], 0
    for source, content in zip(task.sources, task.contents or itertools.repeat(None), strict=False):
        for line in read_lines(source, content, skipped):
            batch.append(line)
            size += len(line or b"")
            if size >= TOKENIZER_BATCH_BYTES:
                yield batch
                batch, size = [], 0
    yield batch
