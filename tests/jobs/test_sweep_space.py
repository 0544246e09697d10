import pytest

from common.errors import InputError
from jobs.sweep_space import Range, check_space, corners, grid


def test_a_space():
    rate = {"low": 1e-5, "high": 1e-3, "log": True}
    given = {
        "learning_rate": rate,
        "num_train_epochs": [3, 10],
        "class_weights": [None, "balanced"],
    }
    space = check_space(given | {"train_batch_size": {"low": 8, "high": 32.0, "step": 8}}, "s")
    assert space["learning_rate"] == Range(1e-5, 1e-3, log=True)
    assert space["train_batch_size"] == Range(8, 32, step=8)
    assert isinstance(space["train_batch_size"].high, int)
    assert space["num_train_epochs"] == [3.0, 10.0]
    assert list(corners(space))[:3] == [
        {"learning_rate": 1e-5},
        {"learning_rate": 1e-3},
        {"num_train_epochs": 3.0},
    ]
    with pytest.raises(InputError, match="`learning_rate`, which has a range"):
        grid(space)


def test_a_grid():
    space = check_space({"train_batch_size": [16, 32], "keep": ["last", "best"]}, "s")
    found = [tuple(each.values()) for each in grid(space)]
    assert found == [(16, "last"), (16, "best"), (32, "last"), (32, "best")]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "`space` must be an object with"),
        ({"lerning_rate": [1e-4]}, r"unknown hyper-parameter `lerning_rate`\. Did you mean `learn"),
        ({"lerning_rate": {"low": 1, "high": 2}}, "unknown hyper-parameter `lerning_rate`"),
        ({"learning_rate": 1e-4}, "`learning_rate` must be a list of values, or an object"),
        ({"learning_rate": []}, "`learning_rate` must be a list of values, or an object"),
        ({"learning_rate": [1e-4, "x"]}, '`learning_rate` must be a number or null.*"x"'),
        ({"learning_rate": [1e-4, -1]}, "`learning_rate` must be above 0.*-1"),
        ({"train_batch_size": [16, 16.0]}, "`train_batch_size` must be a list of different"),
        ({"learning_rate": {"low": 1e-4}}, "`learning_rate`: `high` is missing"),
        (
            {"learning_rate": {"low": 1e-4, "high": 1, "stpe": 1}},
            "unknown field `stpe`. Did you mean `step`",
        ),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, "`high` must be above `low`"),
        ({"weight_decay_rate": {"low": 0, "high": 1, "log": True}}, "`low` must be above 0"),
        ({"learning_rate": {"low": 1, "high": 2, "log": True, "step": 1}}, "`step` must be absent"),
        ({"train_batch_size": {"low": 8, "high": 16, "step": 0.5}}, "`step` must be an integer"),
        ({"train_batch_size": {"low": 0, "high": 16}}, "`train_batch_size` must be at least 1"),
        ({"keep": {"low": 0, "high": 1}}, "`keep` must be a string"),
        ({"seed": [1, 2]}, "`seed` cannot be searched"),
        ({"precision": ["float32"]}, "`precision` cannot be searched"),
    ],
)
def test_a_space_that_is_none(space, message):
    with pytest.raises(InputError, match=rf"^space\.json.*{message}"):
        check_space(space, "space.json")
