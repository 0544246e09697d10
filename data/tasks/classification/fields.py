"""Reads the JSON file of a user's own classification or regression task.

docs/finetuning.md explains the fields.
"""

import functools
from collections.abc import Mapping
from typing import Any

from common.fields import require
from data.tasks.classification.decoding import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from data.tasks.classification.task import DEFAULT_METRICS, METRICS, ClassificationTask
from data.tasks.task_fields import (
    COLUMN,
    LABELS,
    METRIC_NAMES,
    TRUE_OR_FALSE,
    is_column,
    is_list,
    read_columns,
    read_fields,
    read_metrics,
)


def task_from_fields(path: str, fields: Mapping[str, Any]) -> ClassificationTask:
    """The task that the fields of the JSON file `path` describe.

    Raises:
        InputError: a field is missing, unknown or impossible.
    """
    fields = {"problem_type": SINGLE_LABEL} | fields
    values, common = read_fields(path, fields, _FIELDS, ("text_columns", "label_column"))
    kind, texts = values["problem_type"], values["text_columns"]
    texts = texts if isinstance(texts, list) else [texts]
    _check_together(path, values, len(texts))
    *columns, label_column = read_columns(path, [*texts, values["label_column"]], "text_columns")
    labels = () if kind == REGRESSION else values.get("labels")
    score_range = values.get("score_range")
    return ClassificationTask(
        metrics=read_metrics(path, values, METRICS[kind], kind, DEFAULT_METRICS[kind]),
        text_columns=tuple(columns),
        label_column=label_column,
        labels=None if labels is None else tuple(labels),
        problem_type=kind,
        score_range=score_range and tuple(map(float, score_range)),
        label_delimiter=values.get("label_delimiter", ","),
        header=isinstance(label_column, str),
        unordered=values.get("unordered", False),
        **common,
    )


def _check_together(path, values, num_texts):
    """Checks fields against each other."""
    check = functools.partial(require, source=path)
    kind = values["problem_type"]
    for name, kinds in (
        ("labels", (SINGLE_LABEL, MULTI_LABEL)),
        ("label_delimiter", (MULTI_LABEL,)),
        ("score_range", (REGRESSION,)),
    ):
        check(name not in values or kind in kinds, name, f"absent for {kind}", values.get(name))
    unordered = values.get("unordered")
    check(num_texts == 2 or not unordered, "unordered", "absent if there is one text", unordered)
    delimiter = values.get("label_delimiter", ",")
    for label in values.get("labels", []) if kind == MULTI_LABEL else []:
        check(delimiter not in label, "labels", f'without the delimiter "{delimiter}"', label)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


# For each field: whether a value is allowed, and what is.
_FIELDS = {
    "problem_type": (lambda v: v in list(METRICS), "one of " + ", ".join(METRICS)),
    "text_columns": (
        lambda v: is_column(v) or is_list(v, is_column, 1, 2),
        "a column's name or number (from 1), or a list of two",
    ),
    "label_column": COLUMN,
    "labels": LABELS,
    "label_delimiter": (
        lambda v: isinstance(v, str) and v != "" and "\t" not in v,
        "a string without tabs",
    ),
    "score_range": (
        lambda v: is_list(v, _is_number, 2, 2) and v[0] < v[1],
        "a list of the lowest and the highest score",
    ),
    "metrics": METRIC_NAMES,
    "unordered": TRUE_OR_FALSE,
}
