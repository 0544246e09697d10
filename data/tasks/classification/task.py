"""Classification and regression: what a task's files hold, and how logits become answers.

A task is a row of a table (`data/tasks/glue.py`) or a JSON file (`data/tasks/registry.py`);
everything here is the same for both.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from absl import logging

from common import files
from common.errors import InputError
from data.tasks.base import Examples, Task
from data.tasks.tables import ENDINGS, Column, Table, read_table

# Hugging Face's names, as in a saved model's config.json.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

# Names of `data.tasks.metrics.METRICS` that suit each kind of task; the first ones are the default.
METRICS = {
    SINGLE_LABEL: ("accuracy", "macro_f1", "mcc", "f1"),
    MULTI_LABEL: ("micro_f1", "macro_f1", "exact_match"),
    REGRESSION: ("pearson", "spearman", "r2"),
}
DEFAULT_METRICS = {
    SINGLE_LABEL: METRICS[SINGLE_LABEL][:2],
    MULTI_LABEL: METRICS[MULTI_LABEL],
    REGRESSION: METRICS[REGRESSION],
}

_SHOWN_LABELS = 20  # in an error; there may be thousands


@dataclasses.dataclass(frozen=True)
class TextExamples(Examples):
    """One file's texts, or pairs of texts, and what is to be said of them.

    Args:
        path: the file.
        sha256: hash of its bytes.
        texts: the first or only text of each example.
        text_pairs: the second texts; None for tasks on one text.
        labels: int32 `[N]` label ids, int32 `[N, labels]` of ones and zeros where an example may
            have several, or float64 `[N]` scores; None for a test file.
        score_range: what scores are scaled from; None for labels.
    """

    texts: list[str]
    text_pairs: list[str] | None
    labels: np.ndarray | None
    score_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_characters(self) -> int:
        """See `Examples`."""
        return sum(map(len, self.texts)) + sum(map(len, self.text_pairs or ()))

    @property
    def targets(self) -> np.ndarray:
        """What a model's logits are compared with.

        Int32 `[N]` label ids (zeros for a test file), float32 `[N, labels]` of ones and zeros, or
        float32 `[N, 1]` scores as a share of their range.
        """
        if self.labels is None:
            return np.zeros(len(self), np.int32)
        if self.score_range is not None:
            low, high = self.score_range
            return ((self.labels - low) / (high - low)).astype(np.float32)[:, None]
        return self.labels.astype(np.float32) if self.labels.ndim == 2 else self.labels

    def with_swapped_pairs(self) -> "TextExamples":
        """These examples, followed by the same ones with their two texts exchanged."""
        return dataclasses.replace(
            self,
            texts=self.texts + self.text_pairs,
            text_pairs=self.text_pairs + self.texts,
            labels=np.concatenate([self.labels, self.labels]),
        )


@dataclasses.dataclass(frozen=True)
class ClassificationTask(Task):
    """A task on single texts or pairs: one label, several, or a score each.

    Args:
        name: also that of the task's folder.
        metrics: names of `METRICS`; the first is the task's own in summaries.
        text_columns: columns of the text, or of the two texts, in train and dev files: names, or
            numbers from 0, which count from the end of the header if they are negative.
        label_column: column of the label in train and dev files.
        test_columns: for each test split the columns of its texts.
        labels: label strings in order of their ids; none for a score. None is those found in the
            training file: see `complete`.
        problem_type: a key of `METRICS`.
        score_range: the lowest and the highest score there can be; None is those found in the
            training file.
        range_is_open: whether dev scores may lie beyond `score_range`.
        label_delimiter: what separates several labels in one cell.
        header: whether TSV and CSV files begin with a header; see `has_header`.
        unordered: whether the order of the two texts has no meaning.
        max_damaged_share: of a file's rows; so many may be unusable, and are left out.
        may_be_wider: whether rows may have more cells than the header.
    """

    text_columns: tuple[Column, ...]
    label_column: Column
    test_columns: Mapping[str, tuple[Column, ...]]
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

    @property
    def is_regression(self) -> bool:
        """Whether the task predicts a score and not labels."""
        return self.problem_type == REGRESSION

    @property
    def test_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return tuple(self.test_columns)

    def has_header(self, split: str) -> bool:
        """Whether the split's file, if it is TSV or CSV, begins with a header."""
        return self.header

    def complete(self, directory: str) -> "ClassificationTask":
        """The task with the labels, or the range of scores, that its training file has.

        A task that states them is returned as it is. See `load`.
        """
        task = self
        if (task.score_range if task.is_regression else task.labels) is None:
            task = _with_found_labels(task, task.find_file(directory, "train"))
        if "f1" in task.metrics and len(task.labels) != 2:
            raise InputError(
                f"task {task.name}: the metric f1 is for 2 labels, and there are "
                f"{len(task.labels)}: take macro_f1"
            )
        return task

    def read(self, path: str, split: str) -> TextExamples:
        """See `Task.load`."""
        return _read_examples(self, path, split)

    def training_examples(self, examples: TextExamples, options: Any) -> TextExamples:
        """The examples; each pair in both orders where that is asked for and has no meaning."""
        if self.unordered and options.double_unordered:
            return examples.with_swapped_pairs()
        return examples

    def make_features(self, tokenizer, examples, options, training):
        """See `Task`: one row an example, and its label or score."""
        from data.tasks.batching import make_features

        return make_features(tokenizer, examples, options.max_seq_length)

    def model_fields(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            "num_labels": len(self.labels) or 1,
            "problem_type": self.problem_type,
            "id2label": self.labels or None,
            "score_range": self.score_range,
        }

    def model_options(self, options: Any) -> dict[str, Any]:
        """See `Task`."""
        return {"classifier_head": options.classifier_head}

    def score(self, examples, features, outputs) -> dict[str, float]:
        """See `Task`; outputs are logits `[N, labels]`."""
        from data.tasks.metrics import compute_metrics

        found = predictions(self.problem_type, outputs, self.score_range)
        return compute_metrics(self.metrics, examples.labels, found)

    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """One row an example: its index; label, labels or score as in the task's files; logits."""
        lines = ["index\tprediction\tlogits"]
        found = answers(self.problem_type, outputs, self.labels, self.score_range)
        for index, answer in enumerate(found):
            numbers = " ".join(f"{number:.6f}" for number in outputs[index])
            lines.append(f"{index}\t{answer_text(answer, self.label_delimiter)}\t{numbers}")
        files.write_text(path, "\n".join(lines) + "\n")


def predictions(
    problem_type: str, logits: np.ndarray, score_range: tuple[float, float] | None = None
) -> np.ndarray:
    """What logits `[N, L]` say, as `TextExamples.labels` has it.

    Label ids; ones where a label's probability is above a half; or scores, which may lie beyond
    their range.
    """
    if problem_type == SINGLE_LABEL:
        return logits.argmax(axis=1)
    if problem_type == MULTI_LABEL:
        return (logits > 0).astype(np.int32)
    low, high = score_range or (0.0, 1.0)
    return np.float32(low) + logits[:, 0] * np.float32(high - low)


def probabilities(problem_type: str, logits: np.ndarray) -> np.ndarray:
    """Of each label `[N, L]`: they add up to one, unless an example may have several labels."""
    if problem_type == MULTI_LABEL:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # the sigmoid, without overflow
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def answers(
    problem_type: str,
    logits: np.ndarray,
    labels: tuple[str, ...] | None,
    score_range: tuple[float, float] | None = None,
) -> list[Any]:
    """Predictions for people: a label, a list of labels, or a score within its range."""
    values = predictions(problem_type, logits, score_range)
    if problem_type == REGRESSION:
        return (values if score_range is None else np.clip(values, *score_range)).tolist()
    if problem_type == MULTI_LABEL:
        return [[labels[i] for i in np.flatnonzero(row)] for row in values]
    return [labels[value] for value in values]


def answer_text(answer: str | list[str] | float, label_delimiter: str = ",") -> str:
    """One of `answers` as a cell of a TSV file."""
    if isinstance(answer, list):
        return label_delimiter.join(answer)
    return f"{answer:.6g}" if isinstance(answer, float) else answer


def _with_found_labels(task, path):
    table = read_table(path, (task.label_column,), task.has_header("train"), task.may_be_wider)
    found = Counter()
    for line, row in table.rows:
        try:
            (cell,) = table.cells(row)
            found.update(_parse_score(task, cell) if task.is_regression else _names(task, cell))
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}: expected {error} in {table.labels[0]}, got {_shown(cell)}"
            ) from None
    if len(found) < 2:
        raise InputError(
            f"{path}: expected two or more different labels or scores in {table.labels[0]}, got "
            f"{', '.join(map(str, found)) or 'none'}"
        )
    if task.is_regression:
        logging.info("%s: scores run from %g to %g", task.name, min(found), max(found))
        found_range = (min(found), max(found))
        return dataclasses.replace(task, labels=(), score_range=found_range, range_is_open=True)
    counts = ", ".join(f"{name} ({found[name]:,})" for name in sorted(found)[:_SHOWN_LABELS])
    logging.info("%s: %d labels: %s", task.name, len(found), counts)
    return dataclasses.replace(task, labels=tuple(sorted(found)))


def _read_examples(task, path, split):
    is_test = split in task.test_columns
    columns = task.test_columns[split] if is_test else task.text_columns
    wanted = columns if is_test else (*columns, task.label_column)
    table = read_table(path, wanted, task.has_header(split), task.may_be_wider)
    if table.header and isinstance(task.label_column, int):
        _check_header(task, table, is_test)
    records, damaged = [], []
    for line, row in table.rows:
        try:
            records.append(_parse_row(task, table, row, is_test))
        except InputError as error:
            problem = f"{path}, line {line}: {error}"
            if is_test or not task.max_damaged_share:
                raise InputError(problem) from None
            damaged.append(problem)
    if len(damaged) > task.max_damaged_share * len(table.rows):
        raise InputError(damaged[0])
    if damaged:
        logging.warning(
            "%s: left out %d unusable rows of %d, the first: %s",
            path, len(damaged), len(table.rows), damaged[0],
        )  # fmt: skip
    if not records:
        raise InputError(f"{path}: no examples in the file")
    labels = None
    if not is_test:
        labels = np.array([record[-1] for record in records],
                          np.float64 if task.is_regression else np.int32)  # fmt: skip
    pairs = [record[1] for record in records] if len(columns) == 2 else None
    texts = [record[0] for record in records]
    return TextExamples(path, table.sha256, texts, pairs, labels, task.score_range)


def _check_header(task, table: Table, is_test):
    """A file without its header would lose its first example: refuse a header that is data."""
    cell = table.header[0] if is_test else table.cells(table.header)[-1]
    if is_test:
        is_data = cell.isdigit()
    else:
        try:
            _parse_label(task, cell)
            is_data = True
        except ValueError:
            is_data = False
    if is_data:
        raise InputError(f'{table.path}, line 1: expected a header, got a row of data ("{cell}")')


def _parse_row(task, table, row, is_test):
    """The wanted cells of a row, texts first, the label parsed; errors without the place."""
    cells = table.cells(row)
    texts = [
        parse_text(cell, table.labels[i]) for i, cell in enumerate(cells if is_test else cells[:-1])
    ]
    if is_test:
        return texts
    try:
        return [*texts, _parse_label(task, cells[-1])]
    except ValueError as error:
        raise InputError(
            f"expected {error} in {table.labels[-1]}, got {_shown(cells[-1])}"
        ) from None


def parse_text(cell: Any, place: str) -> str:
    """The text in a cell; an `InputError` without the line if there is none."""
    if not isinstance(cell, str):
        raise InputError(f"expected text in {place}, got {_shown(cell)}")
    if not cell.strip():
        raise InputError(f"expected text in {place}, got none")
    try:
        cell.encode()
    except UnicodeEncodeError:  # JSON can hold half of a character
        raise InputError(f"expected Unicode text in {place}, got a lone surrogate") from None
    return cell


def _parse_label(task, cell):
    """The label's id, a list of ones and zeros, or the score; `ValueError` says what it may be."""
    if task.is_regression:
        return _parse_score(task, cell)[0]
    allowed = ", ".join(task.labels[:_SHOWN_LABELS])
    allowed += ", …" * (len(task.labels) > _SHOWN_LABELS)
    names = _names(task, cell)
    if any(name not in task.labels for name in names):
        kind = "labels among" if task.problem_type == MULTI_LABEL else "one of the labels"
        raise ValueError(f"{kind} {allowed}")
    if task.problem_type == MULTI_LABEL:
        return [int(label in names) for label in task.labels]
    return task.labels.index(names[0])


def _names(task, cell):
    """The label strings in a cell, which need not be the task's; `ValueError` if it has none."""
    if task.problem_type == MULTI_LABEL:
        if isinstance(cell, str):
            cell = cell.split(task.label_delimiter) if cell.strip() else []
        if not isinstance(cell, list):
            raise ValueError("a list of labels")
        names = [_name(value) for value in cell]
        if len(set(names)) < len(names):
            raise ValueError("no label twice")
        return names
    return [_name(cell)]


def _name(value):
    """A label as text: 1 and true of a JSON file are "1" and "true"."""
    if isinstance(value, bool | int):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip() or set(value.strip()) & set("\t\r\n"):
        raise ValueError("a label")
    return value.strip()


def _parse_score(task, cell):
    """The score in a cell, as a list of one."""
    allowed, low, high = "a score", -math.inf, math.inf
    if task.score_range is not None and not task.range_is_open:
        low, high = task.score_range
        allowed += f" from {low:g} to {high:g}"
    try:
        score = math.nan if isinstance(cell, bool) else float(cell)
    except (ValueError, TypeError, OverflowError):
        score = math.nan
    if not math.isfinite(score) or not low <= score <= high:
        raise ValueError(allowed)
    return [score]


def _shown(cell):
    """A cell in an error: text in quotes, anything else as JSON."""
    return f'"{cell}"' if isinstance(cell, str) else json.dumps(cell, default=repr)
