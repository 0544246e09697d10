"""Fine-tuning features against those of the original's code: see tests/goldens/features."""

import json
import os
import types

import numpy as np
import pytest

from data import ConvBertTokenizer
from data.records.command_line import BERT_VOCAB
from data.tasks.glue import TASKS
from tests.support.processes import ROOT

GOLDEN = json.loads((ROOT / "tests/goldens/features/original.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizer(BERT_VOCAB)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuning_data")
    for name, lines in GOLDEN["files"].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode())
    return folder


def splits(task):
    return ("train", "dev", *task.more_dev_splits, *task.test_splits)


def make_features(task, tokenizer, directory, split, max_seq_length):
    options = types.SimpleNamespace(max_seq_length=max_seq_length, double_unordered=True)
    examples = task.load(str(directory), split)
    if split == "train":
        examples = task.training_examples(examples, options)
    return task.make_features(tokenizer, examples, options, split == "train")


@pytest.mark.parametrize("max_seq_length", [128, 16, 15])
@pytest.mark.parametrize("name", TASKS)
def test_rows_are_the_originals(tokenizer, directory, name, max_seq_length):
    task = TASKS[name].complete(str(directory))
    for split in splits(task):
        file = os.path.relpath(task.paths(str(directory), split)[0], directory)
        expected = GOLDEN["features"][file][str(max_seq_length)]
        features = make_features(task, tokenizer, directory, split, max_seq_length)
        assert len(features) == len(expected), file
        for row, begin, end in zip(
            expected, features.row_splits, features.row_splits[1:], strict=False
        ):
            ids = [int(number) for number in row["ids"].split()]
            assert features.input_ids[begin:end].tolist() == ids, file
            ones = row["segment1"]
            segments = [0] * (len(ids) - ones) + [1] * ones
            assert features.segment_ids[begin:end].tolist() == segments, file
        if split not in task.test_splits:  # the original gives a test row a label of no meaning
            labels = np.float32([row["label"] for row in expected])
            np.testing.assert_array_equal(features.targets.ravel(), labels)


def test_all_the_goldens_files_are_read(directory):
    read = {
        os.path.relpath(task.paths(str(directory), split)[0], directory)
        for task in TASKS.values()
        for split in splits(task)
    }
    assert read == GOLDEN["files"].keys() == GOLDEN["features"].keys()


def test_the_golden_cuts_pairs_of_like_length():
    """Else it would say nothing of which side of a pair loses a token."""
    halves = {"16": (7, 6), "15": (6, 6)}  # tokens of the first and the second text
    for length, (first, second) in halves.items():
        rows = [row for file in GOLDEN["features"].values() for row in file[length]]
        even = [
            row
            for row in rows
            if row["segment1"] == second + 1 and len(row["ids"].split()) == first + second + 3
        ]
        assert len(even) > 30
