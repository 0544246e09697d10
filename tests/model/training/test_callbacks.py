import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from common.errors import InputError
from configure_pretraining import PretrainingConfig
from model.training.build import steps_per_execution
from model.training.callbacks import (
    CheckFinite,
    SaveCheckpoints,
    StepCallbacks,
    TrainingLog,
)
from model.training.checkpoints import TrainingCheckpoints
from tests.support.eager import eagerly
from tests.support.small_models import batch, compiled_pretraining_model, fit_pretraining


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Seven steps with a log every 3 and a checkpoint every 2, of which 3 are kept."""
    model = compiled_pretraining_model()
    checkpoints = TrainingCheckpoints(str(tmp_path_factory.mktemp("checkpoints")), keep=3)
    scalars = {}
    interval = {"first_step": 0, "last_step": 7}
    log = TrainingLog(
        lambda step, values: scalars.update({step: values}),
        tokens_per_step=48,
        every=3,
        **interval,
    )
    save = SaveCheckpoints(lambda: checkpoints.save(model, {"seed": 1}), every=2, **interval)
    fit_pretraining(model, batch(), 7, [log, save])
    return model, checkpoints, scalars


def test_log_lines(run):
    model, _, lines = run
    assert list(lines) == [1, 3, 6, 7]
    rates = [model.optimizer.learning_rate_at(step - 1) for step in lines]
    assert [line["learning_rate"] for line in lines.values()] == rates
    for line in lines.values():
        assert line["loss"] == pytest.approx(line["mlm_loss"] + 50 * line["rtd_loss"], abs=1e-3)
        for name in ("mlm_accuracy", "rtd_auc", "rtd_recall", "tokens_per_second", "seconds"):
            assert math.isfinite(line[name])


def test_the_last_checkpoints_are_kept(run):
    assert run[1].steps() == [4, 6, 7]
    assert run[1].newest().hparams == {"seed": 1}


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws(run, tmp_path):
    model, checkpoints, _ = run
    early = TrainingCheckpoints(str(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_4").symlink_to(checkpoints.path(4))
    resumed = compiled_pretraining_model(seed=99)  # everything comes from the checkpoint
    early.newest().restore(resumed)
    assert int(resumed.optimizer.iterations) == 4
    fit_pretraining(resumed, batch(), 3)
    for ours, theirs in zip(resumed.variables, model.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)


def test_several_steps_an_execution(run):
    """Three at a time: what is due in one is done at its end, and no step is too many."""
    saved, scalars, interval = [], {}, {"first_step": 10, "last_step": 17}
    model = compiled_pretraining_model(steps_per_execution=3)
    log = TrainingLog(
        lambda step, values: scalars.update({step: values}),
        tokens_per_step=48,
        every=5,
        **interval,
    )
    save = SaveCheckpoints(lambda: saved.append(int(model.optimizer.iterations)), 2, **interval)
    fit_pretraining(model, batch(), 7, [log, save])
    assert list(scalars) == [13, 16, 17]
    assert saved == [3, 6, 7]
    for ours, theirs in zip(model.variables, run[0].variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)


@eagerly()
def test_a_stop_saves_and_ends():
    saved, model = [], compiled_pretraining_model()
    save = SaveCheckpoints(
        lambda: saved.append(int(model.optimizer.iterations)),
        every=100,
        first_step=0,
        last_step=7,
        stop_requested=lambda: int(model.optimizer.iterations) == 2,
    )
    fit_pretraining(model, batch(), 7, [save])
    assert saved == [2] and int(model.optimizer.iterations) == 2


def test_a_loss_that_is_not_finite_is_noticed():
    """At the next step whose loss is read, with the step that was the first one."""
    check = CheckFinite(
        lambda *steps: ValueError(f"{steps}"), (10, 8), first_step=20, last_step=100
    )
    losses = {20: 1.0, 22: 1.0, 24: np.inf, 26: np.nan}
    for number, loss in losses.items():
        check.on_train_batch_end(number - 20 + 1, {"loss": loss})
    with pytest.raises(ValueError, match=r"\(25, 26\)"):
        check.on_train_batch_end(9, {"loss": np.nan})
    for number, step in ((11, 32), (13, 34)):
        check.on_train_batch_end(number, {"loss": 1.0})
        assert check.step == step


def test_logs_are_read_only_where_they_are_needed(capsys):
    reads = set()

    class Loss:
        def __init__(self, step):
            self.step = step

        def __array__(self, *options, **named_options):
            reads.add(self.step)
            return np.array(1.0)

        def __float__(self):
            return float(self.__array__())

    class Model:
        optimizer = SimpleNamespace(learning_rate_at=float, loss_scaling=dict)

        def exact_logs(self, logs):
            return logs

        def reset_metrics(self):
            pass

    interval = {"first_step": 0, "last_step": 12}
    check = CheckFinite(lambda *steps: ValueError(), (5, 8), **interval)
    log = TrainingLog(None, tokens_per_step=1, every=5, **interval)
    save = SaveCheckpoints(lambda: "x", every=8, **interval)
    callbacks = StepCallbacks([check, log, save], Model())
    callbacks.on_train_begin()
    for step in range(1, 13):
        callbacks.on_train_batch_end(step - 1, {"loss": Loss(step)})
    log.write_evaluation({"eval_loss": 1.0}, seconds=1.0)
    log.close()
    assert reads == {1, 5, 8, 10, 12}
    # This log is that of a process which writes nothing.
    assert capsys.readouterr().err == "step 8: saved x\nstep 12: saved x\n"


@pytest.mark.parametrize(
    ("hparams", "expected"),
    [
        ({}, 5),
        ({"iterations_per_loop": 64}, 8),
        ({"iterations_per_loop": 64, "save_checkpoints_steps": 100}, 4),
        ({"eval_every": 7, "eval_holdout_shards": 1}, 1),
        ({"steps_per_execution": 9}, 9),
    ],
)
def test_default_steps_an_execution_on_gpus(monkeypatch, hparams, expected):
    config = PretrainingConfig.from_hparams(hparams)
    assert steps_per_execution(config) == hparams.get("steps_per_execution", 1)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: [f"{kind}:0"])
    assert steps_per_execution(config) == expected
    if expected == 9:
        with pytest.raises(InputError, match=r"`steps_per_execution` must be .* `num_devices` 2"):
            steps_per_execution(config, 2)
    else:
        assert steps_per_execution(config, 2) == 1


def test_another_model_is_refused(run):
    with pytest.raises(InputError, match=r"belongs to another model: .*`model/.* differences\)"):
        run[1].newest().restore(compiled_pretraining_model(linear_groups=1))
