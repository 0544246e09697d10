"""A classification or regression task of one's own, described by a small JSON file.

    {"text_columns": ["title", "body"], "label_column": "topic"}

is enough for train.csv, dev.csv and test.csv (or .tsv, .jsonl) in $DATA_DIR/finetuning_data/NAME,
NAME being the JSON file's. All fields:

    name           of the folder, the results and the models; by default the file's own name
    problem_type   "single_label_classification" (the default), "multi_label_classification" or
                   "regression"
    text_columns   one column, or a list of two for pairs: names in the header, or fields of JSON
                   lines; numbers from 1 where the files have no header
    label_column   likewise
    labels         list of labels; by default all in the training file, in alphabetical order
    label_delimiter  what separates several labels in one cell, by default a comma; in JSON lines
                   they may be a list
    score_range    [lowest, highest] score; by default those in the training file. Predictions stay
                   within it
    metrics        list, the task's main one first: accuracy, macro_f1, mcc and (of two labels, for
                   the second) f1; micro_f1, macro_f1 and exact_match of several labels; pearson,
                   spearman and r2 of scores
    unordered      true where the order of the two texts has no meaning: both are trained on
    files          {"train": …, "dev": …, "test": …} where they are elsewhere; relative to the JSON
                   file's folder. Any further name is another test set
"""

import os
from collections.abc import Mapping
from typing import Any

from common.fields import check_fields, require
from data.tasks.classification.task import (
    DEFAULT_METRICS,
    METRICS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    ClassificationTask,
)
from data.tasks.task_fields import files_beside, is_column, is_files, is_list, is_name, tests_among


def task_from_fields(path: str, fields: Mapping[str, Any]) -> ClassificationTask:
    """The task that the fields of the JSON file `path` describe; labels may still be to be found.

    Raises:
        InputError: a field is missing, unknown or impossible.
    """
    name = os.path.splitext(os.path.basename(path))[0]
    values = {"name": name, "problem_type": SINGLE_LABEL} | fields
    check_fields(path, values, _FIELDS, ("text_columns", "label_column"))
    _check_together(path, values)
    texts, label = _as_list(values["text_columns"]), values["label_column"]
    if isinstance(label, int):
        texts, label = [number - 1 for number in texts], label - 1
    kind = values["problem_type"]
    labels = () if kind == REGRESSION else values.get("labels")
    score_range = values.get("score_range")
    files = files_beside(path, values)
    return ClassificationTask(
        name=values["name"],
        metrics=tuple(values.get("metrics", DEFAULT_METRICS[kind])),
        text_columns=tuple(texts),
        label_column=label,
        test_columns={split: tuple(texts) for split in tests_among(files)},
        labels=None if labels is None else tuple(labels),
        problem_type=kind,
        score_range=score_range and tuple(map(float, score_range)),
        label_delimiter=values.get("label_delimiter", ","),
        header=isinstance(label, str),
        files=files,
        unordered=values.get("unordered", False),
    )


def _check_together(path, values):
    """What fields say of one another."""
    texts, kind = _as_list(values["text_columns"]), values["problem_type"]
    columns = [*texts, values["label_column"]]
    require(
        len(set(columns)) == len(columns) and len(set(map(type, columns))) == 1,
        "text_columns",
        f"other columns than `label_column` ({values['label_column']!r}), and all of them names, "
        "or all numbers",
        values["text_columns"],
        path,
    )
    allowed = METRICS[kind]
    metrics = values.get("metrics", [])
    require(
        all(name in allowed for name in metrics),
        "metrics",
        f"among {', '.join(allowed)} for {kind}",
        metrics,
        path,
    )
    for name, kinds in (
        ("labels", (SINGLE_LABEL, MULTI_LABEL)),
        ("label_delimiter", (MULTI_LABEL,)),
        ("score_range", (REGRESSION,)),
    ):
        require(
            name not in values or kind in kinds, name, f"absent for {kind}", values.get(name), path
        )
    require(
        len(texts) == 2 or not values.get("unordered"),
        "unordered",
        "absent where there is one text",
        values.get("unordered"),
        path,
    )
    delimiter = values.get("label_delimiter", ",")
    for label in values.get("labels", []) if kind == MULTI_LABEL else []:
        require(
            delimiter not in label,
            "labels",
            f'without "{delimiter}", which separates labels (`label_delimiter`)',
            label,
            path,
        )


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _is_label(value):
    return (
        isinstance(value, str) and value == value.strip() != "" and not set(value) & set("\t\r\n")
    )


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


# For each field: whether a value is allowed, and what is.
_FIELDS = {
    "name": (is_name, "letters, digits, dots, - and _"),
    "problem_type": (lambda v: v in list(METRICS), "one of " + ", ".join(METRICS)),
    "text_columns": (
        lambda v: is_column(v) or is_list(v, is_column, 1, 2),
        "a column's name or number (from 1), or a list of two",
    ),
    "label_column": (is_column, "a column's name or number (from 1)"),
    "labels": (
        lambda v: is_list(v, _is_label, 2),
        "a list of two or more different strings, without spaces around them",
    ),
    "label_delimiter": (
        lambda v: isinstance(v, str) and v != "" and "\t" not in v,
        "a string without tabs",
    ),
    "score_range": (
        lambda v: is_list(v, _is_number, 2, 2) and v[0] < v[1],
        "a list of the lowest and the highest score",
    ),
    "metrics": (lambda v: is_list(v, lambda m: isinstance(m, str), 1), "a list of names"),
    "unordered": (lambda v: isinstance(v, bool), "true or false"),
    "files": (is_files, "an object of file names by split"),
}
