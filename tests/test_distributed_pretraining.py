"""One batch on several devices, in several processes or in several parts: the same training."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from common import console
from common.errors import InputError
from jobs.loggers import JsonLines
from tests.support import pretraining
from tests.support.pretraining import log_lines
from tests.support.processes import ROOT
from tests.support.training_steps import QUICKLY

HPARAMS = {
    "model_hparam_overrides": {
        "num_hidden_layers": 1,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "train_batch_size": 8,
    "num_train_steps": 6,
    "do_eval": True,
    "eval_every": 4,
    "eval_holdout_shards": 1,
    "eval_batch_size": 8,
    "num_eval_steps": 2,
}
TIMEOUT = 1200  # seconds, for a busy machine


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return pretraining.build_data_dir(tmp_path_factory.mktemp("records"))


def start_two(data_dir, name, **hparams):
    """The two processes of a run on JAX."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        **QUICKLY,
    }
    return [
        start(data_dir, name, environment | {"KERAS_DISTRIBUTION_PROCESS_ID": str(i)}, **hparams)
        for i in range(2)
    ]


def start(data_dir, name, environment=None, **hparams):
    """A process of a run."""
    arguments = pretraining.arguments(data_dir, name, **(HPARAMS | hparams))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "pretrain.py"), *arguments],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, printed[-4000:]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def whole(records):
    """A run on one device, in this process."""
    return pretraining.run(records, "whole", **HPARAMS)


def assert_same_training(run_dir, expected_dir):
    """The same log, but for speed and memory, and the same weights."""
    lines, expected = log_lines(run_dir), log_lines(expected_dir)
    for steps in (lines, expected):  # with evaluations at 4 and 6, and the one at the end
        assert [line["step"] for line in steps] == [1, 2, 4, 4, 6, 6, 6]
    measured = {"tokens_per_second", "seconds", "eval_seconds", "peak_memory_mb"}
    for line, other in zip(lines, expected, strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - measured:
            assert line[key] == pytest.approx(other[key], rel=1e-5, abs=2e-6), key
    weights, others = pretraining.weights(run_dir), pretraining.weights(expected_dir)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, others[name], atol=1e-5, err_msg=str(name))


def test_two_devices_equal_one(records, whole):
    """And each in two micro-batches, whose numbers of tokens differ, compiled by XLA.

    (Without XLA, fine-tuning is tested on two devices.)
    """
    options = {"num_devices": 2, "gradient_accumulation_steps": 2, "jit_compile": True}
    finish(start(records, "two", QUICKLY, **options))
    assert_same_training(records / "models" / "two", whole)


@pytest.fixture(scope="module")
def two_processes(records):
    """A run of two processes on JAX."""
    finish(*start_two(records, "two_processes", deterministic=True))
    return records / "models" / "two_processes"


@pytest.mark.peers
def test_two_processes_equal_one(records, two_processes):
    """On JAX, which draws other random numbers than TensorFlow."""
    finish(start(records, "one_process", {"KERAS_BACKEND": "jax", **QUICKLY}))
    assert_same_training(two_processes, records / "models" / "one_process")
    starts = json.loads((two_processes / "run.json").read_text())["starts"]
    assert len(starts) == 1  # only one process writes


@pytest.mark.peers
def test_a_killed_process_ends_the_other_and_nothing_is_lost(records, two_processes):
    """First the process that writes is killed, then the other one."""
    run_dir = records / "models" / "killed"
    log = run_dir / "train_log.jsonl"
    for index in range(2):
        processes = start_two(records, "killed", deterministic=True)
        # It has saved step 3, and is compiling the evaluation after step 4, which takes seconds.
        while not (log.exists() and '{"step": 4,' in log.read_text()):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        processes[index].kill()
        try:
            printed, _ = processes[1 - index].communicate(timeout=TIMEOUT)
        finally:
            processes[1 - index].kill()
        assert processes[1 - index].returncode in (1, -signal.SIGABRT), printed
        assert printed.endswith(console.LOST_PROCESS) and "Traceback" not in printed
        JsonLines(log).drop_after(3)
    finish(*start_two(records, "killed", deterministic=True))
    starts = json.loads((run_dir / "run.json").read_text())["starts"]
    assert [each["step"] for each in starts] == [0, 3, 3]
    weights, expected = pretraining.weights(run_dir), pretraining.weights(two_processes)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=str(name))
    results = [path / "results" / "pretrain_results.json" for path in (run_dir, two_processes)]
    assert results[0].read_text() == results[1].read_text()


@pytest.mark.peers
def test_a_signal_to_one_process_stops_both(records):
    processes = start_two(records, "stopped", num_train_steps=100_000, eval_every=None)
    log = records / "models" / "stopped" / "train_log.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].terminate()  # not the one that writes
    try:
        printed = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], printed
    last = log_lines(log.parent)[-1]["step"]
    assert (log.parent / "checkpoints" / f"step_{last}").is_dir()
    assert "stopped by a signal to another process: saved" in printed[0]
    assert "stopped by SIGTERM: saved by process 0" in printed[1]


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"gradient_accumulation_steps": 3}, "`train_batch_size` must be a multiple of 3"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be at least 1"),
        ({"num_devices": 0}, "`num_devices` must be from 1 to"),
    ],
)
def test_batches_that_cannot_be_divided(records, hparams, message):
    with pytest.raises(InputError, match=message):
        pretraining.run(records, "none", **(HPARAMS | hparams))
    assert not (records / "models" / "none").exists()


@pytest.mark.peers
def test_wrong_numbers_of_processes(records):
    variables = {"JOB_ADDRESSES": "127.0.0.1:1", "NUM_PROCESSES": "2", "PROCESS_ID": "2"}
    environment = {f"KERAS_DISTRIBUTION_{name}": value for name, value in variables.items()}
    process = start(records, "none", {"KERAS_BACKEND": "jax", **environment})
    printed, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert '`KERAS_DISTRIBUTION_PROCESS_ID` must be from 0 to 1. Received: "2"' in printed


def test_several_processes_need_jax(records, monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    with pytest.raises(InputError, match="KERAS_BACKEND=jax"):
        pretraining.run(records, "none", **HPARAMS)
