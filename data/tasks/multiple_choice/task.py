"""Multiple choice: which of several texts follows another best, as in SWAG.

The model reads each choice as a pair: the context, then the stem and the choice joined by a space.
docs/finetuning.md explains the fields of a task's JSON file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from common.errors import InputError
from common.fields import require
from data.tasks import task_fields
from data.tasks.base import Task
from data.tasks.examples import Examples, TextExamples, listed, parse_text, unexpected
from data.tasks.labels import label_ids, label_name
from data.tasks.review import Review
from data.tasks.tables import ENDINGS, OTHER_ENDINGS, Column, read_table, write_predictions

KIND = "multiple_choice"


@dataclasses.dataclass(frozen=True)
class ChoiceExamples(Examples):
    """One file's questions, all with the same number of choices.

    Args:
        contexts: N texts.
        choices: N lists of stems and choices, joined.
        labels: int32 `[N]` numbers from 0 of the right choices; None for a test file.
    """

    contexts: list[str]
    choices: list[list[str]]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def num_choices(self) -> int:
        """The number of choices of each example."""
        return len(self.choices[0])

    def as_pairs(self) -> TextExamples:
        """All choices, each a pair with its context, question by question."""
        contexts = [text for text in self.contexts for _ in range(self.num_choices)]
        choices = [choice for row in self.choices for choice in row]
        return TextExamples(self.path, self.sha256, contexts, choices, None)

    @property
    @override
    def num_characters(self) -> int:
        return self.as_pairs().num_characters


@dataclasses.dataclass(frozen=True)
class MultipleChoiceTask(Task):
    """A task with one right choice per example.

    Args:
        context_column: name, or number from 0.
        choice_columns: names or numbers; or a single one whose cells are lists.
        label_column: name or number.
        stem_column: name or number; None if choices have no stem.
        labels: the choices' names in the files; None for numbers from 0.
    """

    context_column: Column
    choice_columns: tuple[Column, ...]
    label_column: Column
    stem_column: Column | None = None
    labels: tuple[str, ...] | None = None

    architecture: ClassVar[str] = "ConvBertForMultipleChoice"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    other_endings: ClassVar[tuple[str, ...]] = OTHER_ENDINGS

    @override
    def read(self, path: str, split: str) -> ChoiceExamples:
        has_label = split not in self.test_splits
        stem = () if self.stem_column is None else (self.stem_column,)
        columns = (self.context_column, *stem, *self.choice_columns)
        columns += (self.label_column,) * has_label
        table = read_table(path, columns, has_header=isinstance(self.context_column, str))
        records = table.parse(lambda cells: self._parse_row(cells, table.labels, has_label))
        contexts, choices, labels = map(list, zip(*records, strict=True))
        for (place, _), row in zip(table.rows, choices, strict=True):
            if len(row) != len(choices[0]):
                found = f"expected {len(choices[0])} choices as in the first row, got {len(row)}"
                raise InputError(f"{path}, {place}: {found}")
        labels = np.array(labels, np.int32) if has_label else None
        return ChoiceExamples(path, table.sha256, contexts, choices, labels)

    @override
    def make_features(self, tokenizer, examples, options, training):
        from data.tasks.batching import make_features

        labels = np.zeros(len(examples), np.int32) if examples.labels is None else examples.labels
        features = make_features(tokenizer, examples.as_pairs(), options.max_seq_length)
        count = examples.num_choices
        return dataclasses.replace(features, targets=labels, rows_per_example=count)

    @override
    def saved_options(self, options: Any) -> dict[str, Any]:
        return {KIND: {"labels": list(self.labels)}} if self.labels else {}

    @override
    def score(self, examples, features, outputs) -> dict[str, float]:
        from data.tasks.metrics import compute_metrics

        return compute_metrics(self.metrics, examples.labels, outputs.argmax(axis=1))

    @override
    def write_predictions(self, examples, features, outputs, path: str) -> None:
        names = self.labels or range(outputs.shape[1])
        write_predictions(path, (str(names[best]) for best in outputs.argmax(axis=1)), outputs)

    @override
    def review(self, examples, features, outputs) -> Review:
        from data.tasks.multiple_choice.review import review_choices

        return review_choices(self, examples, outputs)

    @override
    def describe(self, examples):
        names = self.labels or tuple(map(str, range(examples.num_choices)))
        labels = [None] * len(examples)
        if examples.labels is not None:
            labels = [names[number] for number in examples.labels]
        texts = zip(examples.contexts, examples.choices, strict=True)
        rows = ((context, *choices) for context, choices in texts)
        return list(zip(rows, labels, strict=True))

    @override
    def count_cut(self, tokenizer, examples, features):
        from data.tasks.batching import count_cut

        pairs, rows = examples.as_pairs(), dataclasses.replace(features, rows_per_example=1)
        return {"choices cut": (count_cut(tokenizer, pairs, rows), len(pairs))}

    def _parse_row(self, cells, columns, has_label):
        """The context, the choices with their stem, and the label's number or None."""
        choices, places = (list(row[: len(row) - has_label]) for row in (cells, columns))
        context = parse_text(choices.pop(0), places.pop(0))
        stem = ""
        if self.stem_column is not None:
            stem = parse_text(choices.pop(0), places.pop(0)) + " "
        if len(self.choice_columns) == 1:
            (choices,), (column,) = choices, places
            if not isinstance(choices, list) or len(choices) < 2:
                raise unexpected("a list of two or more choices", column, choices)
            places = [f"choice {number} of {column}" for number in range(len(choices))]
        choices = [stem + text for text in map(parse_text, choices, places)]
        if self.labels is not None and len(self.labels) != len(choices):
            names = f"{len(self.labels)} choices, {listed(self.labels)}"
            raise InputError(f"expected {names}, got {len(choices)}")
        label = self._parse_label(cells[-1], len(choices), columns[-1]) if has_label else None
        return context, choices, label

    def _parse_label(self, cell, num_choices, where):
        names = self.labels or tuple(map(str, range(num_choices)))
        number = label_ids(names).get((label_name(cell) or "").strip())
        if number is None:
            raise unexpected(f"one of {listed(names)}", where, cell)
        return number


def task_from_fields(path: str, fields: Mapping[str, Any]) -> MultipleChoiceTask:
    """The task that a JSON file describes: `path` and its fields; see `registry.read_task`."""
    required = ("context_column", "choice_columns", "label_column")
    values, common = task_fields.read_fields(path, fields, _FIELDS, required)
    choices = values["choice_columns"]
    choices = choices if isinstance(choices, list) else [choices]
    stem = [values["stem_column"]] if "stem_column" in values else []
    columns = [values["context_column"], values["label_column"], *stem, *choices]
    columns = task_fields.read_columns(path, columns, "choice_columns")
    labels, expected = values.get("labels"), f"a list of {len(choices)}, one for each choice"
    require(labels is None or len(choices) in (1, len(labels)), "labels", expected, labels, path)
    return MultipleChoiceTask(
        metrics=("accuracy",),
        context_column=columns[0],
        choice_columns=tuple(columns[2 + len(stem) :]),
        label_column=columns[1],
        stem_column=columns[2] if stem else None,
        labels=labels and tuple(map(label_name, labels)),
        **common,
    )


_FIELDS = {
    "context_column": task_fields.COLUMN,
    "stem_column": task_fields.COLUMN,
    "choice_columns": (
        lambda v: (
            (isinstance(v, str) and v != "") or task_fields.is_list(v, task_fields.is_column, 2)
        ),
        "a list of two or more columns, or the name of one field with a list",
    ),
    "label_column": task_fields.COLUMN,
    "labels": task_fields.LABELS,
}
