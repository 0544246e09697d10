"""The options that decide, with the corpus, what a shard holds; imported without NumPy."""

import argparse
import dataclasses
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from common.errors import InputError
from common.fields import check_settings, setting
from common.remote import as_path
from data.corpus.sources import Corpus

RECORD_FORMATS = ("compact", "original")
SEGMENT_RULES = ("electra", "convbert")
MIN_TARGET_LENGTH, MAX_TARGET_LENGTH = 5, (1 << 16) - 1  # compact records write it in 16 bits


class Part(NamedTuple):
    """A share of the shards, for one job of an array: every `count`-th shard."""

    number: int
    """From 1 to `count`."""
    count: int

    def __str__(self):
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Reads "3/64"; an `ArgumentTypeError` if it is something else."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        part = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= part.number <= part.count:
            raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, got {text!r}")
        return part


@dataclass(frozen=True)
class BuildOptions:
    """Everything that decides, with the corpus, what the shards hold."""

    vocab_file: str
    max_seq_length: int = setting(
        128, "most tokens in an example", least=MIN_TARGET_LENGTH, most=MAX_TARGET_LENGTH
    )
    do_lower_case: bool = True
    strip_accents: bool = True
    segment_rule: str = setting(
        "electra",
        "how lines are divided between two segments; convbert: as in the ConvBERT release",
        choices=SEGMENT_RULES,
    )
    carry_over: bool = True
    """Whether text that does not fit into an example begins the next one; False: it is dropped."""
    record_format: str = setting(
        "compact",
        "original: padded int64 lists, which the original ConvBERT and ELECTRA read",
        choices=RECORD_FORMATS,
    )
    seed: int = setting(42, "seed of the examples' random choices", least=0)
    num_out_files: int = setting(1000, "most shards to write", least=1)

    __post_init__ = check_settings

    def identity(self, corpus: Corpus) -> dict:
        """Returns what two builds must have in common to give the same shards."""
        options = dataclasses.asdict(self)
        try:
            vocabulary = as_path(options.pop("vocab_file")).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {self.vocab_file}: {error.strerror}."
            ) from error
        files = "".join(f"{source.name}\t{source.size}\n" for source in corpus.sources)
        return {
            **options,
            **corpus.relevant_options,
            "vocab_file_sha256": sha256(vocabulary).hexdigest(),
            "corpus": corpus.path.name,
            **corpus.origin,
            # Names need not be UTF-8.
            "corpus_files_sha256": sha256(files.encode(errors="surrogateescape")).hexdigest(),
        }
