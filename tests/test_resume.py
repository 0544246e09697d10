"""Runs in separate processes that are killed, or stopped by a signal."""

import json
import os
import random
import signal
import time

import pytest

import pretrain
from data.records.metadata import load_metadata
from tests.support import pretraining, processes
from tests.support.pretraining import log_lines
from tests.support.processes import finish

STEPS = 60
HPARAMS = {
    "num_train_steps": STEPS,
    "iterations_per_loop": 1,
    "save_checkpoints_steps": 3,
    "deterministic": True,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Records of several epochs."""
    data_dir = pretraining.build_data_dir(tmp_path_factory.mktemp("resume"), documents_each=8)
    assert 10 * 4 < load_metadata(data_dir / "pretrain_tfrecords").num_examples < STEPS * 4
    return data_dir


@pytest.fixture(scope="module")
def start(data_dir):
    """A function that starts a run in a new process."""

    def start(name, **hparams):
        arguments = pretraining.arguments(data_dir, name, **(HPARAMS | hparams))
        return processes.start(pretrain.main, arguments, data_dir / f"{name}.txt")

    return start


def wait_until(process, condition):
    """Returns as soon as `condition()` holds; the process must still be running."""
    while not condition():
        assert process.is_alive(), "ended too early"
        time.sleep(0.002)


def last_step(run_dir):
    """The step in the log's last complete line; 0 if it has none."""
    path = run_dir / "train_log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def stderr_of(data_dir, name):
    return (data_dir / f"{name}.txt").read_text()


def test_a_run_killed_three_times_equals_one_that_was_not(data_dir, start):
    """Bit for bit: weights, moments and random states, with dropout, over several epochs."""
    whole = start("whole")  # at the same time as the other
    run_dir = data_dir / "models" / "killed"
    draw = random.Random(0)
    kills = [draw.randrange(first, first + 10) for first in range(2, 52, 18)]
    for step in kills:
        process = start("killed")
        wait_until(process, lambda step=step: last_step(run_dir) >= step)
        time.sleep(draw.uniform(0, 0.1))  # anywhere in a step, or in a checkpoint being written
        process.kill()
        process.join()
    finish(start("killed"))
    finish(whole)
    starts = [each["step"] for each in json.loads((run_dir / "run.json").read_text())["starts"]]
    assert len(starts) == 4 and starts[0] == 0 and starts == sorted(starts), (kills, starts)
    assert [line["step"] for line in log_lines(run_dir)] == [*range(1, STEPS + 1)]
    for name in (
        f"checkpoints/step_{STEPS}/state.safetensors",
        "discriminator/model.safetensors",
        "generator/model.safetensors",
    ):
        ours, theirs = (data_dir / "models" / run / name for run in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), (name, kills, starts)


def test_a_signal_saves_the_current_step(data_dir, start):
    process, run_dir = start("stopped", save_checkpoints_steps=1000), data_dir / "models/stopped"
    wait_until(process, lambda: last_step(run_dir) >= 5)
    process.terminate()
    finish(process, 143)
    (checkpoint,) = (run_dir / "checkpoints").iterdir()
    assert checkpoint.name == f"step_{last_step(run_dir)}"
    last_line = stderr_of(data_dir, "stopped").splitlines()[-1]
    assert last_line.startswith(f"stopped by SIGTERM: saved {checkpoint}")


def test_a_signal_while_the_step_is_traced(data_dir, start):
    process, run_dir = start("early", save_checkpoints_steps=1000), data_dir / "models/early"
    wait_until(process, (run_dir / "run.json").exists)
    os.kill(process.pid, signal.SIGINT)
    finish(process, 130)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_1"]
    assert "SIGINT: finishing and saving the current step" in stderr_of(data_dir, "early")

    # An evaluation that takes long.
    process = start("early", do_train=False, do_eval=True, num_eval_steps=1_000_000)
    wait_until(process, lambda: "resuming at step 1 " in stderr_of(data_dir, "early"))
    process.terminate()
    finish(process, 143)
    last_line = stderr_of(data_dir, "early").splitlines()[-1]
    assert last_line.startswith("stopped by SIGTERM: nothing needed saving")
