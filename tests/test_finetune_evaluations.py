"""Scores during a trial's training, what they decide, and trials that go on after a kill."""

import functools
import json
import shutil
import signal

import numpy as np
import pytest

import finetune
from common import files
from common.errors import InputError
from jobs import trial_progress
from tests.support import finetuning
from tests.support.finetuning import HPARAMS, Killed, read_predictions, read_results
from tests.support.pretraining import log_lines, tree

pytestmark = pytest.mark.usefixtures("eager")
# 30 examples in batches of 8.
EPOCH_ENDS = [4, 8, 12, 15]
SETTINGS = {"train_batch_size": 8, "num_train_epochs": 4.0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("data"), "m")


@pytest.fixture
def fine_tune(data_dir, monkeypatch):
    """A function that runs a trial with given scores, and returns the run's folder."""
    monkeypatch.setattr(files, "sync", lambda path: None)
    score = finetune.score

    def run(name, *options, scores=(), task="cola", **hparams):
        left = list(scores)

        def given(models, features):
            metrics, outputs = score(models, features)
            return {task: metrics[task] | {"mcc": left.pop(0)}} if left else metrics, outputs

        monkeypatch.setattr(finetune, "score", given)
        command = finetuning.arguments(data_dir, "m", HPARAMS | SETTINGS | hparams, task)
        finetune.main([*command, "--run-name", name, *options])
        return data_dir / "models" / "m" / "finetuning_runs" / name

    return run


def logits(run_dir):
    rows = read_predictions(run_dir, "cola_test_1")
    return np.array([numbers.split() for _, _, numbers in rows], float)


def test_the_scores_of_each_epoch(fine_tune, capsys):
    without = fine_tune("without")
    assert not (without / "finetuning_logs").exists()
    run_dir = fine_tune("epochs", eval_every="epoch", scores=[1.0, 5.0, 3.0, 4.0])
    (result,) = read_results(run_dir, "cola")
    assert [each["mcc"] for each in result["evaluations"]] == [1.0, 5.0, 3.0, 4.0]
    assert [each["step"] for each in result["evaluations"]] == EPOCH_ENDS
    assert result["kept_step"] == 15 and result["settings"]["keep"] == "last"
    # Evaluations change nothing.
    np.testing.assert_allclose(logits(run_dir), logits(without), atol=1e-5)
    expected = read_results(without, "cola")[0]["metrics"]
    assert result["metrics"] == expected | {"mcc": 4.0}  # found at step 15

    folder = run_dir / "finetuning_logs" / "cola_1"
    lines = log_lines(folder)
    assert [line["step"] for line in lines] == EPOCH_ENDS
    assert [line["eval_mcc"] for line in lines] == [1.0, 5.0, 3.0, 4.0]
    assert all(0 < line["loss"] < 2 for line in lines)
    assert lines[0]["learning_rate"] > lines[-1]["learning_rate"] > 0
    assert len(list(folder.glob("events.*"))) == 1
    shown = capsys.readouterr().err
    assert "step 8, epoch 2.133: mcc 5.00 (best so far)" in shown and "mcc=4.00" in shown
    assert fine_tune("epochs") == run_dir  # the same results, so nothing is repeated
    assert read_results(run_dir, "cola") == [result]


@pytest.mark.parametrize(("keep", "kept_step"), [("last", 15), ("best", 8)])
def test_weights_are_scored_once(fine_tune, monkeypatch, keep, kept_step):
    predict, splits = finetune.predict, []

    def count(models, features, task, split, batch_size):
        splits.append(split)
        return predict(models, features, task, split, batch_size)

    monkeypatch.setattr(finetune, "predict", count)
    run_dir = fine_tune(f"once_{keep}", eval_every="epoch", keep=keep, scores=[1.0, 5.0, 3.0, 4.0])
    assert splits == ["dev"] * 4 + ["test"]
    (result,) = read_results(run_dir, "cola")
    assert result["kept_step"] == kept_step
    assert result["metrics"]["mcc"] == {"last": 4.0, "best": 5.0}[keep]
    assert "found" not in result


def test_steps_between_the_scores_of_several_tasks(data_dir):
    hparams = HPARAMS | {"task_names": ["cola", "sts"], "eval_every": 5, "num_train_epochs": 3.0}
    command = finetuning.arguments(data_dir, "m", hparams)
    finetune.main([*command, "--run-name", "joint"])
    run_dir = data_dir / "models" / "m" / "finetuning_runs" / "joint"
    lines = log_lines(run_dir / "finetuning_logs" / "cola+sts_1")
    assert [line["step"] for line in lines] == [5, 10, 15, 18]
    assert lines[0].keys() >= {"eval_cola_mcc", "eval_sts_pearson", "eval_sts_spearman"}
    (cola,), (sts,) = (read_results(run_dir, task, "cola+sts") for task in ("cola", "sts"))
    assert cola["evaluations"] == sts["evaluations"]
    for each in cola["evaluations"]:
        assert each["score"] == pytest.approx((each["cola_mcc"] + each["sts_pearson"]) / 2)


def test_the_best_weights_are_kept_and_the_training_stops(fine_tune):
    at_8 = fine_tune("at_8", early_stopping_patience=1, scores=[7.0, 5.0])
    (result,) = read_results(at_8, "cola")
    assert [each["step"] for each in result["evaluations"]] == [4, 8] and result["kept_step"] == 8
    run_dir = fine_tune("best", keep="best", early_stopping_patience=1, scores=[4.0, 5.0, 5.0, 9.0])
    (result,) = read_results(run_dir, "cola")
    assert [each["step"] for each in result["evaluations"]] == [4, 8, 12]
    assert result["kept_step"] == 8  # the first of equal ones
    np.testing.assert_allclose(logits(run_dir), logits(at_8), atol=1e-5)
    text = (run_dir / "results" / "cola_results.txt").read_text()
    assert "step 8, the best of 3 scores on dev)" in text
    for path in ("results/cola_report.html", "finetuning_models/cola_1/README.md"):
        assert "optimistic" in (run_dir / path).read_text()
    with pytest.raises(InputError, match='`keep` was "best", is "last"'):
        fine_tune("best")


@pytest.fixture
def killed(fine_tune, monkeypatch):
    """A function that runs a trial until it has saved its n-th state; see `fine_tune`."""
    save = trial_progress.TrialProgress._save

    def run(name, *options, saves, **hparams):
        left = [Killed] * saves

        def save_and_die(progress):
            save(progress)
            left.pop()
            if not left:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(trial_progress, "SECONDS_BETWEEN_STATES", 0)
            patch.setattr(trial_progress.TrialProgress, "_save", save_and_die)
            with pytest.raises(Killed):
                fine_tune(name, *options, **hparams)

    return run


def test_a_killed_trial_goes_on(fine_tune, killed, data_dir):
    """With the best weights and the scores from before."""
    settings = {"keep": "best", "early_stopping_patience": 2}
    whole = fine_tune("whole", scores=[4.0, 5.0, 3.0, 2.0], **settings)
    killed("killed", saves=1, scores=[4.0], **settings)
    killed("killed", saves=2, scores=[5.0, 3.0], **settings)
    run_dir = data_dir / "models" / "m" / "finetuning_runs" / "killed"
    (state,) = (run_dir / "finetuning_checkpoints" / "cola_1").iterdir()
    assert state.name == "step_12" and not (run_dir / "results").exists()
    log = run_dir / "finetuning_logs" / "cola_1" / "train_log.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 14}) + "\n")  # it ran on after the state

    before = tree(run_dir)
    with pytest.raises(InputError, match=r"finetuning_checkpoints .*`learning_rate` was 0\.003"):
        fine_tune("killed", learning_rate=0.1, **settings)
    assert tree(run_dir) == before

    fine_tune("killed", scores=[2.0], **settings)
    (result,), (expected,) = read_results(run_dir, "cola"), read_results(whole, "cola")
    for name in ("evaluations", "kept_step", "settings"):
        assert result[name] == expected[name], name
    # The made-up score of step 8 ended with the process that found it.
    assert result["metrics"] | {"mcc": 5.0} == expected["metrics"]
    assert result["kept_step"] == 8
    np.testing.assert_allclose(logits(run_dir), logits(whole), atol=1e-5)
    assert [line["step"] for line in log_lines(log.parent)] == EPOCH_ENDS
    assert not (run_dir / "finetuning_checkpoints").exists()


def test_a_signal_saves_the_trial(fine_tune, data_dir, monkeypatch, capfd):
    """In the middle of an epoch, and after the training."""

    def send(number, *arguments):
        signal.raise_signal(number)

    def send_after_step_5(bar, *arguments):
        show(bar, *arguments)
        if bar.n == 6:
            send(signal.SIGTERM)

    show, whole = finetune.show_loss, fine_tune("not_stopped", eval_every="epoch")
    run_dir = data_dir / "models" / "m" / "finetuning_runs" / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "show_loss", send_after_step_5)
        with pytest.raises(SystemExit) as end:
            fine_tune("stopped", eval_every="epoch")
    assert end.value.code == 128 + signal.SIGTERM
    (state,) = (run_dir / "finetuning_checkpoints" / "cola_1").iterdir()
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert last_line.startswith(f"stopped by SIGTERM: saved {state}. ")
    assert state.name in ("step_6", "step_7")  # in the middle of an epoch

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save_models", functools.partial(send, signal.SIGINT))
        with pytest.raises(SystemExit) as end:
            fine_tune("stopped", eval_every="epoch")
    assert end.value.code == 128 + signal.SIGINT
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert last_line.startswith("stopped by SIGINT: finished trials are saved, ")

    fine_tune("stopped", eval_every="epoch")
    (result,), (expected,) = read_results(run_dir, "cola"), read_results(whole, "cola")
    assert result["evaluations"] == expected["evaluations"]
    np.testing.assert_allclose(logits(run_dir), logits(whole), atol=1e-5)


def test_other_settings_replace_an_unfinished_trial(fine_tune, killed, data_dir):
    killed("replaced", saves=1)
    run_dir = data_dir / "models" / "m" / "finetuning_runs" / "replaced"
    rival = shutil.copytree(run_dir, run_dir.with_name("finished"))
    assert fine_tune("replaced", "--overwrite", learning_rate=0.01) == run_dir
    assert read_results(run_dir, "cola")[0]["settings"]["learning_rate"] == 0.01
    assert not (run_dir / "finetuning_checkpoints").exists()

    # A trial may be killed between its results and the end of its state.
    shutil.copytree(run_dir / "results", rival / "results")
    for name in ("finetuning_models", "test_predictions"):
        shutil.copytree(run_dir / name, rival / name)
    fine_tune("finished", "--overwrite", learning_rate=0.01)
    assert not (rival / "finetuning_checkpoints").exists()


def test_short_trials_save_no_state_and_a_full_disk_ends_none(fine_tune, monkeypatch, caplog):
    saved = []
    monkeypatch.setattr(trial_progress.TrainingCheckpoints, "save", lambda *a: saved.append(a))
    fine_tune("short", num_train_epochs=1.0)
    assert not saved

    def full(*arguments):
        raise files.WriteError("No space left on device")

    monkeypatch.setattr(trial_progress, "SECONDS_BETWEEN_STATES", 0)
    monkeypatch.setattr(trial_progress.TrainingCheckpoints, "save", full)
    run_dir = fine_tune("full", num_train_epochs=1.0)
    assert read_results(run_dir, "cola") and not (run_dir / "finetuning_checkpoints").exists()
