"""Sweeps over settings of tiny fine-tuning jobs, and of jobs with given scores."""

import dataclasses
import json

import optuna
import pytest

import finetune
from common import files
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks import glue
from jobs import figures, sweep_report, sweep_study, trials
from jobs.trials import Job, TaskData
from scripts import sweep
from tests.support import finetuning
from tests.support.finetuning import HPARAMS, Killed
from tests.support.pretraining import tree
from tests.support.processes import ROOT, run_python

pytestmark = pytest.mark.usefixtures("eager")
GRID = {"learning_rate": [0.003, 1e-6], "train_batch_size": [8, 15]}
RATES = {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("data"), "m")


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr(files, "sync", lambda path: None)


def command(data_dir, name, space, *options, **hparams):
    given = HPARAMS | {"num_train_epochs": 2.0} | hparams
    words = finetuning.arguments(data_dir, "m", given, "cola")
    return [*words, "--run-name", name, "--space", json.dumps(space), *options]


def run(data_dir, name, space, *options, **hparams):
    """Runs a sweep; returns its folder."""
    sweep.main(command(data_dir, name, space, *options, **hparams))
    return data_dir / "models" / "m" / "finetuning_runs" / name


def trials_of(folder):
    url = f"sqlite:///{folder / sweep_study.FILE}"
    return optuna.load_study(study_name="sweep", storage=url).trials


@pytest.fixture
def given_scores(monkeypatch):
    """A function after which settings are not trained: `curve(settings)` are their scores."""

    def use(curve):
        def run_setting(job, model_dir):
            evaluations = []
            for epoch, score in enumerate(curve(job.config), start=1):
                evaluations.append({"epoch": epoch, "score": score})
                job.watch(1, evaluations)
            return evaluations[-1]["score"]

        monkeypatch.setattr(sweep, "run_setting", run_setting)
        monkeypatch.setattr(figures, "save", lambda figure, path: None)
        monkeypatch.setattr(sweep_report, "draw", lambda *content: None)

    return use


def test_a_grid_that_is_killed_and_goes_on(data_dir, monkeypatch, capsys):
    train, trained = finetune.train, []

    def train_and_die(models, *arguments):
        trained.append(models.job.model_dir.rsplit("/", 1)[1])
        result = train(models, *arguments)
        if len(trained) == 2:
            raise Killed
        return result

    monkeypatch.setattr(finetune, "train", train_and_die)
    options = ("--sampler", "grid", "--no-prune")
    with pytest.raises(Killed):
        run(data_dir, "grid", GRID, *options)
    folder = run(data_dir, "grid", GRID, *options)
    assert trained == [f"setting_{i}" for i in (1, 2, 2, 3, 4)]
    rates, sizes = [0.003, 0.003, 1e-6, 1e-6], [8, 15, 8, 15]
    found, expected = trials_of(folder), zip(rates, sizes, strict=True)
    texts = [tuple(map(json.dumps, each)) for each in expected]
    assert [tuple(trial.params.values()) for trial in found] == texts
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in found)

    best = max(found, key=lambda trial: trial.value)
    number = best.number + 1
    models = [path.parts[-2] for path in folder.glob("*/finetuning_models")]
    assert models == [f"setting_{number}"]
    (result,) = finetuning.read_results(folder / f"setting_{number}", "cola")
    assert result["metrics"]["mcc"] == best.value
    table = (folder / "sweep.md").read_text()
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert int(rows[0][1]) == number and len(rows) == 4
    assert "optimistic" in table
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")

    before = tree(folder)
    capsys.readouterr()
    assert run(data_dir, "grid", GRID, *options) == folder and len(trained) == 5
    assert tree(folder).keys() == before.keys()
    shown, path = capsys.readouterr().out.splitlines()
    assert shown == f"setting {number}: mcc {best.value:.2f}"

    finetune.main(
        [*finetuning.arguments(data_dir, "m", {}, "cola"), "--hparams", path, "--print-config"]
    )
    config = json.loads(capsys.readouterr().out)
    assert (config["learning_rate"], config["train_batch_size"]) == list(
        zip(rates, sizes, strict=True)
    )[best.number]
    assert config["write_test_outputs"] and config["max_seq_length"] == HPARAMS["max_seq_length"]

    with pytest.raises(
        InputError, match=r"another `space`; `weight_decay_rate` was 0\.01, is 0\.5"
    ):
        run(data_dir, "grid", {"learning_rate": [1e-3]}, *options, weight_decay_rate=0.5)


def test_a_setting_is_pruned_during_its_training(data_dir, monkeypatch):
    score, given = finetune.score, [50.0, 60.0, 10.0]

    def given_score(models, features):
        metrics, outputs = score(models, features)
        return {"cola": metrics["cola"] | {"mcc": given.pop(0)}}, outputs

    monkeypatch.setattr(finetune, "score", given_score)
    space = {"learning_rate": [0.003, 1e-6]}
    folder = run(data_dir, "pruned", space, "--sampler", "grid", "--prune-after", "1")
    good, bad = trials_of(folder)
    assert good.value == 60 and good.intermediate_values == {1: 50, 2: 60}
    assert bad.state == optuna.trial.TrialState.PRUNED and bad.intermediate_values == {1: 10}
    assert "below the median at epoch 1" in (folder / "sweep.md").read_text()
    assert not given and not (folder / "setting_2" / "results").exists()


def test_a_sweep_that_was_killed_draws_the_same(data_dir, given_scores):
    def curve(config):
        return [100 * (1 - config.learning_rate)] * 2

    given_scores(curve)
    whole = trials_of(run(data_dir, "whole", RATES, "--trials", "13"))
    assert len({trial.params["learning_rate"] for trial in whole}) == 13
    left = [None] * 11

    def dying(config):
        left.pop()
        if not left:
            raise Killed
        return curve(config)

    given_scores(dying)
    with pytest.raises(Killed):
        run(data_dir, "parts", RATES, "--trials", "13")
    given_scores(curve)
    folder = run(data_dir, "parts", RATES, "--trials", "12")
    folder = run(data_dir, "parts", RATES, "--trials", "13")  # one more
    parts = trials_of(folder)
    assert [trial.params for trial in parts] == [trial.params for trial in whole]
    assert [trial.value for trial in parts] == [trial.value for trial in whole]
    best = json.loads((folder / "best_hparams.json").read_text())["learning_rate"]
    assert best == min(trial.params["learning_rate"] for trial in parts)


def test_a_score_is_a_mean_over_seeds_and_tasks(monkeypatch):
    parts = tuple(TaskData(glue.TASKS[name], None, {}, {}) for name in ("cola", "sst"))
    job, done = Job(parts, FinetuningConfig(num_trials=2), None, "x"), []
    results = {
        1: {"cola": {"metrics": {"mcc": 10.0}}, "sst": {"metrics": {"accuracy": 50.0}}},
        2: {"cola": {"metrics": {"mcc": 20.0}}, "sst": {"metrics": {"accuracy": 60.0}}},
    }
    monkeypatch.setattr(sweep, "find_encoder", lambda config, model_dir: None)
    monkeypatch.setattr(finetune, "run_jobs", done.extend)
    monkeypatch.setattr(trials, "finished_trials", lambda job: results)
    assert sweep.run_setting(job, "x") == 35 and done == [job]
    assert sweep.score_name(job) == "mean of cola mcc and sst accuracy"
    assert sweep.run_setting(dataclasses.replace(job, parts=parts[:1]), "x") == 15


def test_settings_that_fail(data_dir, given_scores, caplog):
    """They have no score, and the sweep goes on; with a full disk, it can only end."""

    def curve(config):
        if config.learning_rate == 1:
            raise InputError("the loss is no longer finite")
        if config.learning_rate == 2:
            raise files.WriteError("disk full")
        return [config.learning_rate]

    given_scores(curve)
    options = ("--sampler", "grid")
    folder = run(data_dir, "failing", {"learning_rate": [1, 0.5]}, *options)
    assert "pruned: the loss is no longer finite" in (folder / "sweep.md").read_text()
    assert json.loads((folder / "best_hparams.json").read_text())["learning_rate"] == 0.5
    with pytest.raises(InputError, match=r"no setting could .*no longer finite"):
        run(data_dir, "all_fail", {"learning_rate": [1]}, *options)
    with pytest.raises(InputError, match="disk full"):
        run(data_dir, "full", {"learning_rate": [2, 0.5]}, *options)
    given_scores(lambda config: [config.learning_rate])
    folder = run(data_dir, "full", {"learning_rate": [2, 0.5]}, *options)
    assert [trial.value for trial in trials_of(folder)] == [2, 0.5]


def test_what_is_wrong_is_said_before_anything_is_written(data_dir, monkeypatch):
    before = tree(data_dir)
    space = {"learning_rate": [1e-3]}
    for options, message in (
        (("--trials", "0"), "`--trials` must be at least 1"),
        (("--space", "nowhere.json"), "--space: not a JSON object, and no such file"),
        (("--space", '{"lerning_rate": [1]}'), "--space: unknown .* Did you mean `learning_rate`"),
        (
            ("--space", '{"label_smoothing": [0, 1]}'),
            "--space: `label_smoothing` must be .*below 1",
        ),
        (("--run-name", "a/b"), "--run-name"),
    ):
        with pytest.raises(InputError, match=message):
            run(data_dir, "x", space, *options)
    with pytest.raises(InputError, match="`do_eval` must be true in a sweep"):
        run(data_dir, "x", space, "--no-prune", do_eval=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scripts/sweep\.py.* pip install optuna=="):
        run(data_dir, "x", space)
    assert tree(data_dir) == before
    requirements = (ROOT / "requirements-dev.txt").read_text().split()
    assert sweep.OPTUNA in requirements


def test_a_dry_run_loads_and_writes_nothing(data_dir):
    before = tree(data_dir)
    words = command(data_dir, "dry", GRID, "--sampler", "grid", "--dry-run")
    done = run_python("-X", "importtime", "scripts/sweep.py", *words)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "finetune" in imported and not imported & {"tensorflow", "keras", "optuna"}
    assert "cola: 4 settings of learning_rate" in done.stderr
    assert tree(data_dir) == before
