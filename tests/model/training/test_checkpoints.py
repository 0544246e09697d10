"""Training states: complete, verified, bounded in number; and what is done about damaged ones."""

import errno
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from common.errors import InputError
from common.files import WriteError
from model.training import checkpoints as training_state
from model.training.checkpoints import TrainingCheckpoints, not_finite, state_variables
from tests.support.pretraining import tree
from tests.support.small_models import compiled_pretraining_model

HPARAMS = {"seed": 1}


@pytest.fixture(scope="module")
def model():
    return compiled_pretraining_model()


@pytest.fixture
def checkpoints(model, tmp_path):
    """Checkpoints of the steps 2, 4 and 6."""
    checkpoints = TrainingCheckpoints(str(tmp_path / "checkpoints"), keep=3)
    for step in (2, 4, 6):
        save(checkpoints, model, step)
    return checkpoints


def save(checkpoints, model, step):
    model.optimizer.iterations.assign(step)
    return checkpoints.save(model, HPARAMS)


def test_the_newest_is_read(checkpoints):
    state = checkpoints.newest()
    assert (state.step, state.hparams) == (6, HPARAMS)
    assert state.path == checkpoints.path(6) == checkpoints.last_good
    with open(os.path.join(state.path, "state.json"), encoding="utf-8") as file:
        assert len(json.load(file)["sha256"]) == 64


def test_without_a_checkpoint(tmp_path):
    checkpoints = TrainingCheckpoints(str(tmp_path / "nowhere"))
    assert checkpoints.newest() is None
    assert checkpoints.last_good_sentence() == "There is no checkpoint yet"


def flip(path):
    with open(path, "r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))


def cut(path):
    with open(path, "r+b") as file:
        file.truncate(20)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flip, cut, os.remove])
def test_a_damaged_newest_one_is_passed_over(checkpoints, caplog, name, damage):
    path = os.path.join(checkpoints.path(6), name)
    damage(path)
    with caplog.at_level("WARNING", logger="absl"):
        state = checkpoints.newest()
    if (name, damage) == ("state.json", flip):  # the hash's last character but a few
        path = os.path.join(checkpoints.path(6), "state.safetensors")
    assert state.step == 4
    assert "damaged checkpoint" in caplog.text and path in caplog.text


def test_all_damaged(checkpoints):
    for step in checkpoints.steps():
        cut(os.path.join(checkpoints.path(step), "state.safetensors"))
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged: .*step_6.*step_2"):
        checkpoints.newest()


def test_damaged_ones_do_not_push_out_good_ones(checkpoints, model):
    cut(os.path.join(checkpoints.path(6), "state.safetensors"))
    cut(os.path.join(checkpoints.path(4), "state.json"))
    checkpoints.keep = 2
    assert checkpoints.newest().step == 2
    save(checkpoints, model, 3)
    assert checkpoints.steps() == [2, 3]  # the later ones never happened
    assert checkpoints.newest().step == 3


def test_only_so_many_are_kept_and_leftovers_go(checkpoints, model):
    for leftover in ("step_7.tmp", "step_5.old"):
        os.makedirs(os.path.join(checkpoints.directory, leftover))
    save(checkpoints, model, 8)
    assert sorted(os.listdir(checkpoints.directory)) == ["step_4", "step_6", "step_8"]


def test_saving_a_step_again_replaces_it(checkpoints, model):
    checkpoints.save(model, {"seed": 2})
    assert checkpoints.newest().hparams == {"seed": 2}
    assert checkpoints.steps() == [2, 4, 6]


@pytest.mark.parametrize("kind", ["os", "safetensors"])
def test_a_full_disk_changes_nothing(checkpoints, model, monkeypatch, kind):
    def full(*arguments):
        if kind == "os":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise training_state.safetensors.SafetensorError("No space left on device (os error 28)")

    before = tree(Path(checkpoints.directory))
    monkeypatch.setattr(training_state.safetensors.numpy, "save_file", full)
    with pytest.raises(WriteError, match=r"cannot write .*step_8: No space left on device"):
        save(checkpoints, model, 8)
    assert tree(Path(checkpoints.directory)) == before
    assert checkpoints.last_good == checkpoints.path(6)


def seed_generators(layer):
    """Every SeedGenerator that a layer, or a layer inside it, has."""
    for each in layer._flatten_layers(include_self=True, recursive=True):
        yield from (v for v in vars(each).values() if isinstance(v, keras.random.SeedGenerator))


def test_every_random_state_is_part_of_it(model, checkpoints):
    generators = {id(generator): generator for generator in seed_generators(model)}
    assert len(generators) > 4  # masking, evaluation, and the dropouts of two networks
    saved = {id(variable): name for name, variable in state_variables(model).items()}
    arrays = safetensors.numpy.load_file(os.path.join(checkpoints.path(6), "state.safetensors"))
    for generator in generators.values():
        np.testing.assert_array_equal(arrays[saved[id(generator.state)]], generator.state)


def test_a_weight_that_is_not_finite_is_named(model):
    assert not_finite(model) is None
    weight = model.trainable_variables[3]
    value = np.array(weight)
    damaged = value.copy()
    damaged.flat[1] = np.inf
    weight.assign(damaged)
    try:
        assert not_finite(model) == weight.path
    finally:
        weight.assign(value)
