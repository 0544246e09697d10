"""Several trials of several tasks, killed and resumed, with a stand-in for training."""

import dataclasses
import errno
import json
import math
import os
import pathlib
import shutil
import types

import numpy as np
import pytest
import safetensors.numpy

import finetune
from common import files
from common.errors import InputError
from common.lock import locked
from jobs import working_copy
from tests.support import finetuning
from tests.support.files import write
from tests.support.finetuning import Killed, read_results
from tests.support.pretraining import tree


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("data"), "m")


class Model:
    """Stands for a trained model: its file and its outputs depend on its settings and its seed."""

    def __init__(self, job, trial):
        self.key = [round(1000 * job.config.learning_rate), job.config.seed + trial - 1]

    def save_pretrained(self, directory):
        os.makedirs(directory, exist_ok=True)
        config = {"architectures": ["ConvBertForSequenceClassification"]}
        pathlib.Path(directory, "config.json").write_text(json.dumps(config))
        weights = {"key": np.array(self.key)}
        safetensors.numpy.save_file(weights, pathlib.Path(directory, "model.safetensors"))

    def outputs(self, examples):
        return np.random.default_rng(self.key).normal(size=(len(examples), 2)).astype(np.float32)


@pytest.fixture
def suite(data_dir, tmp_path, monkeypatch):
    """A function that runs two tasks' two trials without a network, killed at the n-th change.

    It returns how many trials it trained; `num_trained` counts those of all its calls.
    """
    num_trained, num_changes, killed_at = 0, 0, math.inf

    def train_and_score(models, features, trial):
        nonlocal num_trained
        num_trained += 1
        job = models.job
        (part,), model = job.parts, Model(job, trial)
        outputs = {split: model.outputs(part.tests[split]) for split in job.tests_of(part, trial)}
        score = float(model.outputs(range(9)).sum())
        metrics = {name: score + i for i, name in enumerate(part.task.metrics)}
        name = part.task.name
        models.by_task = {name: model}
        return {name: metrics if part.dev else {}}, {name: outputs}, {}

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

    def run(model_dir, kill_at=math.inf, overwrite=False, **hparams):
        nonlocal num_changes, killed_at
        jobs = []
        for config in (dataclasses.replace(config, **hparams) for config in configs):
            job = finetune.load_job(config, str(data_dir), str(model_dir))
            jobs.append(dataclasses.replace(job, encoder=encoder))
        before, num_changes, killed_at = num_trained, 0, kill_at
        try:
            finetune.run_jobs(jobs, overwrite)
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
    assert suite(model_dir, overwrite=True, learning_rate=0.002) == 4
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
            suite(model_dir, kill_at=kill_at, overwrite=True, learning_rate=0.002)
            killed = False
        except Killed:
            pass
        suite(model_dir, overwrite=True, learning_rate=resumed_rate)
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


def test_results_of_other_settings_stay(suite, tmp_path):
    model_dir = tmp_path / "m"
    suite(model_dir, learning_rate=0.001)
    before = tree(model_dir)
    for change, message in (
        ({"learning_rate": 0.002}, r"`learning_rate` was 0\.001, is 0\.002"),
        ({"learning_rate": 0.001, "seed": 7}, "`seed` was 0, is 7"),
        ({"learning_rate": 0.001, "num_trials": 3, "num_train_epochs": 1.0}, "`num_train_epochs`"),
    ):
        with pytest.raises(InputError, match=rf"{message}.*--overwrite.*--run-name"):
            suite(model_dir, **change)
    assert tree(model_dir) == before
    run_dir = working_copy.output_directory(str(tmp_path), "m", "slow")
    assert suite(run_dir, learning_rate=0.002) == 4
    assert suite(run_dir, learning_rate=0.002) == suite(model_dir, learning_rate=0.001) == 0
    assert suite(model_dir, overwrite=True, learning_rate=0.002) == 4


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".hidden", "/a"])
def test_a_run_name_is_one_folder(name):
    with pytest.raises(InputError, match="--run-name"):
        working_copy.output_directory("data", "m", name)


def test_results_of_older_versions_are_compared_by_their_hash(suite, tmp_path):
    suite(tmp_path)
    for path in (tmp_path / "results").glob("*_results.json"):
        content = json.loads(path.read_text())
        for result in next(iter(content.values())):
            del result["settings"], result["keep_all_models"]
        write(path, content)
    assert suite(tmp_path) == 0
    with pytest.raises(InputError, match=r"\(other settings\)|: other settings"):
        suite(tmp_path, learning_rate=0.5)


def test_a_hyperparameter_that_is_new_had_its_default(suite, tmp_path):
    suite(tmp_path)
    for path in (tmp_path / "results").glob("*_results.json"):
        content = json.loads(path.read_text())
        for result in next(iter(content.values())):
            result["fingerprint"] = "of an older version"
            del result["settings"]["beam_size"]
        write(path, content)
    assert suite(tmp_path) == 0
    with pytest.raises(InputError, match="`beam_size` was 20, is 10"):
        suite(tmp_path, beam_size=10)


def test_models_and_predictions_without_results_stay(suite, tmp_path):
    suite(tmp_path)
    (tmp_path / "results" / "cola_results.json").unlink()
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"cola_2 exists, without results"):
        suite(tmp_path)
    assert tree(tmp_path) == before


def test_more_trials_keep_those_that_are_there(suite, tmp_path):
    suite(tmp_path, keep_all_models=True)
    models = tmp_path / "finetuning_models"
    write(models / "cola_7" / "mine", "")
    before = {path: time for path, time in tree(models).items() if path.name != "README.md"}
    assert suite(tmp_path, num_trials=3) == 2
    assert before.items() <= tree(models).items()  # they were kept on purpose
    assert suite(tmp_path, num_trials=4) == 2
    assert not (models / "cola_3").exists()
    shutil.rmtree(tmp_path / "finetuning_models" / "cola_1")
    assert suite(tmp_path, num_trials=1) == 1  # its model was the last one's
    assert [result["trial"] for result in read_results(tmp_path, "cola")] == [1, 2, 3, 4]


def test_scoring_again_keeps_what_is_known_of_the_training(suite, tmp_path):
    suite(tmp_path, num_trials=3, keep_all_models=True, learning_rate=0.001)
    trained = read_results(tmp_path, "cola")
    for options in ({"num_trials": 1}, {"num_trials": 3}, {"do_eval": False}):
        suite(tmp_path, do_train=False, **options)
        assert [r["fingerprint"] for r in read_results(tmp_path, "cola")] == [
            result["fingerprint"] for result in trained
        ]
        assert all(result["metrics"] for result in read_results(tmp_path, "cola"))
    assert suite(tmp_path, num_trials=3, keep_all_models=True, learning_rate=0.001) == 0

    with pytest.raises(InputError, match=r"`max_seq_length` was 16, is 8"):
        suite(tmp_path, do_train=False, max_seq_length=8)
    suite(tmp_path, do_train=False, num_trials=1, max_seq_length=8, overwrite=True)
    first, *others = read_results(tmp_path, "cola")
    assert first["scored_with"] == ["`max_seq_length` was 16, is 8"]
    assert not any("scored_with" in result for result in others)
    assert [r["settings"] for r in (first, *others)] == [r["settings"] for r in trained]


def test_a_model_to_score_must_be_there(suite, tmp_path):
    with pytest.raises(InputError, match=r"cola_1 is missing.*`keep_all_models`"):
        suite(tmp_path, do_train=False)
    suite(tmp_path)
    with pytest.raises(InputError, match=r"cola_1 is missing"):
        suite(tmp_path, do_train=False, num_trials=1)
    assert suite(tmp_path, do_train=False) == 2  # the last trial's, of both tasks
    with pytest.raises(InputError, match=r"cola_3 is missing"):
        suite(tmp_path, do_train=False, num_trials=3)


def test_two_tasks_of_a_model_at_a_time_but_not_one_twice(suite, tmp_path):
    results = tmp_path / "results"
    with locked(results / ".cola_results.json.lock", "the results", ""):
        with pytest.raises(InputError, match=r"cola_results\.json is in use"):
            suite(tmp_path)
        assert os.listdir(results) == [".cola_results.json.lock"]
    with locked(results / ".rte_results.json.lock", "the results", ""):
        suite(tmp_path)


def test_a_full_disk_costs_one_trial(suite, tmp_path, monkeypatch):
    replace, failures = os.replace, []

    def full_once(source, target):
        if not failures:
            failures.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_once)
    with pytest.raises(InputError, match=f"{tmp_path}.*No space left"):
        suite(tmp_path)
    assert suite(tmp_path) == 4


def test_a_full_disk_is_noticed_before_the_training(suite, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"finetuning_models: .* MB are needed"):
        suite(tmp_path)
    assert suite.num_trained == 0 and os.listdir(tmp_path) == []


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
