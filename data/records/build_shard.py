"""A shard: the unit of work in building records, and the options that decide what it holds.

What `build_shard` writes depends on the shard's index, its part of the corpus and the options, so
it makes no difference who runs it, when, or how many run at once.
"""

import dataclasses
import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.corpus.readers import Skipped, Source, read_documents
from data.corpus.sources import Corpus
from data.records.examples import MIN_TARGET_LENGTH, SEGMENT_RULES, ExampleBuilder
from data.records.metadata import RECORD_FORMATS, Shard, id_type, open_shard

TOKENIZER_BATCH_BYTES = 1 << 19


@dataclass(frozen=True)
class BuildOptions:
    """All that decides, with the corpus, what the shards hold."""

    vocab_file: str
    max_seq_length: int = 128
    do_lower_case: bool = True
    strip_accents: bool = True
    segment_rule: str = "electra"
    carry_over: bool = True
    record_format: str = "compact"
    seed: int = 42
    num_out_files: int = 1000
    """At most so many shards: one holds at least an archive, or a range of a text file."""

    def __post_init__(self):
        for name, least in (
            ("max_seq_length", MIN_TARGET_LENGTH),
            ("num_out_files", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(
                    f"`{name}` must be at least {least}. Received: {getattr(self, name)}"
                )
        for name, allowed in (("segment_rule", SEGMENT_RULES), ("record_format", RECORD_FORMATS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"`{name}` must be one of {', '.join(allowed)}. "
                    f"Received: {getattr(self, name)!r}"
                )

    def identity(self, corpus: Corpus) -> dict:
        """Returns what two builds must share to give the same shards."""
        options = dataclasses.asdict(self)
        try:
            vocabulary = Path(options.pop("vocab_file")).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {self.vocab_file}: {error.strerror}."
            ) from error
        files = "".join(f"{source.name}\t{source.size}\n" for source in corpus.sources)
        return (
            options
            | corpus.options
            | {
                "vocab_file_sha256": hashlib.sha256(vocabulary).hexdigest(),
                "corpus": corpus.path.name,
                "corpus_files_sha256": hashlib.sha256(files.encode()).hexdigest(),
            }
        )


@dataclass(frozen=True)
class ShardTask:
    """A shard to build."""

    index: int
    path: str
    """The file to write."""
    sources: list[Source]
    contents: list[bytes] | None = None
    """The bytes of the sources, where the corpus is a compressed tar."""

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name


class LineTokenizer:
    """Tokenizes many lines in one call; made once in a process.

    Attributes:
        vocabulary: the fields of `RecordsMetadata` on the vocabulary.
        id_type: NumPy type of the ids.
        cls_id, sep_id, unk_id: special tokens.
    """

    def __init__(self, options: BuildOptions):
        import tensorflow as tf

        from data.tokenizer.tokenizer import ConvBertTokenizer

        tokenizer = ConvBertTokenizer(
            options.vocab_file, options.do_lower_case, options.strip_accents
        )
        self.vocabulary = {
            name: getattr(tokenizer, name)
            for name in ("vocab_size", "vocab_sha256", "do_lower_case", "strip_accents")
        }
        self.id_type = id_type(tokenizer.vocab_size)
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        self.unk_id = tokenizer.unk_id

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def tokenize(text):
            ids = tokenizer.tokenize(tf.strings.split(text, "\n"))
            return ids.flat_values, ids.row_splits

        self._tokenize = tokenize

    def __call__(self, lines: list[bytes]) -> tuple[np.ndarray, list[int]]:
        """Returns the ids of all lines, one after the other, and where each begins and ends.

        Args:
            lines: n lines, without line ends and none of them empty.

        Returns:
            ids [tokens] and n + 1 offsets into them.
        """
        ids, offsets = self._tokenize(b"\n".join(lines))
        return ids.numpy().astype(self.id_type), offsets.numpy().tolist()


def build_shard(task: ShardTask, options: BuildOptions, tokenizer: LineTokenizer) -> Shard:
    """Writes a shard and returns what it holds."""
    builder = ExampleBuilder(
        options.max_seq_length,
        tokenizer.cls_id,
        tokenizer.sep_id,
        random.Random(f"{options.seed} {task.index}"),
        options.segment_rule,
        options.carry_over,
        tokenizer.id_type,
    )
    skipped = Skipped()
    documents = text_bytes = text_tokens = unknown_tokens = 0
    examples = tokens = full_examples = two_segment_examples = 0
    with open_shard(task.path, options.record_format, options.max_seq_length) as write:
        for items in _batched_lines(task, skipped):
            lines = [line for line in items if line is not None]
            documents += len(items) - len(lines)
            if not lines:
                ids, offsets = np.empty(0, tokenizer.id_type), [0]
            else:
                ids, offsets = tokenizer(lines)
            text_bytes += sum(map(len, lines))
            text_tokens += len(ids)
            unknown_tokens += int(np.count_nonzero(ids == tokenizer.unk_id))
            row = 0
            for line in items:
                if line is None:
                    finished = builder.end_document()
                else:
                    finished = builder.add_line(ids[offsets[row] : offsets[row + 1]])
                    row += 1
                for example in finished:
                    write(*example)
                    examples += 1
                    tokens += len(example.ids)
                    full_examples += len(example.ids) == options.max_seq_length
                    two_segment_examples += example.first_length < len(example.ids)
    return Shard(
        name=task.name,
        bytes=os.path.getsize(task.path),
        examples=examples,
        tokens=tokens,
        full_examples=full_examples,
        two_segment_examples=two_segment_examples,
        documents=documents,
        text_bytes=text_bytes,
        text_tokens=text_tokens,
        unknown_tokens=unknown_tokens,
        skipped=skipped.counts,
        skipped_listed=skipped.listed,
    )


def _batched_lines(task: ShardTask, skipped: Skipped) -> Iterator[list[bytes | None]]:
    """Gathers lines, and None for each document's end, to a size that keeps TensorFlow busy."""
    batch, size = [], 0
    for index, source in enumerate(task.sources):
        content = task.contents[index] if task.contents else None
        for lines in read_documents(source, content, skipped):
            for line in lines:
                batch.append(line)
                size += len(line) if line is not None else 0
                if size >= TOKENIZER_BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
    yield batch
