"""Runs that are killed, or stopped by a signal, in processes of their own."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest

import pretrain
from common import errors
from data.corpus import sources
from data.records import build, build_shard
from tests.support import corpora

STEPS = 60
HPARAMS = {
    "model_size": "tiny",
    "model_hparam_overrides": {"num_hidden_layers": 1, "max_position_embeddings": 32},
    "train_batch_size": 4,
    "num_train_steps": STEPS,
    "num_warmup_steps": 2,
    "iterations_per_loop": 1,
    "save_checkpoints_steps": 3,
    "deterministic": True,
}


def job(arguments, printed):
    """The script as it is, with stderr in a file."""
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = ["pretrain.py", *arguments]
    errors.run(pretrain.main)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A vocabulary, and records that are read several times in a run."""
    data_dir = tmp_path_factory.mktemp("resume")
    corpora.write_vocab(data_dir / "vocab.txt")
    archives = corpora.random_archives(2, 8)
    (data_dir / "openwebtext.tar").write_bytes(corpora.openwebtext_of(archives))
    options = build_shard.BuildOptions(vocab_file=str(data_dir / "vocab.txt"), max_seq_length=24)
    records = data_dir / "pretrain_tfrecords"
    metadata = build.build_records(sources.find_corpus(data_dir), options, records)
    assert 10 * 4 < metadata.num_examples < STEPS * 4
    return data_dir


@pytest.fixture(scope="module")
def start(data_dir):
    """A function that starts a run in a process of its own.

    It is forked from one that has imported TensorFlow, which takes longer than all these steps,
    and computed nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tensorflow", "keras", "model.training.callbacks", "data.records.batches"]
    )

    def start(name, **hparams):
        text = json.dumps(HPARAMS | hparams)
        arguments = ["--data-dir", str(data_dir), "--model-name", name, "--hparams", text]
        process = context.Process(target=job, args=(arguments, data_dir / f"{name}.txt"))
        process.start()
        return process

    return start


def wait_until(process, condition):
    """Returns as soon as `condition()` holds; the process must still be running."""
    while not condition():
        assert process.is_alive(), "ended too early"
        time.sleep(0.002)


def last_step(run_dir):
    """The step of the log's last complete line; 0 where there is none."""
    path = run_dir / "train_log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def finish(process):
    process.join(timeout=120)
    assert process.exitcode == 0


def test_a_run_killed_five_times_is_the_run_that_was_not(data_dir, start):
    """Bit for bit: weights, moments and random states, dropout on, over several epochs."""
    whole = start("whole")  # side by side with the other
    run_dir = data_dir / "models" / "killed"
    draw = random.Random()
    kills = [draw.randrange(first, first + 10) for first in range(2, 52, 10)]
    for step in kills:
        process = start("killed")
        wait_until(process, lambda step=step: last_step(run_dir) >= step)
        time.sleep(draw.uniform(0, 0.1))  # anywhere in a step, or in a checkpoint being written
        process.kill()
        process.join()
    finish(start("killed"))
    finish(whole)
    starts = [each["step"] for each in json.loads((run_dir / "run.json").read_text())["starts"]]
    assert len(starts) == 6 and starts[0] == 0 and starts == sorted(starts), (kills, starts)
    assert [json.loads(line)["step"] for line in (run_dir / "train_log.jsonl").open()] == [
        *range(1, STEPS + 1)
    ]
    for name in (
        f"checkpoints/step_{STEPS}/state.safetensors",
        "discriminator/model.safetensors",
        "generator/model.safetensors",
    ):
        ours, theirs = (data_dir / "models" / run / name for run in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), (name, kills, starts)


def printed_by(data_dir, name):
    return (data_dir / f"{name}.txt").read_text()


def test_a_signal_saves_the_step_under_way(data_dir, start):
    process, run_dir = start("stopped", save_checkpoints_steps=1000), data_dir / "models/stopped"
    wait_until(process, lambda: last_step(run_dir) >= 5)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert process.exitcode == 143
    (checkpoint,) = (run_dir / "checkpoints").iterdir()
    assert checkpoint.name == f"step_{last_step(run_dir)}"
    printed = printed_by(data_dir, "stopped")
    assert f"stopped by SIGTERM: saved {checkpoint}. The same command goes on" in printed


def test_a_signal_while_the_step_is_traced(data_dir, start):
    process, run_dir = start("early", save_checkpoints_steps=1000), data_dir / "models/early"
    wait_until(process, (run_dir / "run.json").exists)
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=60)
    assert process.exitcode == 130
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_1"]
    assert "SIGINT: the step under way ends and is saved" in printed_by(data_dir, "early")

    # From here on it only evaluates, for long.
    process = start("early", do_train=False, do_eval=True, num_eval_steps=1_000_000)
    wait_until(process, lambda: "resuming at step 1 " in printed_by(data_dir, "early"))
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert process.exitcode == 143
    assert "stopped by SIGTERM: nothing was lost" in printed_by(data_dir, "early")
