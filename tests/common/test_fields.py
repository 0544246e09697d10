import argparse
import dataclasses

import pytest

from common import fields
from common.errors import InputError


@dataclasses.dataclass(frozen=True)
class Example:
    layers: int = fields.setting(3, "number of layers", least=1)
    rate: float | None = fields.setting(None, "learning rate", above=0, most=1)
    names: tuple[str, ...] = fields.setting(("a",), "names | of labels")
    kind: str = fields.setting("x", "kind", choices=("x", "y"))
    more: dict = fields.setting({}, "the rest")
    range: tuple[float, ...] | None = None

    def __post_init__(self):
        fields.check_settings(self)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layers": 0}, "`layers` must be at least 1. Received: 0"),
        ({"layers": None}, "`layers` must be an integer. Received: null"),
        ({"layers": True}, "`layers` must be an integer. Received: true"),
        ({"rate": 0}, "`rate` must be above 0 and at most 1. Received: 0.0"),
        ({"rate": float("nan")}, "`rate` must be above 0 and at most 1. Received: NaN"),
        ({"rate": "1"}, '`rate` must be a number or null. Received: "1"'),
        ({"names": ["a", 1]}, '`names` must be a list of strings. Received: ["a", 1]'),
        ({"kind": "z"}, '`kind` must be one of "x", "y". Received: "z"'),
        ({"layers": 1.5}, "`layers` must be an integer. Received: 1.5"),
        ({"layers": float("nan")}, "`layers` must be an integer. Received: NaN"),
        ({"layers": float("inf")}, "`layers` must be an integer. Received: Infinity"),
        ({"layers": 10**400}, "`layers` must be below 2^63. Received: 1000"),
        ({"rate": 10**400}, "`rate` must be a finite number. Received: 1000"),
        ({"rate": float("inf")}, "`rate` must be above 0 and at most 1. Received: Infinity"),
        ({"range": [0, True]}, "`range` must be a list of numbers or null. Received: [0, true]"),
        ({"range": [0, 10**400]}, "`range` must be a finite number. Received: [0, 1000"),
        ({"kind": "z" * 10_000}, '`kind` must be one of "x", "y". Received: "zzz'),
        ({"z" * 10_000: 1}, "unknown hyper-parameter `zzz"),
        ({"more": []}, "`more` must be an object. Received: []"),
        ({"layer": 1}, "unknown hyper-parameter `layer`. Did you mean `layers`? Known: layers, "),
    ],
)
def test_a_wrong_value_is_one_message(overrides, message):
    with pytest.raises(InputError) as caught:
        fields.override(Example(), overrides)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 1000


def test_right_values_are_converted():
    example = fields.override(
        Example(), {"rate": 1, "names": ["b"], "layers": 1e6, "range": [0, 5]}
    )
    assert (example.rate, example.names, example.layers) == (1.0, ("b",), 1_000_000)
    assert isinstance(example.layers, int) and isinstance(example.range[0], float)
    assert Example().more is not Example().more


def test_table():
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in fields.hyperparameter_table(Example).splitlines()
    ]
    assert rows[0] == ["name", "type", "default", "meaning"]
    assert rows[2:] == [
        ["layers", "integer", "3", "number of layers"],
        ["rate", "number or null", "null", "learning rate"],
        ["names", "list of strings", '["a"]', "names \\| of labels"],
        ["kind", "string", '"x"', "kind (x, y)"],
        ["more", "object", "{}", "the rest"],
    ]


@dataclasses.dataclass
class Options:
    name: str
    num_steps: int | None = fields.setting(None, "5% of the steps")
    rate: float = fields.setting(0.5, "learning rate")
    kind: str = fields.setting("x", "kind", choices=("x", "y"))


def test_settings_on_the_command_line(capsys):
    parser = argparse.ArgumentParser()
    fields.add_settings(parser, Options)
    args = parser.parse_args(["--num-steps", "3", "--kind", "y"])
    assert fields.chosen_settings(args, Options) == {"num_steps": 3, "rate": 0.5, "kind": "y"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "5% of the steps\n" in shown and "learning rate (default: 0.5)" in shown
