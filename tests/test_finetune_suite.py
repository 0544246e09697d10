"""Several trials of several tasks, killed and resumed, with a stand-in for training."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import types

import numpy as np
import pytest

import finetune
from common import files
from common.errors import InputError
from tests.support import finetuning
from tests.support.files import write
from tests.support.finetuning import read_results


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("data"), "m")


class Killed(BaseException):
    """Stands for `kill -9`: nothing after it happens."""


class Model:
    """Stands for a trained model: its file and its outputs depend on its settings and its seed."""

    def __init__(self, job, trial):
        self.key = [round(1000 * job.config.learning_rate), job.config.seed + trial - 1]

    def save_pretrained(self, directory):
        os.makedirs(directory, exist_ok=True)
        pathlib.Path(directory, "model.safetensors").write_text(str(self.key))

    def outputs(self, examples):
        return np.random.default_rng(self.key).normal(size=(len(examples), 2)).astype(np.float32)


@pytest.fixture
def suite(data_dir, tmp_path, monkeypatch):
    """A function that runs two tasks' two trials without a network, killed at the n-th change.

    It returns how many trials it trained; `num_trained` counts those of all its calls.
    """
    num_trained, num_changes, killed_at = 0, 0, math.inf

    def train_and_score(job, features, trial):
        nonlocal num_trained
        num_trained += 1
        (part,), model = job.parts, Model(job, trial)
        outputs = {split: model.outputs(part.tests[split]) for split in job.tests_of(part, trial)}
        score = float(model.outputs(range(9)).sum())
        metrics = {name: score + i for i, name in enumerate(part.task.metrics)}
        name = part.task.name
        return {name: model}, {name: metrics if part.dev else {}}, {name: outputs}

    def limited(function):
        def change(path, *arguments, **options):
            nonlocal num_changes
            num_changes += os.path.lexists(path)
            if num_changes >= killed_at:
                raise Killed
            return function(path, *arguments, **options)

        return change

    for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, limited(getattr(module, name)))
    monkeypatch.setattr(finetune, "train_and_score", train_and_score)
    monkeypatch.setattr(finetune, "time", types.SimpleNamespace(time=lambda: 0.0))
    # For speed alone:
    monkeypatch.setattr(finetune, "make_features", lambda job, part: part.tests)
    monkeypatch.setattr(files, "sync", lambda path: None)
    picture = types.SimpleNamespace(savefig=lambda path, **_: pathlib.Path(path).touch())
    monkeypatch.setattr(finetune.results_table, "draw", lambda table: picture)
    hparams = {"num_trials": 2, "max_seq_length": 16, "learning_rate": 0.003}
    command = finetuning.arguments(data_dir, "m", hparams, "cola", "mrpc")
    args = finetune.parse_arguments(command)
    configs = finetune.job_configs(args)
    encoder = finetune.find_encoder(configs[0], str(data_dir / "models" / "m"))

    def run(model_dir, kill_at=math.inf, **hparams):
        nonlocal num_changes, killed_at
        jobs = []
        for config in (dataclasses.replace(config, **hparams) for config in configs):
            job = finetune.load_job(config, str(data_dir), str(model_dir))
            jobs.append(dataclasses.replace(job, encoder=encoder))
        before, num_changes, killed_at = num_trained, 0, kill_at
        try:
            finetune.run_jobs(jobs)
        finally:
            killed_at = math.inf
            run.num_trained = num_trained
        return num_trained - before

    return run


def results_of(model_dir):
    """The files in a model directory, except those that a killed process was writing."""
    paths = [path for path in model_dir.rglob("*") if path.is_file()]
    names = {path.relative_to(model_dir): path.read_text() for path in paths}
    return {name: text for name, text in names.items() if files.TEMPORARY_SUFFIX not in str(name)}


@pytest.mark.parametrize("resumed_rate", [0.001, 0.002])
def test_a_suite_killed_at_any_change_resumes(suite, tmp_path, resumed_rate):
    """With the settings that it was killed with, or with those of an earlier, finished run."""
    earlier, model_dir = tmp_path / "earlier" / "m", tmp_path / "m"
    assert suite(earlier, learning_rate=0.001) == 4
    shutil.copytree(earlier, model_dir)
    assert suite(model_dir, learning_rate=0.002) == 4
    expected = {0.001: results_of(earlier), 0.002: results_of(model_dir)}
    assert suite(model_dir, learning_rate=0.002) == 0
    assert results_of(model_dir) == expected[0.002]

    killed, kill_at = True, 0
    while killed:
        kill_at += 1
        shutil.rmtree(model_dir)
        shutil.copytree(earlier, model_dir)
        before = suite.num_trained
        try:
            suite(model_dir, kill_at=kill_at, learning_rate=0.002)
            killed = False
        except Killed:
            pass
        suite(model_dir, learning_rate=resumed_rate)
        assert results_of(model_dir) == expected[resumed_rate], kill_at
        if resumed_rate == 0.002:  # at most the current trial is repeated
            assert suite.num_trained - before in (4, 5)
    assert kill_at > 30


def test_the_suites_table(suite, tmp_path, capsys):
    suite(tmp_path, learning_rate=0.001)
    table = json.loads((tmp_path / "results" / "summary.json").read_text())
    results, row = read_results(tmp_path, "mrpc"), table["tasks"]["mrpc"]
    assert row["metrics"]["f1"]["values"] == [result["metrics"]["f1"] for result in results]
    assert (row["train_examples"], row["dev_examples"], row["seeds"]) == (30, 11, [0, 1])
    assert row["hparams"]["learning_rate"] == 0.001
    assert [each["missing"]["cola"] for each in table["averages"]] == [
        "30 training examples instead of GLUE's 8,551; 11 dev examples instead of GLUE's 1,043"
    ] * 2
    assert (tmp_path / "results" / "summary.md").read_text() in capsys.readouterr().out


def test_trials_that_were_not_scored_are_not_finished(suite, tmp_path):
    assert suite(tmp_path, do_eval=False) == 4
    assert not (tmp_path / "results" / "summary.json").exists()
    assert suite(tmp_path, do_eval=False) == 0
    assert suite(tmp_path) == 4


@pytest.mark.parametrize("text", ["{", "[]", '{"rte": []}', '{"cola": [{"trial": 1}]}'])
def test_a_damaged_results_file_is_named(suite, tmp_path, text):
    path = tmp_path / "results" / "cola_results.json"
    write(path, text)
    with pytest.raises(InputError, match=str(path)):
        suite(tmp_path)
    assert path.read_text() == text
