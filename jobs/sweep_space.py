"""What a sweep searches: for each hyper-parameter a list of values, or a range of numbers.

{"train_batch_size": [16, 32], "learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}}
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

from common.errors import InputError
from common.fields import check_fields, override, require
from configure_finetuning import FinetuningConfig
from jobs.trials import EXECUTION, NOT_IN_FINGERPRINT

# They either change no score, or change which scores can be compared.
NOT_SEARCHED = EXECUTION | NOT_IN_FINGERPRINT | {"model_size", "eval_every"}

Settings = dict[str, Any]  # hyper-parameters by name


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`; integers if the hyper-parameter is one."""

    low: float
    high: float
    log: bool = False  # search the logarithm evenly
    step: float | None = None  # None: any number


Space = dict[str, Range | list[Any]]


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


_RANGE_FIELDS = {
    "low": (_is_number, "a number"),
    "high": (_is_number, "a number"),
    "log": (lambda value: isinstance(value, bool), "true or false"),
    "step": (lambda value: _is_number(value) and value > 0, "a number above 0"),
}


def check_space(given: Settings, source: str) -> Space:
    """The space that a JSON object from `source` describes.

    Raises:
        InputError: no hyper-parameter, an unknown or unsuitable one, an impossible or repeated
            value, or an impossible range; the message names the hyper-parameter.
    """
    require(bool(given), "space", "an object with a hyper-parameter or more", given, source)
    space: Space = {}
    for name, values in given.items():
        if name in NOT_SEARCHED:
            raise InputError(f"{source}: `{name}` cannot be searched. Set it with --hparams")
        if isinstance(values, dict):
            space[name] = _check_range(name, values, f"{source}, `{name}`")
        else:
            expected = 'a list of values, or an object with "low" and "high"'
            require(isinstance(values, list) and bool(values), name, expected, values, source)
            space[name] = [_checked(name, value, source) for value in values]
            texts = {json.dumps(value, sort_keys=True) for value in space[name]}
            require(len(texts) == len(values), name, "a list of different values", values, source)
    return space


def _checked(name, value, source):
    """A value as the configuration converts it; the other fields have their defaults."""
    try:
        return getattr(override(FinetuningConfig(), {name: value}), name)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _check_range(name, values, source):
    _checked(name, values.get("low"), source)  # first, to refuse an unknown name
    check_fields(source, values, _RANGE_FIELDS, required=("low", "high"))
    bounds = {bound: _checked(name, values[bound], source) for bound in ("low", "high")}
    require(bounds["low"] < bounds["high"], "high", "above `low`", values["high"], source)
    found = Range(**values | bounds)
    if found.log:
        require(found.low > 0, "low", "above 0 with `log`", found.low, source)
        require(found.step is None, "step", "absent with `log`", found.step, source)
    if isinstance(found.low, int) and found.step is not None:
        require(isinstance(found.step, int), "step", "an integer", found.step, source)
    return found


def grid(space: Space) -> list[Settings]:
    """Every combination of the values, in order.

    Raises:
        InputError: the space has a range.
    """
    for name, values in space.items():
        if isinstance(values, Range):
            raise InputError(
                f"--sampler grid needs a list of values for `{name}`, which has a range. Give a "
                "list, or use --sampler tpe"
            )
    return [dict(zip(space, each, strict=True)) for each in itertools.product(*space.values())]


def corners(space: Space) -> Iterator[Settings]:
    """Each value of a list and each bound of a range, one hyper-parameter at a time."""
    for name, values in space.items():
        ends = [values.low, values.high] if isinstance(values, Range) else values
        yield from ({name: value} for value in ends)


def as_params(settings: Settings) -> dict[str, str]:
    """Values of lists as JSON, for Optuna, which takes no objects or lists."""
    return {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}


def suggest(trial: Any, space: Space) -> Settings:
    """The settings of an Optuna trial, which draws those that it does not have yet."""
    settings = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            choices = [as_params({name: value})[name] for value in values]
            settings[name] = json.loads(trial.suggest_categorical(name, choices))
            continue
        is_integer = isinstance(values.low, int)
        method = trial.suggest_int if is_integer else trial.suggest_float
        step = values.step or (1 if is_integer else None)
        settings[name] = method(name, values.low, values.high, log=values.log, step=step)
    return settings
