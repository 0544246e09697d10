"""The benchmark of fine-tuning and prediction: its examples, its contenders, what it reports."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from benchmarks import __main__, tasks, worker_keras
from benchmarks.tasks import JOINT, OURS, PADDED
from common.errors import InputError
from data.tasks.batching import IGNORED, Features, training_batches
from model.config import ConvBertConfig

# A Python with torch and transformers, to test what is compared with; else that test is skipped.
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
NETWORK = ConvBertConfig(
    vocab_size=100, embedding_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
    intermediate_size=32, max_position_embeddings=64, num_labels=3,
)  # fmt: skip


ARCHITECTURES = {
    "labels": "ConvBertForSequenceClassification",
    "tags": "ConvBertForTokenClassification",
    "answers": "ConvBertForQuestionAnswering",
    "joint answers": "ConvBertForQuestionAnswering",
    "choices": "ConvBertForMultipleChoice",
}


def random_features(count, kind="labels", longest=60):
    """Examples of random tokens, whose lengths are mostly short."""
    random = np.random.default_rng(0)
    rows_per_example = 2 if kind == "choices" else 1
    lengths = np.minimum(random.geometric(0.1, count * rows_per_example) + 2, longest)
    total, targets, inputs = lengths.sum(), random.integers(0, 2, count, np.int32), {}
    if kind == "tags":
        targets = random.integers(0, 3, total, np.int32)
        targets[::2] = IGNORED
    if "answers" in kind:
        places, unanswerable = random.integers(0, 3, (2, count), np.int32), targets
        targets = dict(zip(("start_logits", "end_logits"), places, strict=True))
        targets["answerable_logits"] = unanswerable.astype(np.float32)
        inputs = {"start_positions": places[0]}
    return Features(
        random.integers(5, 100, total, np.int32),
        random.integers(0, 2, total, np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        targets,
        longest,
        inputs=inputs,
        rows_per_example=rows_per_example,
    )


class Script:
    """A parent that asks for steps and then goes away."""

    def __init__(self, path, counts, kind="labels", count=12, pad_to_max=False):
        options = {"joint_prediction": kind == "joint answers"} if "answers" in kind else {}
        self.job = {
            "features": tasks.save_features(path, random_features(count, kind)),
            "batch_size": 4,
            "pad_to_max": pad_to_max,
            "network": dataclasses.asdict(NETWORK),
            "architecture": ARCHITECTURES[kind],
            "options": options,
        }
        self.tools, self.answers, self.counts = {}, [], list(counts)

    def steps_wanted(self):
        if not self.counts:
            sys.exit(0)
        return self.counts.pop(0)

    def answer(self, **fields):
        self.answers.append(fields)

    def serve(self, run):
        while self.counts:
            run(self.steps_wanted())


def test_some_batches_stand_for_all():
    features = random_features(1000)
    drawn = np.random.default_rng(1).permutation(1000)
    chosen = tasks.subset(features, drawn, 16, 12)
    assert len(chosen) == 12 * 16 and chosen.max_seq_length == 60
    assert abs(chosen.lengths.mean() - features.lengths.mean()) < 0.3
    # They are whole examples of the file, in its order.
    rows = [tuple(features.input_ids[a:b]) for a, b in itertools.pairwise(features.row_splits)]
    found = [tuple(chosen.input_ids[a:b]) for a, b in itertools.pairwise(chosen.row_splits)]
    places = [rows.index(row) for row in found]
    assert places == sorted(places)
    assert chosen.targets.tolist() == features.targets[places].tolist()
    assert chosen.segment_ids.size == chosen.input_ids.size == chosen.row_splits[-1]
    # Dealt out by length they are batches of like length, as those of the pool were.
    batches = training_batches(chosen, 16, 1, seed=0)
    spreads = [np.ptp(np.asarray(inputs["input_mask"]).sum(1)) for inputs, _ in batches]
    assert len(spreads) == 12 and np.median(spreads) <= 1


def test_more_steps_than_the_file_has_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "dev.tsv").write_text("x\t1\t\tgood dogs\n" * 11)
    command = ["benchmark.py", "predict", "--task", "cola", "--tasks-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--batch-size", "5"])
    with pytest.raises(InputError, match=r"dev\.tsv: `--steps` must be at most 2\. Received.*16"):
        __main__.main()


@pytest.mark.parametrize("kind", ("labels", "tags", "answers", "joint answers"))
def test_fine_tuning_goes_over_the_examples_pass_by_pass(kind, tmp_path):
    session = Script(tmp_path / "f.npz", [1, 3, 3], kind)
    with pytest.raises(SystemExit):
        worker_keras.finetune(session)
    assert [(answer["steps"], answer["updates"]) for answer in session.answers] == [
        (1, 1), (3, 4), (3, 7),
    ]  # fmt: skip
    report = session.tools["report"]()
    assert report["parameters"] > 16 * 100 and report["peak_bytes"] > 50e6
    assert report["tokens_a_row"] < 60


@pytest.mark.parametrize("kind", ("labels", "tags", "answers", "choices"))
def test_predictions_by_length_are_those_of_padded_examples(kind, tmp_path):
    outputs, lengths = {}, {}
    for pad_to_max in (False, True):
        session = Script(tmp_path / "f.npz", [1, 6], kind, 24, pad_to_max)
        worker_keras.predict(session)
        path = tmp_path / f"outputs_{pad_to_max}.npz"
        session.tools["outputs"](str(path))
        with np.load(path) as arrays:
            outputs[pad_to_max] = dict(arrays)
        lengths[pad_to_max] = session.tools["report"]()["tokens_a_row"]
    assert lengths[True] == 60 > 1.4 * lengths[False]
    features = random_features(24, kind)
    shapes = {
        "labels": {"logits": (24, 3)},
        "choices": {"logits": (24, 2)},
        "tags": {"logits": (len(features.input_ids), 3)},
        "answers": dict.fromkeys(("start_logits", "end_logits"), (len(features.input_ids),)),
    }
    assert {name: array.shape for name, array in outputs[True].items()} == shapes[kind]
    for name, array in outputs[True].items():
        assert np.abs(array).max() > 0
        np.testing.assert_allclose(outputs[False][name], array, rtol=0, atol=1e-6)


def test_what_is_reported():
    contenders = {
        name: types.SimpleNamespace(rounds=rounds, steps=4, first={"since_start": 9.0})
        for name, rounds in (
            (OURS, [0.2, 0.1, 0.4]),
            (PADDED, [0.8, 0.8, 1.0]),
            ("transformers", [0.5, 0.6, 0.4]),
        )
    }
    report = {"tokens_a_row": 20.0, "peak_bytes": 1e9, "device_peak_bytes": None, "parameters": 7}
    reports = dict.fromkeys(contenders, report)
    outputs = {
        OURS: {"start_logits": np.array([1.0, -3.0]), "end_logits": np.array([2.0, 0.0])},
        PADDED: {"start_logits": np.array([1.0, -2.9]), "end_logits": np.array([2.0, 0.5])},
    }
    result = tasks.summarize(contenders, reports, outputs, batch_size=32)
    assert result["ratios"] == {"ours / ours, all padded": 4.0, "ours / transformers": 2.5}
    assert result["outputs"] == {"largest": 3.0, "largest_difference": 0.5}
    options = dict(
        benchmark="predict", task="sst", size="tiny", batch_size=32, length=128,
        backend="tensorflow", threads=2, rounds=3, steps=4,
    )  # fmt: skip
    text = tasks.report_text(
        result | {"options": options, "machine": {"cpu": "a CPU"}, "left_out": {"x": "no x"}}
    )
    assert "| ours | 160.0 | 0.2 (0.1 to 0.4) | 20.0 | 1,000 |  | 9.0 |" in text
    assert "ours / transformers: 2.50" in text and "x: left out (no x)" in text
    assert "up to 3, largest difference 5.0e-01" in text


def write_task(name, folder):
    """Files of a task with examples of many lengths, "train" and "dev" alike."""
    texts = [f"a dog{' ran' * (i % 30)}" for i in range(80)]
    if name == "STS-B":
        rows = [f"{text}\tthe dog\t{i % 5}.5" for i, text in enumerate(texts)]
        content, ending = "\n".join(["sentence1\tsentence2\tscore", *rows]), "tsv"
    elif name == "chunk":
        rows = [text.replace(" ", " O\n") + " B-NP\n" for text in texts]
        content, ending = "\n".join(rows), "txt"
    else:
        answers = [{"text": "dog", "answer_start": 2}]
        questions = [
            {"context": text, "qas": [{"id": str(i), "question": "who?", "answers": answers}]}
            for i, text in enumerate(texts)
        ]
        content, ending = json.dumps({"data": [{"paragraphs": questions}]}), "json"
    (folder / name).mkdir()
    for split in ("train", "dev"):
        (folder / name / f"{split}.{ending}").write_text(content + "\n")


# What transformers' model has beyond ours: of labels, a layer more in the head.
@pytest.mark.parametrize(
    "kind, task, folder, more",
    [
        ("finetune", "sts", "STS-B", 128 * 129),
        ("finetune", "chunk", "chunk", 0),
        ("predict", "squadv1", "squadv1", 0),
    ],
)
def test_beside_transformers(kind, task, folder, more, monkeypatch, tmp_path, capsys):
    probe = [PEER_PYTHON, "-c", "import torch, transformers"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("PEER_PYTHON has no torch and transformers")
    write_task(folder, tmp_path)
    path = tmp_path / "report.json"
    arguments = [
        kind, "--task", task, "--tasks-dir", tmp_path, "--size", "tiny", "--batch-size", 8,
        "--length", 64, "--rounds", 1, "--steps", 8, "--peer-python", PEER_PYTHON,
        "--output", path,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    __main__.main()
    report = json.loads(path.read_text())
    rows = report["contenders"]
    assert list(rows) == [OURS, PADDED, *[JOINT] * (task == "squadv1"), "transformers"]
    ours, padded, theirs = (rows[name] for name in (OURS, PADDED, "transformers"))
    assert theirs["parameters"] == ours["parameters"] + more
    assert padded["tokens_a_row"] == 64
    assert 10 < ours["tokens_a_row"] < 45 and 10 < theirs["tokens_a_row"] < 45
    assert {name: row["steps"] for name, row in rows.items() if row["steps"] != 8} == (
        {PADDED: 1} if kind == "finetune" else {}
    )
    ratio = report["ratios"]["ours / transformers"]
    assert ratio == ours["examples_per_second"] / theirs["examples_per_second"]
    assert f"ours / transformers: {ratio:.2f}" in capsys.readouterr().out
    if kind == "predict":
        assert 0 < report["outputs"]["largest_difference"] < 1e-5 < report["outputs"]["largest"]
