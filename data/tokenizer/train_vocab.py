"""Training a WordPiece vocabulary on a corpus.

Words are counted as `ConvBertTokenizer` separates them, and merged by the `tokenizers` package. The
result depends only on the corpus and the options.
"""

import itertools
import json
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from absl import logging

from common.console import progress_bar
from common.errors import InputError
from data.corpus.readers import Skipped, read_lines
from data.corpus.sources import Corpus
from data.tokenizer.tokenizer import ConvBertTokenizer
from data.tokenizer.vocab_file import MAX_TOKEN_BYTES, SPECIAL_TOKENS
from data.tokenizer.vocab_options import VocabularyOptions
from data.tokenizer.wordpiece import possible_tokens, separate_words

# Without a limit, the alphabet is the most common characters that make up this share of the text.
ALPHABET_COVERAGE = 0.99999
# In every alphabet: texts read later may have these, even if the corpus does not.
_ALWAYS = frozenset(string.digits + string.punctuation)
_BATCH_BYTES = 1 << 19
_BATCH_WORDS = 1 << 14


@dataclass(frozen=True)
class Fit:
    """How well a vocabulary fits a text."""

    words: int
    tokens: int
    unknown_words: int
    """Number of `words` that are [UNK]; each of them counts as one of `tokens`."""


def count_words(corpus: Corpus, options: VocabularyOptions) -> Counter[str]:
    """Counts the words of a corpus, as the tokenizer will separate them.

    If the corpus is larger than `max_megabytes`, sources are read up to that size in a shuffled
    order, the same each time; of a compressed tar, the first ones.

    Raises:
        InputError: the corpus cannot be read, or has no words.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def separate(text):
        return separate_words(text[None], options.do_lower_case, options.strip_accents)[0]

    counts, skipped = Counter(), Skipped()
    for text in _sample(corpus, options.max_megabytes * 1_000_000, skipped):
        counts.update(separate(text).numpy().split(b" "))
    counts.pop(b"", None)  # between two spaces
    if not counts:
        reasons = json.dumps(skipped.counts)
        raise InputError(f"no text: the corpus {corpus.path} has no words. Skipped: {reasons}")
    if skipped.counts:
        logging.warning("skipped: %s", json.dumps(skipped.counts))
    return Counter({word.decode(): count for word, count in counts.items()})


def _sample(corpus: Corpus, max_bytes: int, skipped: Skipped) -> Iterator[bytes]:
    """Yields the text, lines joined to a size that keeps TensorFlow busy, up to `max_bytes`."""
    if corpus.is_stream:
        sources = zip(corpus.sources, corpus.stream(), strict=True)
    else:
        # RandomState, since NumPy promises that its numbers never change with the version.
        order = np.random.RandomState(0).permutation(len(corpus.sources))
        sources = ((corpus.sources[index], None) for index in order)
    read = size = 0
    lines = []
    with progress_bar(corpus.size, "counting words", unit="B", unit_scale=True) as bar:
        for source, content in sources:
            for line in read_lines(source, content, skipped):
                if line is None:
                    continue
                lines.append(line)
                size += len(line)
                if size < _BATCH_BYTES:
                    continue
                yield b"\n".join(lines)
                read += size
                lines, size = [], 0
                if read >= max_bytes:
                    logging.info("--max-megabytes: %.0f MB of text are enough", read / 1e6)
                    return
            bar.update(source.size)
        yield b"\n".join(lines)


def choose_alphabet(counts: Counter[str], limit: int | None = None) -> list[str]:
    """Returns the most common characters of counted words, and ASCII's digits and symbols; sorted.

    For `limit`, see `VocabularyOptions.limit_alphabet`.
    """
    characters = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    possible = possible_tokens(list(characters))
    characters = dict(itertools.compress(characters.items(), possible))
    by_frequency = sorted(characters, key=lambda character: (-characters[character], character))
    if limit is None:
        uncovered = sum(characters.values()) * (1 - ALPHABET_COVERAGE)
        limit = len(by_frequency)
        while limit > 1 and uncovered >= characters[by_frequency[limit - 1]]:
            limit -= 1
            uncovered -= characters[by_frequency[limit]]
    return sorted(_ALWAYS.union(by_frequency[:limit]))


def train_vocabulary(counts: Counter[str], options: VocabularyOptions) -> list[str]:
    """Makes a vocabulary out of counted words.

    It starts with the special tokens, [PAD] first, and the unused ones. The alphabet follows, at
    the beginning of a word and inside one ("##"), and then the merged tokens in order of merging.
    There are at most `vocab_size` tokens, and fewer if the text has no more parts to merge.

    Raises:
        InputError: `vocab_size` leaves no room for the alphabet.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = choose_alphabet(counts, options.limit_alphabet)
    inner = [f"##{character}" for character in alphabet]
    inner = list(itertools.compress(inner, possible_tokens(inner)))
    unused = [f"[unused{index}]" for index in range(options.num_unused)]
    fixed = [*SPECIAL_TOKENS, *unused, *alphabet, *inner]
    if options.vocab_size < len(fixed):
        raise InputError(
            f"`vocab_size` must be at least {len(fixed):,}: {len(SPECIAL_TOKENS)} special tokens, "
            f"{len(unused):,} unused ones, and {len(alphabet) + len(inner):,} for the "
            f"{len(alphabet):,} characters of the alphabet. "
            f"Received: {options.vocab_size:,}. `limit_alphabet` makes the alphabet smaller."
        )
    # The trainer numbers "##" characters in the order in which its threads meet them, and breaks
    # ties by these numbers. "Special tokens" are numbered before it starts.
    trainer = trainers.WordPieceTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=fixed,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = set(alphabet)
    learnable = sorted(  # words that are short enough to become one token
        (word, count)
        for word, count in counts.items()
        if known.issuperset(word) and len(word.encode()) <= MAX_TOKEN_BYTES - len("##")
    )
    bar = progress_bar(len(learnable), "merging", iterable=learnable, unit="words", unit_scale=True)
    tokenizer.train_from_iterator(_repeated(bar), trainer)
    ids = tokenizer.get_vocab(with_added_tokens=False)
    return sorted(ids, key=ids.get)


def _repeated(counts: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yields texts with each word as often as it was counted; the trainer takes no counts."""
    words = itertools.chain.from_iterable(itertools.repeat(*item) for item in counts)
    while batch := list(itertools.islice(words, _BATCH_WORDS)):
        yield " ".join(batch)


def measure_fit(tokenizer: ConvBertTokenizer, counts: Counter[str]) -> Fit:
    """Tokenizes counted words, and counts the tokens and the words that are [UNK]."""
    tokens = unknown = 0
    items = iter(counts.items())
    while batch := list(itertools.islice(items, _BATCH_WORDS)):
        ids = tokenizer.tokenize([word for word, _ in batch])
        lengths = ids.row_lengths().numpy().tolist()
        unknowns = tf.reduce_any(ids == tokenizer.unk_id, axis=1).numpy().tolist()
        for (_, count), length, is_unknown in zip(batch, lengths, unknowns, strict=True):
            # `counts` has a private-use character for words over the limit; the tokenizer drops it.
            tokens += count * max(length, 1)
            unknown += count * (is_unknown or not length)
    return Fit(words=sum(counts.values()), tokens=tokens, unknown_words=unknown)
