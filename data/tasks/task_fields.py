"""Checks of the JSON fields that describe a user's own task; docs/finetuning.md explains them."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import remote
from common.fields import FieldTable, check_fields, require
from data.tasks.labels import label_name
from data.tasks.tables import Column

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_column(value: Any) -> bool:
    """Whether a value is a column's name, or its number from 1."""
    return (isinstance(value, str) and value != "") or (type(value) is int and value >= 1)


def is_list(value: Any, is_item: Callable[[Any], bool], least: int, most: int = 10**9) -> bool:
    """Whether a value is a list of `least` to `most` different items."""
    return (
        isinstance(value, list)
        and least <= len(value) <= most
        and all(map(is_item, value))
        and len(set(value)) == len(value)
    )


def is_label(value: Any) -> bool:
    """Whether a value can be a label, as text that fits into a cell of a TSV file."""
    name = label_name(value)
    return name is not None and name == name.strip() != "" and not set(name) & set("\t\r\n")


def _is_name(value):
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_files(value):
    return isinstance(value, dict) and all(
        isinstance(file, str) and file != "" and _is_name(split) for split, file in value.items()
    )


_COMMON = {
    "name": (
        _is_name,
        "letters from a to z, digits, dots, - and _; without this field, it is the file's name",
    ),
    "files": (_is_files, "an object of file names by split"),
}
# Rows of the tables of fields.
COLUMN = (is_column, "a column's name or number (from 1)")
LABELS = (
    lambda value: is_list(value, is_label, 2) and len(set(map(label_name, value))) == len(value),
    "a list of two or more different strings, without spaces around them, or whole numbers",
)
METRIC_NAMES = (lambda value: is_list(value, lambda v: isinstance(v, str), 1), "a list of names")
TRUE_OR_FALSE = (lambda value: isinstance(value, bool), "true or false")


def read_fields(
    path: str, fields: Mapping[str, Any], table: FieldTable, required: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checks each field by itself; see `check_fields`.

    Returns:
        The fields, and the arguments of `Task` that all kinds of tasks read from them.
    """
    folder, file_name = os.path.split(path if remote.is_url(path) else os.path.abspath(path))
    values = {"name": os.path.splitext(file_name)[0]} | fields
    check_fields(path, values, _COMMON | table, required)
    files = {
        split: name if remote.is_url(name) else os.path.join(folder, name)
        for split, name in values.get("files", {}).items()
    }
    test_splits = tuple(split for split in files if split not in ("train", "dev")) or ("test",)
    return values, {"name": values["name"], "files": files, "test_splits": test_splits}


def check_metrics(path: str, metrics: Sequence[str], allowed: Sequence[str], of: str) -> tuple:
    """The field `metrics` as a tuple; its names must be among `allowed`."""
    expected = f"among {', '.join(allowed)} for {of}"
    require(set(metrics) <= set(allowed), "metrics", expected, metrics, path)
    return tuple(metrics)


def read_columns(path: str, columns: Sequence[str | int], field: str) -> list[Column]:
    """A task's columns, as names or numbers from 0; an `InputError` names `field`.

    The columns (names, or numbers from 1) must be different, and all names or all numbers.
    """
    is_possible = len(set(columns)) == len(columns) and len(set(map(type, columns))) == 1
    expected = "different from all other columns; and columns must be all names or all numbers"
    require(is_possible, field, expected, list(columns), path)
    return [column - 1 if isinstance(column, int) else column for column in columns]
