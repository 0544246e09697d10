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

from data.features import Features, training_batches
from errors import InputError
from model.config import ConvBertConfig
from scripts import benchmark, benchmark_glue, benchmark_ours
from scripts.benchmark_glue import OURS, PADDED

# A Python with torch and transformers, to test what is compared with; else that test is skipped.
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
NETWORK = ConvBertConfig(
    vocab_size=100, embedding_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=32, max_position_embeddings=64, num_labels=3,
)  # fmt: skip


def random_features(count, longest=60, classes=3):
    """Examples of random tokens, whose lengths are mostly short."""
    random = np.random.default_rng(0)
    lengths = np.minimum(random.geometric(0.1, count) + 2, longest)
    total = lengths.sum()
    return Features(
        random.integers(5, 100, total, np.int32),
        random.integers(0, 2, total, np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        random.integers(0, classes, count, np.int32),
        longest,
    )


class Script:
    """A parent that asks for steps and then goes away."""

    def __init__(self, features, path, counts, pad_to_max=False):
        np.savez(path, **dataclasses.asdict(features))
        self.job = {
            "features": path,
            "batch_size": 4,
            "pad_to_max": pad_to_max,
            "network": dataclasses.asdict(NETWORK),
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
    chosen = benchmark_glue.subset(features, drawn, 16, 12)
    assert len(chosen) == 12 * 16 and chosen.max_seq_length == 60
    assert abs(chosen.lengths.mean() - features.lengths.mean()) < 0.3
    # They are whole examples of the file, in its order.
    rows = [tuple(features.input_ids[a:b]) for a, b in itertools.pairwise(features.starts)]
    found = [tuple(chosen.input_ids[a:b]) for a, b in itertools.pairwise(chosen.starts)]
    places = [rows.index(row) for row in found]
    assert places == sorted(places)
    assert chosen.targets.tolist() == features.targets[places].tolist()
    assert chosen.segment_ids.size == chosen.input_ids.size == chosen.starts[-1]
    # Dealt out by length they are batches of like length, as those of the pool were.
    batches = training_batches(chosen, 16, 1, seed=0)
    spreads = [np.ptp(np.asarray(inputs["input_mask"]).sum(1)) for inputs, _ in batches]
    assert len(spreads) == 12 and np.median(spreads) <= 1


def test_more_steps_than_the_file_has_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "dev.tsv").write_text("x\t1\t\tgood dogs\n" * 11)
    command = ["benchmark.py", "predict", "--task", "cola", "--glue-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--batch-size", "5"])
    with pytest.raises(InputError, match=r"dev\.tsv: `--steps` must be at most 2\. Received.*16"):
        benchmark.main()


def test_fine_tuning_goes_over_the_examples_pass_by_pass(tmp_path):
    session = Script(random_features(12), tmp_path / "f.npz", [1, 3, 3])
    with pytest.raises(SystemExit):
        benchmark_ours.finetune(session)
    assert [(answer["steps"], answer["updates"]) for answer in session.answers] == [
        (1, 1), (3, 4), (3, 7),
    ]  # fmt: skip
    report = session.tools["report"]()
    assert report["parameters"] > 16 * 100 and report["peak_bytes"] > 50e6
    assert report["tokens_a_row"] < 60


def test_predictions_by_length_are_those_of_padded_examples(tmp_path):
    features, logits, lengths = random_features(24), {}, {}
    for pad_to_max in (False, True):
        session = Script(features, tmp_path / "f.npz", [1, 6], pad_to_max)
        benchmark_ours.predict(session)
        logits[pad_to_max] = np.array(session.tools["logits"]()["logits"])
        lengths[pad_to_max] = session.tools["report"]()["tokens_a_row"]
    assert lengths[True] == 60 > 2 * lengths[False]
    assert logits[True].shape == (24, 3) and np.abs(logits[True]).min() > 0
    np.testing.assert_allclose(logits[False], logits[True], rtol=0, atol=1e-6)


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
    logits = {OURS: [[1.0, -3.0]], PADDED: [[1.0, -2.5]]}
    result = benchmark_glue.summarize(contenders, reports, logits, batch_size=32)
    assert result["ratios"] == {"ours / ours, all padded": 4.0, "ours / transformers": 2.5}
    assert result["logits"] == {"largest": 3.0, "largest_difference": 0.5}
    options = dict(
        benchmark="predict", task="sst", size="tiny", batch_size=32, length=128,
        backend="tensorflow", threads=2, rounds=3, steps=4,
    )  # fmt: skip
    text = benchmark_glue.report_text(
        result | {"options": options, "machine": {"cpu": "a CPU"}, "left_out": {"x": "no x"}}
    )
    assert "| ours | 160.0 | 0.2 (0.1 to 0.4) | 20.0 | 1,000 |  | 9.0 |" in text
    assert "ours / transformers: 2.50" in text and "x: left out (no x)" in text
    assert "up to 3, largest difference 5.0e-01" in text


@pytest.mark.parametrize("kind", ("finetune", "predict"))
def test_beside_transformers(kind, monkeypatch, tmp_path, capsys):
    probe = [PEER_PYTHON, "-c", "import torch, transformers"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("PEER_PYTHON has no torch and transformers")
    (tmp_path / "STS-B").mkdir()
    rows = [f"a dog{' ran' * (i % 30)}\tthe dog\t{i % 5}.5" for i in range(80)]
    for split in ("train", "dev"):
        text = "\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n"
        (tmp_path / "STS-B" / f"{split}.tsv").write_text(text)
    path = tmp_path / "report.json"
    arguments = [
        kind, "--task", "sts", "--glue-dir", tmp_path, "--size", "tiny", "--batch-size", 8,
        "--length", 64, "--rounds", 1, "--steps", 8, "--peer-python", PEER_PYTHON,
        "--output", path,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    benchmark.main()
    report = json.loads(path.read_text())
    ours, padded, theirs = report["contenders"].values()
    assert theirs["parameters"] == ours["parameters"] + 128 * 129  # their head has a layer more
    assert padded["tokens_a_row"] == 64
    assert 10 < ours["tokens_a_row"] < 40 and 10 < theirs["tokens_a_row"] < 40
    assert [row["steps"] for row in (ours, padded, theirs)] == [
        8,
        1 if kind == "finetune" else 8,
        8,
    ]
    ratio = report["ratios"]["ours / transformers"]
    assert ratio == ours["examples_per_second"] / theirs["examples_per_second"]
    assert f"ours / transformers: {ratio:.2f}" in capsys.readouterr().out
    if kind == "predict":
        assert 0 < report["logits"]["largest_difference"] < 1e-5 < report["logits"]["largest"]
