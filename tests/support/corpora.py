"""Small corpora, vocabularies and records for tests."""

import io
import lzma
import random
import tarfile

import numpy as np

from data.records import build as building
from data.records.build_shard import build_shard
from data.records.metadata import RecordsMetadata, Shard, shard_name
from data.records.shard_io import open_shard
from data.tokenizer.vocab_file import SPECIAL_TOKENS

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "ing", "o", "un")]


def tar_of(files):
    """Returns the bytes of a tar holding `files` (name → bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archive_of(documents):
    """Returns an archive like OpenWebText's: a tar.xz with one .txt per document."""
    files = {f"{index:07d}-x.txt": text.encode() for index, text in enumerate(documents)}
    return lzma.compress(tar_of(files), preset=0)


def openwebtext_of(archives):
    """Returns the bytes of openwebtext.tar, from lists of documents."""
    return tar_of(
        {
            f"openwebtext/urlsf_subset{index:02d}_data.xz": archive_of(documents)
            for index, documents in enumerate(archives)
        }
    )


def random_archives(num_archives, documents_each, seed=0, lines_each=12):
    """Makes lists of documents out of made-up words."""
    rng = random.Random(seed)

    def line():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))

    return [
        [
            "\n\n".join(line() for _ in range(rng.randint(1, lines_each)))
            for _ in range(documents_each)
        ]
        for _ in range(num_archives)
    ]


def contents(folder):
    """The files of a folder: name → bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_vocab(path, special=SPECIAL_TOKENS):
    """Writes a vocabulary of the special tokens and most of WORDS."""
    tokens = [*special, *WORDS[:-1]]
    path.write_text("\n".join(tokens) + "\n")
    return path


def write_records(folder, counts, record_format="compact", max_seq_length=12, vocab_size=1000):
    """Writes shards of `counts` examples; example i, counted over all, has i as its second id.

    Lengths go from 3 to `max_seq_length` in turn; every other example has two segments.
    """
    folder.mkdir()
    shards, number = [], 0
    for index, count in enumerate(counts):
        path = folder / shard_name(index, len(counts))
        with open_shard(path, record_format, max_seq_length) as write:
            for _ in range(count):
                ids = np.full(3 + number % (max_seq_length - 2), 7, "<u2")
                ids[1] = number
                write(ids, 2 if number % 2 else len(ids))
                number += 1
        shards.append(Shard(path.name, path.stat().st_size, count))
    metadata = RecordsMetadata(
        folder, record_format, max_seq_length, tuple(shards), vocab_size, "abc123", True, True
    )
    metadata.save()
    return metadata


def begun_shards(monkeypatch, limit=99):
    """The numbers of the shards that are begun from now on; one more than `limit` interrupts."""
    begun = []

    def build(task, *arguments):
        begun.append(task.index)
        if len(begun) > limit:
            raise KeyboardInterrupt
        return build_shard(task, *arguments)

    monkeypatch.setattr(building, "build_shard", build)
    return begun
