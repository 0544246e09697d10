"""The example builder, compared with the original's examples; and the promises of carry-over."""

import gzip
import itertools
import json
import pathlib
import random

import numpy as np
import pytest

from data.records.examples import ExampleBuilder

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens" / "builder"
CLS, SEP = 10_000_001, 10_000_002


class FixedRandom:
    """Draws 0.5 always: no short example, no unlimited first segment, no joining by chance."""

    def random(self):
        return 0.5


def build(documents, max_length, rng, cls_id=CLS, sep_id=SEP, **options):
    builder = ExampleBuilder(max_length, cls_id, sep_id, rng, **options)
    examples = []
    for lines in documents:
        for line in lines:
            examples += builder.add_line(np.array(line, np.int32))
        examples += builder.end_document()
    return examples


def random_documents(seed, count=150, longest=400):
    """Documents of numbered tokens: lines empty, short and long."""
    rng, token, documents = random.Random(seed), 0, []
    for _ in range(count):
        lines = []
        for _ in range(rng.randint(0, 20)):
            length = rng.choice([0, 1, 5, 25, rng.randint(0, longest)])
            lines.append(range(token, token + length))
            token += length
        documents.append(lines)
    return documents, token


def test_original_examples():
    cases = json.loads(gzip.decompress((GOLDENS / "seeded_examples.json.gz").read_bytes()))
    assert len(cases) == 8
    for case in cases:
        groups = itertools.groupby(case["lines"], key=bool)  # blank lines end documents
        documents = [[line.split() for line in lines] for is_text, lines in groups if is_text]
        options = {"segment_rule": "convbert", "carry_over": False}
        rng = random.Random(case["seed"])
        examples = build(documents, case["max_length"], rng, 101, 102, **options)
        found = [(example.ids.tolist(), example.first_length) for example in examples]
        assert found == [
            (example["ids"], example["n"] - example["n_segment1"]) for example in case["examples"]
        ]


@pytest.mark.parametrize("rule", ["electra", "convbert"])
@pytest.mark.parametrize("max_length", [5, 6, 17, 128])
def test_carry_over_keeps_every_token_once(rule, max_length):
    documents, num_tokens = random_documents(max_length)
    seen = []
    for lines in documents:
        examples = build([lines], max_length, random.Random(1), segment_rule=rule)
        found = [i for example in examples for i in example.ids.tolist() if i < CLS]
        assert sorted(found) == [i for line in lines for i in line]  # of this document alone
        seen += found
        for ids, first_length in examples:
            assert 3 <= len(ids) <= max_length
            assert ids[0] == CLS and ids[-1] == SEP and ids[first_length - 1] == SEP
            assert (ids == SEP).sum() == (1 if first_length == len(ids) else 2)
    assert len(seen) == num_tokens


def test_carry_over_fills_examples_and_continues_in_the_line():
    examples = build([[range(300)]], 128, FixedRandom())
    assert [len(example.ids) for example in examples] == [128, 128, 50]
    assert [example.ids[1] for example in examples] == [0, 126, 252]
    two = build([[range(40), range(40, 140)], [range(200, 210)]], 64, FixedRandom())
    # The first line is over the aim of 30, so the second goes to the second segment.
    assert [example.first_length for example in two] == [42, 64, 19, 12]
    assert two[0].ids[42:].tolist() == [*range(40, 61), SEP]
    assert two[2].ids.tolist() == [CLS, *range(123, 140), SEP]
    assert two[3].ids.tolist() == [CLS, *range(200, 210), SEP]


def test_carry_over_moves_a_whole_line_that_does_not_fit():
    examples = build([[range(61), range(61, 66)]], 64, FixedRandom())
    assert [example.ids.tolist() for example in examples] == [
        [CLS, *range(61), SEP],
        [CLS, *range(61, 66), SEP],
    ]


def test_without_carry_over_the_rest_is_dropped():
    examples = build([[range(300), range(300, 310)]], 128, FixedRandom(), carry_over=False)
    assert [example.ids.tolist() for example in examples] == [
        [CLS, *range(126), SEP],
        [CLS, *range(300, 310), SEP],
    ]


def test_segment_rules_divide_lines_differently():
    lines = [range(20), range(20, 40), range(40, 45), range(45, 62)]
    (electra,) = build([lines], 64, FixedRandom(), carry_over=False)
    # 20 + 20 is over the aim of 30, so the second line opens the second segment; the third joins
    # the first, as 20 + 5 is under it.
    first, second = [*range(20), *range(40, 45)], [*range(20, 40), *range(45, 61)]
    assert electra.ids.tolist() == [CLS, *first, SEP, *second, SEP]
    (convbert,) = build([lines], 64, FixedRandom(), segment_rule="convbert", carry_over=False)
    assert convbert.ids.tolist() == [CLS, *range(62), SEP]
    long_first = [range(40), range(40, 45), range(45, 60)]
    (convbert,) = build([long_first], 64, FixedRandom(), segment_rule="convbert", carry_over=False)
    assert convbert.ids.tolist() == [CLS, *range(40, 60), SEP, *range(40), SEP]


@pytest.mark.parametrize("rule, two_segments", [("electra", 0.88), ("convbert", 0.0)])
def test_shares_of_short_and_single_segment_examples(rule, two_segments):
    # One endless document of 20-token lines: all but the short examples are full.
    lines = [range(20)] * 60_000
    examples = build([lines], 128, random.Random(3), segment_rule=rule)
    full = [example for example in examples if len(example.ids) == 128]
    assert 1 - len(full) / len(examples) == pytest.approx(0.05 * 123 / 124, abs=0.006)
    share = sum(example.first_length < 128 for example in full) / len(full)
    assert share == pytest.approx(two_segments, abs=0.03)


def test_a_huge_line_takes_linear_time():
    examples = build([[np.arange(2_000_000)]], 128, FixedRandom())
    assert len(examples) == -(-2_000_000 // 126)
    assert examples[-1].ids[-2] == 1_999_999
