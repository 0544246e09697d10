"""Checks of named values: fields of dataclasses, and fields of JSON objects that users write."""

import argparse
import dataclasses
import difflib
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.errors import InputError
from common.markdown import markdown_table

MAX_SEED = 2**32 - 1  # NumPy's

# For each field: a function that checks a value, and the allowed values in words.
FieldTable = Mapping[str, tuple[Callable[[Any], bool], str]]


def require(condition: bool, name: str, expected: str, received: Any, source: str = "") -> None:
    """Raises an `InputError` that names a field and its value, unless `condition` holds.

    `expected` follows "must be" in the message; `source` is the file that has the field, if any.
    """
    if not condition:
        where = f"{source}: " if source else ""
        received = shortened(as_json(received))
        raise InputError(f"{where}`{name}` must be {expected}. Received: {received}")


def require_one_of(name: str, value: Any, allowed: Iterable[Any], source: str = "") -> None:
    """Raises an `InputError` that lists the allowed values, unless `value` is one of them."""
    allowed = list(allowed)
    expected = "one of " + ", ".join(map(as_json, allowed))
    require(value in allowed, name, expected, value, source)


def as_json(value: Any) -> str:
    """A value as a user would write it in a JSON file, or in Python's form if JSON has none."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a deeply nested value"
    except (TypeError, ValueError):
        return repr(value)


def shortened(text: str, length: int = 200) -> str:
    """A user's text for a message: its beginning, if it is long."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def unknown(what: str, name: str, known: Iterable[str], source: str = "") -> InputError:
    """The error for an unknown name: it lists the known names and suggests the nearest one.

    `what` is the kind of name, such as "field" or "task"; `source` is the file that has it, if any.
    """
    known, name = list(known), shortened(name)
    folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean `{folded[near[0]]}`?" if near else ""
    where = f"{source}: " if source else ""
    return InputError(f"{where}unknown {what} `{name}`.{hint} Known: {', '.join(known)}")


def check_fields(
    path: str, values: Mapping[str, Any], table: FieldTable, required: tuple[str, ...]
) -> None:
    """Checks each field of the JSON file `path` against `table`, which lists all fields.

    Raises:
        InputError: a field is missing, unknown, or has an impossible value.
    """
    for name in required:
        if name not in values:
            raise InputError(f"{path}: `{name}` is missing")
    for name, value in values.items():
        if name not in table:
            raise unknown("field", name, table, path)
        is_allowed, allowed = table[name]
        require(is_allowed(value), name, allowed, value, path)


def setting(
    default: Any,
    help: str,  # the name argparse uses
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
) -> Any:
    """A dataclass field with a one-line description and, for `check_settings`, a range.

    A default that is a dict is copied for each instance. `least`, `above`, `most` and `below` bound
    a number, which must be finite. `choices` are the allowed strings or, for a list, its allowed
    items.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    bounds = {words: bound for words, bound in bounds.items() if bound is not None}
    metadata = {"help": help, "bounds": bounds, "choices": tuple(choices)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_settings(config: Any) -> None:
    """Checks each `setting` of a dataclass instance against its range; None is always allowed.

    Raises:
        InputError: a value is outside its range or none of its choices, or a number is not finite,
            or an integer is not below 2^63; the message names the field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None or not field.metadata:
            continue
        if choices := field.metadata["choices"]:
            for each in value if isinstance(value, tuple) else (value,):
                require_one_of(field.name, each, choices)
        elif isinstance(value, int | float):
            bounds = field.metadata["bounds"]
            expected = " and ".join(f"{words} {bound}" for words, bound in bounds.items())
            if isinstance(value, int):  # a backend's integers cannot be larger
                require(value < 2**63, field.name, "below 2^63", value)
            allowed = -math.inf < value < math.inf
            allowed &= all(_COMPARISONS[words](value, bound) for words, bound in bounds.items())
            require(allowed, field.name, expected or "a finite number", value)


_COMPARISONS = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}


def add_settings(parser: argparse.ArgumentParser, config_class: type) -> None:
    """Adds a command-line option for each `setting` of a dataclass: a number or a string."""
    annotations = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.metadata:
            default = "" if field.default is None else " (default: %(default)s)"
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=_options(annotations[field.name])[0],
                default=field.default,
                choices=field.metadata["choices"] or None,
                help=field.metadata["help"].replace("%", "%%") + default,
            )


def chosen_settings(args: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """The values of the options that `add_settings` added."""
    fields = dataclasses.fields(config_class)
    return {field.name: getattr(args, field.name) for field in fields if field.metadata}


def hyperparameter_table(config_class: type) -> str:
    """A Markdown table of the settings of a dataclass: name, type, default, and meaning.

    Inherited settings come last.
    """
    annotations, rows = typing.get_type_hints(config_class), []
    own = vars(config_class)["__annotations__"]
    fields = [field for field in dataclasses.fields(config_class) if field.metadata]
    for field in sorted(fields, key=lambda field: field.name not in own):
        is_made = field.default is dataclasses.MISSING
        default = field.default_factory() if is_made else field.default
        phrases = map(_type_phrase, _options(annotations[field.name]))
        types = " or ".join(phrase.removeprefix("a ").removeprefix("an ") for phrase in phrases)
        meaning, choices = field.metadata["help"], field.metadata["choices"]
        meaning += f" ({', '.join(choices)})" if choices else ""
        rows.append([field.name, types, as_json(default), meaning])
    return markdown_table(["name", "type", "default", "meaning"], rows, num_text_columns=4)


def override(config: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of the dataclass instance `config` with fields replaced, names and types checked.

    Raises:
        InputError: a name that the dataclass does not have (with the nearest one it has), or a
            value that does not have the type of the field's annotation.
    """
    annotations = typing.get_type_hints(type(config))
    checked = {}
    for name, value in overrides.items():
        if name not in annotations:
            raise unknown("hyper-parameter", name, annotations)
        checked[name] = _check_type(name, value, annotations[name])
    return dataclasses.replace(config, **checked)


def _options(annotation):
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else [annotation]


def _check_type(name, value, annotation):
    """`value`, converted where JSON leaves no choice (1 for 1.0 and back, a list for a tuple)."""
    options = _options(annotation)
    for option in options:
        try:
            return _convert(value, option)
        except TypeError:
            continue
        except OverflowError:  # 10^400 as a fraction
            require(False, name, "a finite number", value)
    require(False, name, " or ".join(map(_type_phrase, options)), value)


def _convert(value, option):
    """Converts `value` to the type `option`; raises a TypeError if its type is another."""
    origin = typing.get_origin(option) or option
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, typing.get_args(option)[0]) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if origin is float:
            return float(value)
        if origin is int and (isinstance(value, int) or value.is_integer()):
            return int(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise TypeError
    return value


_TYPE_PHRASES = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    dict: "an object",
}


def _type_phrase(option):
    origin = typing.get_origin(option) or option
    if origin is tuple:
        return f"a list of {_TYPE_PHRASES[typing.get_args(option)[0]].split()[-1]}s"
    return _TYPE_PHRASES[origin]
