"""Training states: complete, verified, bounded in number; and what is done about damaged ones."""

import dataclasses
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
from tests.support.small_models import compiled_pretraining_model, moments

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


def test_only_so_many_are_kept_and_all_else_stays(checkpoints, model):
    own = ["step_7.tmp", "step_5.old", "step_2_copy", "notes"]
    for name in own:
        os.makedirs(os.path.join(checkpoints.directory, name))
    save(checkpoints, model, 8)
    assert sorted(os.listdir(checkpoints.directory)) == sorted([*own, "step_4", "step_6", "step_8"])


def test_one_that_cannot_be_read_now_is_not_damaged(checkpoints, monkeypatch):
    """It would be deleted if the run went on from an earlier one."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(training_state.files, "sha256_of", refuse)
    with pytest.raises(InputError, match=r"cannot read .*step_6.*: Permission denied"):
        checkpoints.newest()


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


def older_layouts(state, model):
    """The arrays of a state as older versions wrote them."""
    kept = {name: array for name, array in state.arrays.items() if "_moment_" not in name}
    weights = {
        f"optimizer/{i + 50:04d}/{variable.path}": np.array(variable)
        for i, variable in enumerate(model.trainable_variables)
    }
    yield state.arrays | weights
    # Each dropout had a random state, among the variables of its layer.
    names = [name.split("/", 2)[2] for name in state.arrays if name.startswith("model/")]
    names = [name for name in names if "dropout_random" not in name]
    arrays = {name.split("/", 2)[2]: array for name, array in state.arrays.items()}
    own = [np.array([i, 6]) for i in range(2)]
    arrays |= {"x/seed_generator/seed_generator_state": own[0], "y/seed_generator/s": own[1]}
    names[4:4] = [name for name in arrays if "/seed_generator/" in name]
    old = {f"model/{i:04d}/{name}": arrays[name] for i, name in enumerate(names)}
    yield old | {name: a for name, a in state.arrays.items() if name.startswith("optimizer/")}
    first, second = (
        np.concatenate([np.ravel(pair[i]) for pair in moments(model.optimizer)]) for i in (0, 1)
    )
    yield kept | {
        "optimizer/0001/adam_weight_decay/first_moment": first,
        "optimizer/0002/adam_weight_decay/second_moment": second,
    }


def test_states_of_older_versions_are_read(checkpoints, model):
    draw = np.random.default_rng(0)
    for variable in model.optimizer.variables[1:]:
        variable.assign(draw.normal(size=variable.shape))
    save(checkpoints, model, 7)
    state = checkpoints.newest()
    for arrays in older_layouts(state, model):
        for variable in model.optimizer.variables[1:]:
            variable.assign(np.zeros(variable.shape))
        dataclasses.replace(state, arrays=arrays).restore(model)
        for name, variable in state_variables(model).items():
            if "dropout_random" not in name or name in arrays:
                np.testing.assert_array_equal(variable, state.arrays[name], err_msg=name)
            else:
                assert np.array(variable).tolist() in ([0, 6], [1, 6])


def test_a_state_in_an_unknown_layout_is_refused(checkpoints, model):
    state = checkpoints.newest()
    name = next(name for name in state.arrays if "first_moment" in name)
    arrays = {key: array for key, array in state.arrays.items() if key != name}
    with pytest.raises(InputError, match=r"first_moment.*older version.*`init_checkpoint`"):
        dataclasses.replace(state, arrays=arrays).restore(model)


def seed_generators(layer):
    """Every SeedGenerator that a layer, or a layer inside it, has."""
    for each in layer._flatten_layers(include_self=True, recursive=True):
        yield from (v for v in vars(each).values() if isinstance(v, keras.random.SeedGenerator))


def test_every_random_state_is_part_of_it(model, checkpoints):
    generators = {id(generator): generator for generator in seed_generators(model)}
    assert len(generators) == 4  # masking, evaluation, and the dropouts of two networks
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
