"""What the builder writes is what a slow path in plain Python makes of the same lines."""

import functools
import itertools
import random
import re

import numpy as np
import pytest
import tensorflow as tf

from data.corpus.readers import read_lines
from data.corpus.sources import find_corpus
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.command_line import BERT_VOCAB
from data.records.examples import ExampleBuilder
from data.tokenizer.vocab_file import load_vocabulary
from tests.support.processes import ROOT
from tests.support.wordpiece import reference_ids


def slow_examples(source, index, options):
    """Yields the examples of a source as (ids, first_length)."""
    vocab = {token: index for index, token in enumerate(load_vocabulary(options.vocab_file))}
    builder = ExampleBuilder(
        options.max_seq_length,
        vocab["[CLS]"],
        vocab["[SEP]"],
        random.Random(f"{options.seed} {index}"),
        options.segment_rule,
        options.carry_over,
    )

    @functools.cache
    def ids_of(word):
        return reference_ids(word, vocab, options.do_lower_case, options.strip_accents)

    for line in read_lines(source):
        if line is None:
            finished = builder.end_document()
        else:  # at spaces, any text can be cut
            words = re.split("[ \t]+", line.decode("utf-8", "ignore"))
            ids = itertools.chain.from_iterable(map(ids_of, words))
            finished = builder.add_line(np.fromiter(ids, np.int32))
        for example in finished:
            yield example.ids.tolist(), example.first_length


def written_examples(path):
    """Yields the examples of a compact shard of 2-byte ids as (ids, first_length)."""
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        first_length, *ids = np.frombuffer(record, "<u2").tolist()
        yield ids, first_length


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strip_accents": False, "segment_rule": "convbert", "carry_over": False},
        {"do_lower_case": False, "strip_accents": False, "max_seq_length": 512},
    ],
)
def test_shards_equal_the_slow_path(tmp_path, changes):
    corpus = find_corpus(ROOT, ROOT / "data/sample/openwebtext")
    options = BuildOptions(str(BERT_VOCAB), **changes)
    tokenizer = LineTokenizer(options)
    for index in (0, 3):
        task = ShardTask(index, str(tmp_path / f"shard{index}"), [corpus.sources[index]])
        shard = build_shard(task, options, tokenizer)
        assert shard.examples > 0 and shard.text_bytes > 500_000
        expected = slow_examples(corpus.sources[index], index, options)
        for wanted, got in itertools.zip_longest(expected, written_examples(task.path)):
            assert got == wanted
