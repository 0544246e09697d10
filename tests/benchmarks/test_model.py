"""The benchmark of the model: what it counts, and whole runs of a tiny model."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import __main__, model, worker_keras
from benchmarks import flops as benchmark_flops
from common.errors import InputError
from model.config import ConvBertConfig, Objective
from tests.support.corpora import write_records

# A Python with torch and transformers, to test what is compared with; else those tests are skipped.
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)


def run_benchmark(monkeypatch, tmp_path, *arguments):
    """The report of a run of `benchmark.py`."""
    path = tmp_path / "report.json"
    arguments = [*arguments, "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    __main__.main()
    return json.loads(path.read_text())


def test_flops_against_a_count_by_hand():
    config = ConvBertConfig(
        vocab_size=100,
        embedding_size=6,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,  # two of each kind, of width 2: A = 4
        conv_kernel_size=3,
        linear_groups=2,
        intermediate_size=32,
    )
    layer = 3 * 8 * 4  # query, key, value
    layer += 2 * 10 * 4  # every position's scores, and their use
    layer += 8 * 4 + 8 * 4 + 4 * (2 * 3) + 4 * 3  # the convolution
    layer += 8 * 8  # output
    layer += 2 * (8 * 32 // 2)  # feed-forward, in two groups
    assert benchmark_flops.encoder_flops(config, 5, 10) == 2 * 5 * 10 * (2 * layer + 6 * 8)

    generator = config.generator(0.5)
    heads = 2 * 5 * (1 * (4 * 6 + 6 * 100) + 10 * (8 * 8 + 8))  # one masked position a row
    forward = heads + sum(benchmark_flops.encoder_flops(c, 5, 10) for c in (config, generator))
    objective = Objective(generator_hidden_size=0.5)
    assert benchmark_flops.pretraining_flops(config, objective, 5, 10) == 3 * forward


def test_flops_of_plain_attention():
    config = ConvBertConfig.from_size("base", conv_type="noconv", head_ratio=1)
    layer = 4 * 768 * 768 + 2 * 128 * 768 + 2 * 768 * 3072
    assert benchmark_flops.encoder_flops(config, 1, 128) == 2 * 128 * 12 * layer


def test_flops_of_medium_small():
    config = ConvBertConfig.from_size("medium-small")
    flops = benchmark_flops.pretraining_flops(config, Objective(), 16, 128)
    assert round(flops / 1e9) == 193


def test_random_batches():
    job = {"num_batches": 2, "batch_size": 3, "length": 9, "vocab_size": 500}
    batches = model.random_batches(job)
    ids = batches["input_ids"]
    assert ids.shape == (2, 3, 9) and ids.max() < 500
    assert ids[1, 2, [0, 4, 8]].tolist() == [101, 102, 102]
    assert batches["segment_ids"][0, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_pretraining_on_records_without_a_peer(monkeypatch, tmp_path, capsys):
    missing = tmp_path / "python"
    missing.write_text("#!/bin/sh\necho \"No module named 'torch'\" >&2\nexit 1\n")
    missing.chmod(0o755)
    records = write_records(tmp_path / "records", [30, 31])  # 61 examples of up to 12 tokens
    report = run_benchmark(
        monkeypatch, tmp_path, "pretrain", "--size", "tiny", "--batch-size", 2, "--rounds", 1,
        "--steps", 2, "--threads", 1, "--records", records.records_dir, "--peer-python", missing,
    )  # fmt: skip
    assert report["options"]["length"] == 12 and report["tokens"] == 24
    ours, reader = (report["contenders"][name] for name in ("ours", "input pipeline"))
    assert ours["updates"] == 1
    assert ours["parameters"] == 4_673_639 - (30522 - 1000) * (128 + 1)  # a smaller vocabulary
    assert ours["first_loss"] == pytest.approx(math.log(1000) + 50 * math.log(2), abs=5)
    assert [ours["seconds"]] == ours["rounds"] and ours["steps"] == 2
    assert ours["tokens_per_second"] == 24 / ours["seconds"]
    assert ours["flops_per_second"] == report["flops"] / ours["seconds"]
    peak = report["peak"]["flops_per_second"]
    assert peak == max(product["flops_per_second"] for product in report["products"])
    assert ours["share_of_peak"] == ours["flops_per_second"] / peak < 1
    assert ours["since_start"] > 1 and 100e6 < ours["peak_bytes"] < 10e9
    assert reader["steps"] == 2 * 61 // 2  # two epochs, read through
    assert reader["tokens_per_second"] == 24 / reader["seconds"]
    ratio = reader["tokens_per_second"] / ours["tokens_per_second"]
    assert report["ratios"] == {"input pipeline / ours": ratio}
    assert report["left_out"] == {"transformers": "No module named 'torch'"}
    text = capsys.readouterr().out
    assert re.search(r"\| ours \| [\d.e-]+ \([\d.e-]+ to [\d.e-]+\) \| [\d,]+ \|", text)
    assert f"ours: {ours['parameters']:,} parameters" in text
    assert f"input pipeline / ours: {ratio:.2f}" in text
    assert "transformers: left out (No module named 'torch')" in text


def test_batches_have_static_shapes(tmp_path):
    path = tmp_path / "batches.npz"
    job = {"num_batches": 2, "batch_size": 3, "length": 9, "vocab_size": 500}
    batches = model.random_batches(job)
    np.savez(path, **batches)
    dataset = worker_keras.training_data({"records": None, "batches": str(path)}, None)
    assert dataset.element_spec["input_ids"].shape == (3, 9)
    stream = dataset.as_numpy_iterator()
    ids = [next(stream)["input_ids"] for _ in range(3)]
    assert (ids[1] == batches["input_ids"][1]).all() and (ids[2] == ids[0]).all()


def test_inference(monkeypatch, tmp_path, capsys):
    shape = ["--size", "tiny", "--batch-size", 2, "--length", 16]
    report = run_benchmark(
        monkeypatch, tmp_path, "infer", *shape, "--rounds", 2, "--steps", 2, "--threads", 1,
        "--precision", "mixed_bfloat16", "--peers",
    )  # fmt: skip
    ours = report["contenders"]["ours"]
    assert ours["shape"] == [2, 16, 128] and ours["parameters"] == 4_480_072
    assert len(ours["rounds"]) == 2
    config = ConvBertConfig.from_size("tiny")
    assert report["flops"] == benchmark_flops.encoder_flops(config, 2, 16)
    assert "in bfloat16" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")
@pytest.mark.parametrize("kind", ("pretrain", "infer"))
def test_jax_without_tensorflow(kind, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    report = run_benchmark(
        monkeypatch, tmp_path, kind, "--size", "tiny", "--batch-size", 2, "--length", 16,
        "--rounds", 1, "--steps", 2, "--threads", 1, "--backend", "jax", "--peers",
    )  # fmt: skip
    assert set(report["contenders"]["ours"]["packages"]) == {"keras", "numpy", "jax"}


@pytest.mark.parametrize("kind", ("pretrain", "infer"))
def test_beside_transformers(kind, monkeypatch, tmp_path, capsys):
    probe = [PEER_PYTHON, "-c", "import torch, transformers"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("PEER_PYTHON has no torch and transformers")
    report = run_benchmark(
        monkeypatch, tmp_path, kind, "--size", "tiny", "--batch-size", 4, "--length", 32,
        "--rounds", 1, "--steps", 2, "--peer-python", PEER_PYTHON, "--peers", "torch",
    )  # fmt: skip
    ours, theirs = (report["contenders"][name] for name in ("ours", "transformers"))
    assert ours["parameters"] == theirs["parameters"]
    if kind == "pretrain":
        assert abs(theirs["first_loss"] - 45) < 3
    else:
        assert ours["shape"] == theirs["shape"]
    ratio = report["ratios"]["ours / transformers"]
    assert ratio == ours["tokens_per_second"] / theirs["tokens_per_second"]
    assert f"ours / transformers: {ratio:.2f}" in capsys.readouterr().out


def test_impossible_options_are_errors(monkeypatch, tmp_path):
    for option, value in (("--rounds", 0), ("--length", 513), ("--length", 4)):
        with pytest.raises(InputError, match=option):
            run_benchmark(monkeypatch, tmp_path, "infer", option, value)


def test_a_contender_that_fails_says_why(tmp_path):
    code = "import sys; input(); sys.exit('no memory')"
    contender = model.Contender("ours", [sys.executable, "-c", code], {}, {})
    with pytest.raises(InputError, match="ours ended with exit code 1:\nno memory"):
        contender.ask("steps", count=1)
    contender.close()
