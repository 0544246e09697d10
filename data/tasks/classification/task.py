"""Classification and regression: the task, and the labels and scores in its files.

docs/finetuning.md explains the JSON fields of a user's own task; `data.tasks.glue` has GLUE's.
"""

import ast
import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from absl import logging
from typing_extensions import override

from common.errors import InputError
from common.fields import require
from data.tasks import task_fields
from data.tasks.base import Task
from data.tasks.examples import TextExamples, listed, parse_number, parse_text, unexpected
from data.tasks.labels import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    count_labels,
    label_ids,
    label_name,
)
from data.tasks.review import Review
from data.tasks.tables import (
    ENDINGS,
    LATE_QUOTE_HINT,
    OTHER_ENDINGS,
    Column,
    Table,
    has_late_quote,
    read_table,
    write_predictions,
)

KIND = "classification"

# The names in `data.tasks.metrics.METRICS` that suit each kind of task.
METRICS = {
    SINGLE_LABEL: ("accuracy", "macro_f1", "mcc", "f1"),
    MULTI_LABEL: ("micro_f1", "macro_f1", "exact_match"),
    REGRESSION: ("pearson", "spearman", "r2"),
}
SCORE_BINS = 5
DEFAULT_METRICS = METRICS | {SINGLE_LABEL: ("accuracy", "macro_f1")}


@dataclasses.dataclass(frozen=True)
class ClassificationTask(Task):
    """A task on single texts or pairs, with one label, several labels, or a score per example.

    Args:
        metrics: among `METRICS[problem_type]`.
        text_columns: columns of the text, or of the two texts: names, or numbers from 0. Negative
            numbers count from the end of the header.
        label_column: column of the label in train and dev files.
        labels: the labels in order of their ids; empty for a score. None takes those in the
            training file: see `complete`.
        problem_type: a key of `METRICS`.
        score_range: the lowest and the highest score; None takes those in the training file.
        range_is_open: whether dev scores may lie outside `score_range`.
        label_delimiter: the separator of several labels in one cell.
        header: whether TSV and CSV files begin with a header; see `has_header`.
        unordered: whether the order of the two texts has no meaning.
        max_damaged_share: up to this share of a file's rows may be unusable; these are left out.
        may_be_wider: whether rows may have more cells than the header.
    """

    text_columns: tuple[Column, ...]
    label_column: Column
    labels: tuple[str, ...] | None = None
    problem_type: str = SINGLE_LABEL
    score_range: tuple[float, float] | None = None
    range_is_open: bool = False
    label_delimiter: str = ","
    header: bool = True
    unordered: bool = False
    max_damaged_share: float = 0.0
    may_be_wider: bool = False

    architecture: ClassVar[str] = "ConvBertForSequenceClassification"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    other_endings: ClassVar[tuple[str, ...]] = OTHER_ENDINGS

    @functools.cached_property
    def _ids(self):
        return label_ids(self.labels)

    @override
    def saved_options(self, options: Any) -> dict[str, Any]:
        return {KIND: {"reads_pairs": True}} if len(self.text_columns) == 2 else {}

    @property
    @override
    def loss_settings(self) -> tuple[str, ...]:
        several = ("label_smoothing",)
        single = ("class_weights", *several)
        return {SINGLE_LABEL: single, MULTI_LABEL: several}.get(self.problem_type, ())

    @property
    def is_regression(self) -> bool:
        """Whether the task predicts a score, not labels."""
        return self.problem_type == REGRESSION

    def has_header(self, split: str) -> bool:
        """Whether the split's file, if it is TSV or CSV, begins with a header."""
        return self.header

    def columns(self, split: str) -> tuple[Column, ...]:
        """The columns of the text, or of the two texts, in the split's file."""
        return self.text_columns

    @override
    def complete(self, directory: str) -> "ClassificationTask":
        task = self
        if (self.score_range if self.is_regression else self.labels) is None:
            task = self._with_found_labels(self.find_file(directory, "train"))
        if "f1" in task.metrics and len(task.labels) != 2:
            problem = f"needs 2 labels, but there are {len(task.labels)}. Use `macro_f1`"
            raise InputError(f"task {task.name}: the metric `f1` {problem}")
        return task

    @override
    def read(self, path: str, split: str) -> TextExamples:
        import numpy as np

        is_test = split in self.test_splits
        columns = self.columns(split)
        chosen = columns if is_test else (*columns, self.label_column)
        table = read_table(path, chosen, self.has_header(split), self.may_be_wider)
        self.check_table(table, is_test)

        def parse_cells(cells):
            texts = map(parse_text, cells[: len(columns)], table.labels)
            return [*texts, None if is_test else self._parse_label(cells[-1], table.labels[-1])]

        records = table.parse(parse_cells, 0.0 if is_test else self.max_damaged_share)
        *texts, labels = map(list, zip(*records, strict=True))
        dtype = np.float64 if self.is_regression else np.int32
        labels = None if is_test else np.array(labels, dtype)
        pairs = texts[1] if len(columns) == 2 else None
        return TextExamples(path, table.sha256, texts[0], pairs, labels, self.score_range)

    def check_table(self, table: Table, is_test: bool) -> None:
        """Raises an `InputError` if a file's table lacks something, besides columns, that it needs.

        The columns are those of the texts and, unless `is_test`, of the label.
        """

    @override
    def training_examples(self, examples: TextExamples, options: Any) -> TextExamples:
        import numpy as np

        if not (self.unordered and options.double_unordered):
            return examples
        return dataclasses.replace(
            examples,
            texts=examples.texts + examples.text_pairs,
            text_pairs=examples.text_pairs + examples.texts,
            labels=np.concatenate([examples.labels, examples.labels]),
        )

    @override
    def make_features(self, tokenizer, examples, options, training):
        from data.tasks.batching import make_features

        return make_features(tokenizer, examples, options.max_seq_length)

    @override
    def model_fields(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels) or 1,
            "problem_type": self.problem_type,
            "id2label": self.labels or None,
            "score_range": self.score_range,
        }

    @override
    def model_options(self, options: Any) -> dict[str, Any]:
        return {"classifier_head": options.classifier_head}

    @override
    def score(self, examples, features, outputs) -> dict[str, float]:
        from data.tasks.classification.decoding import predictions
        from data.tasks.metrics import compute_metrics

        predicted = predictions(self.problem_type, outputs, self.score_range)
        return compute_metrics(self.metrics, examples.labels, predicted)

    @override
    def write_predictions(self, examples, features, outputs, path: str) -> None:
        from data.tasks.classification.decoding import answer_text, answers

        found = answers(self.problem_type, outputs, self.labels, self.score_range)
        texts = (answer_text(answer, self.label_delimiter) for answer in found)
        write_predictions(path, texts, outputs)

    @override
    def review(self, examples, features, outputs) -> Review:
        from data.tasks.classification.review import review_texts

        return review_texts(self, examples, outputs)

    @override
    def describe(self, examples):
        from data.tasks.classification.decoding import answer_text

        labels = [None] * len(examples)
        if examples.labels is not None:
            labels = [answer_text(name, self.label_delimiter) for name in self._names(examples)]
        pairs = [examples.texts] + [examples.text_pairs] * (examples.text_pairs is not None)
        return list(zip(zip(*pairs, strict=True), labels, strict=True))

    @override
    def count_labels(self, examples):
        import numpy as np

        if examples.labels is None:
            return Counter()
        if self.is_regression:
            scores = np.clip(examples.labels, *self.score_range)
            counts, bounds = np.histogram(scores, SCORE_BINS, self.score_range)
            names = (f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(bounds))
            return Counter(dict(zip(names, counts.tolist(), strict=True)))
        names = self._names(examples)
        if self.problem_type == MULTI_LABEL:
            names = itertools.chain.from_iterable(row or ["(none)"] for row in names)
        counts = Counter(dict.fromkeys(self.labels, 0))
        counts.update(names)
        return counts

    @override
    def count_cut(self, tokenizer, examples, features):
        from data.tasks.batching import count_cut

        return {"texts cut": (count_cut(tokenizer, examples, features), len(examples))}

    def _names(self, examples):
        """The label, labels or score of each example."""
        if self.problem_type == MULTI_LABEL:
            return [[self.labels[i] for i in row.nonzero()[0]] for row in examples.labels]
        labels = examples.labels.tolist()
        return labels if self.is_regression else [self.labels[number] for number in labels]

    def _with_found_labels(self, path):
        """The task with the labels, or the range of scores, of its training file."""
        table = read_table(path, [self.label_column], self.has_header("train"), self.may_be_wider)
        parse = self._parse_score if self.is_regression else self._parse_names
        found = table.parse(lambda cells: parse(cells[0], table.labels[0]))
        names = found if self.is_regression else itertools.chain.from_iterable(found)
        counts = Counter(names) if self.is_regression else count_labels(names)
        if len(counts) < 2:
            expected = f"two or more different labels or scores in {table.labels[0]}"
            raise InputError(f"{path}: expected {expected}, got {listed(counts)}")
        once = [name for name, count in counts.items() if count == 1]
        if isinstance(self.label_column, int) and found[0] == once and len(counts) > 2:
            where = f"{path}, line 1"
            hint = "If it is a header, name columns"
            logging.warning('%s: only this row has the label "%s". %s', where, once[0], hint)
        if self.is_regression:
            score_range = min(counts), max(counts)
            logging.info("%s: scores from %g to %g", self.name, *score_range)
            return dataclasses.replace(self, labels=(), score_range=score_range, range_is_open=True)
        labels = tuple(sorted(counts))
        names = listed(f"{name:.30} ({counts[name]:,})" for name in labels)
        logging.info("%s: %d labels: %s", self.name, len(labels), names)
        return dataclasses.replace(self, labels=labels)

    def _parse_label(self, cell, where):
        """The label's id, a list of ones and zeros, or the score."""
        if self.is_regression:
            return self._parse_score(cell, where)
        is_multi_label = self.problem_type == MULTI_LABEL
        ids = [self._ids.get(name) for name in self._parse_names(cell, where)]
        if None in ids:
            kind = "labels among" if is_multi_label else "one of the labels"
            raise unexpected(f"{kind} {listed(self.labels)}", where, cell)
        if is_multi_label:
            return [int(number in ids) for number in range(len(self.labels))]
        return ids[0]

    def _parse_names(self, cell, where):
        """The labels in a cell, whether the task has them or not."""
        if self.problem_type != MULTI_LABEL:
            return [_parse_name(cell, cell, where)]
        values = _split(cell, self.label_delimiter, where) if isinstance(cell, str) else cell
        if not isinstance(values, list):
            raise unexpected("a list of labels", where, cell)
        names = [_parse_name(value, cell, where) for value in values]
        if len(set(names)) < len(names):
            raise unexpected("different labels", where, cell)
        return names

    def _parse_score(self, cell, where):
        allowed, low, high = "a score", -math.inf, math.inf
        if self.score_range is not None and not self.range_is_open:
            low, high = self.score_range
            allowed += f" from {low:g} to {high:g}"
        score = parse_number(cell)
        if score is None or not low <= score <= high:
            raise unexpected(allowed, where, cell)
        return score


def _split(cell, delimiter, where):
    """The labels in a cell: names between delimiters, or a list as Python and pandas write it."""
    text = cell.strip()
    if text[:1] + text[-1:] == "[]":
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = None
        # Python joins strings without a comma between them, as in a list that NumPy writes.
        if isinstance(values, list) and not re.search(r"""['"]\s*['"]""", text):
            return values
        ends = [part.strip()[:1] + part.strip()[-1:] for part in text.split(delimiter)]
        if text[1:].lstrip()[:1] in ("'", '"') or any(("[" in end) != ("]" in end) for end in ends):
            raise unexpected("a list such as ['x', 'y'], or labels without [ and ]", where, cell)
    return text.split(delimiter) if text else []


def _parse_name(value, cell, where):
    """A label's name."""
    name = label_name(value)
    if not name or not name.strip() or set(name.strip()) & set("\t\r\n"):
        raise unexpected("a label", where, cell)
    if has_late_quote(name):
        raise InputError(f"{unexpected('a label', where, cell)}. {LATE_QUOTE_HINT}")
    return name.strip()


def task_from_fields(path: str, fields: Mapping[str, Any]) -> ClassificationTask:
    """The task that a JSON file describes: `path` and its fields; see `registry.read_task`."""
    fields, required = {"problem_type": SINGLE_LABEL} | fields, ("text_columns", "label_column")
    values, common = task_fields.read_fields(path, fields, _FIELDS, required)
    kind, texts = values["problem_type"], values["text_columns"]
    columns = [*(texts if isinstance(texts, list) else [texts]), values["label_column"]]
    *columns, label_column = task_fields.read_columns(path, columns, "text_columns")
    _check_together(path, values, len(columns))
    labels = () if kind == REGRESSION else values.get("labels")
    score_range = values.get("score_range")
    metrics = values.get("metrics", DEFAULT_METRICS[kind])
    return ClassificationTask(
        metrics=task_fields.check_metrics(path, metrics, METRICS[kind], kind),
        text_columns=tuple(columns),
        label_column=label_column,
        labels=None if labels is None else tuple(map(label_name, labels)),
        problem_type=kind,
        score_range=score_range and tuple(map(float, score_range)),
        label_delimiter=values.get("label_delimiter", ","),
        header=isinstance(label_column, str),
        unordered=values.get("unordered", False),
        **common,
    )


def _check_together(path, values, num_texts):
    """Checks fields against each other."""
    check, kind = functools.partial(require, source=path), values["problem_type"]
    for name in _UNUSED[kind]:
        check(name not in values, name, f"absent for {kind}", values.get(name))
    unordered = values.get("unordered")
    check(num_texts == 2 or not unordered, "unordered", "absent if there is one text", unordered)
    delimiter, names = values.get("label_delimiter", ","), map(label_name, values.get("labels", ()))
    unsafe = [name for name in names if kind == MULTI_LABEL and delimiter in name]
    check(not unsafe, "labels", f'without the delimiter "{delimiter}"', unsafe)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


_UNUSED = {
    SINGLE_LABEL: ("label_delimiter", "score_range"),
    MULTI_LABEL: ("score_range",),
    REGRESSION: ("labels", "label_delimiter"),
}
# For each field: a function that checks a value, and the allowed values in words.
_FIELDS = {
    "problem_type": (lambda v: v in list(METRICS), "one of " + ", ".join(METRICS)),
    "text_columns": (
        lambda v: task_fields.is_column(v) or task_fields.is_list(v, task_fields.is_column, 1, 2),
        "a column's name or number (from 1), or a list of two",
    ),
    "label_column": task_fields.COLUMN,
    "labels": task_fields.LABELS,
    "label_delimiter": (lambda v: isinstance(v, str) and v and "\t" not in v, "text without tabs"),
    "score_range": (
        lambda v: task_fields.is_list(v, _is_number, 2, 2) and v[0] < v[1],
        "a list of the lowest and the highest score",
    ),
    "metrics": task_fields.METRIC_NAMES,
    "unordered": task_fields.TRUE_OR_FALSE,
}
