"""What the builder writes is what a slow path in plain Python makes of the same lines.

The tests compare the sample. For any corpus, as much of it as is asked for:

    python -m tests.data.test_exactness openwebtext.tar --megabytes 20 --num-processes 2
"""

import argparse
import concurrent.futures
import functools
import itertools
import multiprocessing
import pathlib
import random
import re
import sys
import tempfile
import time

import numpy as np
import pytest

from data.corpus.readers import read_lines
from data.corpus.sources import find_corpus
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.examples import ExampleBuilder
from data.tokenizer.vocab_file import load_vocabulary
from tests.support.wordpiece import reference_ids

ROOT = pathlib.Path(__file__).parents[3]
BERT_VOCAB = ROOT / "data/vocab/bert_uncased.txt"


@functools.cache
def slow_tokenizer(options):
    """Returns a function from a line to its ids, which remembers what it has seen."""
    vocab = {token: index for index, token in enumerate(load_vocabulary(options.vocab_file))}

    @functools.lru_cache(maxsize=1 << 18)
    def ids_of(word):  # at spaces, any text can be cut
        return reference_ids(word, vocab, options.do_lower_case, options.strip_accents)

    def tokenize(line):
        words = re.split("[ \t]+", line.decode("utf-8", "ignore"))
        return np.array(list(itertools.chain.from_iterable(map(ids_of, words))), np.int32)

    return tokenize


def slow_examples(source, index, options):
    """Yields the examples of a source as (ids, first_length)."""
    vocab = load_vocabulary(options.vocab_file)
    builder = ExampleBuilder(
        options.max_seq_length,
        vocab.index("[CLS]"),
        vocab.index("[SEP]"),
        random.Random(f"{options.seed} {index}"),
        options.segment_rule,
        options.carry_over,
    )
    tokenize = slow_tokenizer(options)
    for line in read_lines(source):
        finished = builder.end_document() if line is None else builder.add_line(tokenize(line))
        for example in finished:
            yield example.ids.tolist(), example.first_length


def written_examples(path):
    """Yields the examples of a compact shard of 2-byte ids as (ids, first_length)."""
    import tensorflow as tf

    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        first_length, *ids = np.frombuffer(record, "<u2").tolist()
        yield ids, first_length


fast_tokenizer = functools.cache(LineTokenizer)


def check(index, source, options):
    """Builds a shard of one source; returns it, and the first example that differs, or None."""
    with tempfile.TemporaryDirectory() as folder:
        task = ShardTask(index, f"{folder}/shard", [source])
        shard = build_shard(task, options, fast_tokenizer(options))
        pairs = itertools.zip_longest(
            slow_examples(source, index, options), written_examples(task.path)
        )
        different = (
            (number, wanted, got) for number, (wanted, got) in enumerate(pairs) if wanted != got
        )
        return shard, next(different, None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strip_accents": False, "segment_rule": "convbert", "carry_over": False},
        {"do_lower_case": False, "strip_accents": False, "max_seq_length": 512},
    ],
)
def test_the_sample(changes):
    corpus = find_corpus(ROOT, ROOT / "data/sample/openwebtext")
    options = BuildOptions(str(BERT_VOCAB), **changes)
    for index in (0, 3):
        shard, difference = check(index, corpus.sources[index], options)
        assert difference is None
        assert shard.examples > 0 and shard.text_bytes > 500_000


def test_a_difference_is_found():
    corpus = find_corpus(ROOT, ROOT / "data/sample/openwebtext")
    options = BuildOptions(str(BERT_VOCAB))
    wanted = list(slow_examples(corpus.sources[0], 0, options))
    others = list(slow_examples(corpus.sources[0], 1, options))
    assert wanted != others


def main():
    """Checks sources spread over a corpus, up to so much text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--megabytes", type=float, help="of text to check (default: all)")
    parser.add_argument("--num-processes", type=int, default=1)
    parser.add_argument("--vocab-file", default=str(BERT_VOCAB))
    parser.add_argument("--cased", action="store_true")
    args = parser.parse_args()
    options = BuildOptions(
        args.vocab_file, do_lower_case=not args.cased, strip_accents=not args.cased
    )
    sources = find_corpus(args.corpus.parent, args.corpus).sources
    order = list(enumerate(sources))
    random.Random(0).shuffle(order)
    limit = float("inf") if args.megabytes is None else args.megabytes * 1e6
    done, text_bytes, tokens, start = 0, 0, 0, time.monotonic()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.num_processes, context) as pool:
        for first in range(0, len(order), 4 * args.num_processes):
            some = order[first : first + 4 * args.num_processes]
            jobs = [pool.submit(check, index, source, options) for index, source in some]
            for (_, source), job in zip(some, jobs, strict=True):
                shard, difference = job.result()
                if difference is not None:
                    number, wanted, got = difference
                    sys.exit(f"{source.name}: example {number} is {got}\nand should be {wanted}")
                done, text_bytes = done + 1, text_bytes + shard.text_bytes
                tokens += shard.text_tokens
            if text_bytes >= limit:
                break
    print(
        f"{done} of {len(sources)} sources, {text_bytes / 1e6:.1f} MB of text, {tokens:,} tokens: "
        f"all ids are equal ({time.monotonic() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
