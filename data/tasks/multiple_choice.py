"""Multiple choice: which of several texts goes best with another, as in SWAG.

A task is described by a JSON file; its files are train.csv, dev.csv and test.csv (or .tsv, .jsonl)
in $DATA_DIR/finetuning_data/NAME. For SWAG's own files it is

    {"kind": "multiple_choice", "context_column": "sent1", "stem_column": "sent2",
     "choice_columns": ["ending0", "ending1", "ending2", "ending3"], "label_column": "label"}

The model reads each choice as the pair (context, stem and choice), the two joined by a space. The
further fields are

    name            of the folder, the results and the models; by default the JSON file's own name
    context_column  the text that the choices belong to: a name in the header, or a field of JSON
                    lines; a number from 1 where the files have no header. All columns are given by
                    name, or all by number
    stem_column     what all choices begin with, or the question they answer; may be left out
    choice_columns  two or more columns; or the one field of JSON lines that holds a list. A file's
                    examples have equally many choices
    label_column    column of the right choice: its number, from 0
    labels          list of what the choices are called instead, such as ["A", "B", "C", "D"]
    files           {"train": …, "dev": …, "test": …} where they are elsewhere; relative to the JSON
                    file's folder. Any further name is another test set
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from common import files
from common.errors import InputError
from common.fields import check_fields, require
from data.tasks.base import Examples, Task
from data.tasks.classification.task import TextExamples, parse_text
from data.tasks.tables import ENDINGS, Column, read_table
from data.tasks.task_fields import files_beside, is_column, is_files, is_list, is_name, tests_among

KIND = "multiple_choice"


@dataclasses.dataclass(frozen=True)
class ChoiceExamples(Examples):
    """One file's questions, each with equally many choices.

    Args:
        path: the file.
        sha256: hash of its bytes.
        contexts: N texts.
        choices: N lists of what may follow the context: stem and choice.
        labels: int32 `[N]`, which choice is right, from 0; None for a test file.
    """

    contexts: list[str]
    choices: list[list[str]]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def num_choices(self) -> int:
        """Choices of each example."""
        return len(self.choices[0])

    def as_pairs(self) -> TextExamples:
        """All choices, each a pair with its context, question by question."""
        contexts = [text for text in self.contexts for _ in range(self.num_choices)]
        choices = [choice for of_one in self.choices for choice in of_one]
        return TextExamples(self.path, self.sha256, contexts, choices, None)

    @property
    def num_characters(self) -> int:
        """See `Examples`."""
        contexts = self.num_choices * sum(map(len, self.contexts))
        return contexts + sum(len(choice) for choices in self.choices for choice in choices)


@dataclasses.dataclass(frozen=True)
class MultipleChoiceTask(Task):
    """A task of one right choice an example.

    Args:
        name: also that of the task's folder.
        metrics: `("accuracy",)`.
        context_column: name, or number from 0.
        choice_columns: likewise; or a single one, whose cells are lists.
        label_column: likewise.
        stem_column: likewise; None if choices stand by themselves.
        labels: what the choices are called in the files; None is numbers from 0.
        test_names: the test splits.
    """

    context_column: Column
    choice_columns: tuple[Column, ...]
    label_column: Column
    stem_column: Column | None = None
    labels: tuple[str, ...] | None = None
    test_names: tuple[str, ...] = ("test",)

    architecture: ClassVar[str] = "ConvBertForMultipleChoice"
    endings: ClassVar[tuple[str, ...]] = ENDINGS

    @property
    def test_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.test_names

    def read(self, path: str, split: str) -> ChoiceExamples:
        """See `Task.load`."""
        has_label = split not in self.test_splits
        stem = () if self.stem_column is None else (self.stem_column,)
        columns = (self.context_column, *stem, *self.choice_columns)
        columns += (self.label_column,) * has_label
        table = read_table(path, columns, has_header=isinstance(self.context_column, str))
        contexts, choices, labels = [], [], []
        for line, row in table.rows:
            try:
                context, *found = self._parse_row(table, row, has_label)
                if choices and len(found[0]) != len(choices[0]):
                    raise InputError(
                        f"expected {len(choices[0])} choices, as in the rows before, got "
                        f"{len(found[0])}"
                    )
            except InputError as error:
                raise InputError(f"{path}, line {line}: {error}") from None
            contexts.append(context)
            choices.append(found[0])
            labels += found[1:]
        if not contexts:
            raise InputError(f"{path}: no examples in the file")
        return ChoiceExamples(
            path, table.sha256, contexts, choices, np.array(labels, np.int32) if has_label else None
        )

    def make_features(self, tokenizer, examples, options, training):
        """See `Task`: a row for each choice, and an example's rows one after the other."""
        from data.tasks.batching import make_features

        pairs = examples.as_pairs()
        labels = np.zeros(len(examples), np.int32) if examples.labels is None else examples.labels
        return dataclasses.replace(
            make_features(tokenizer, pairs, options.max_seq_length),
            targets=labels,
            rows_per_example=examples.num_choices,
        )

    def model_fields(self) -> dict[str, Any]:
        """See `Task`; the model has one output, however many choices there are."""
        return {}

    def saved_options(self, options: Any) -> dict[str, Any]:
        """See `Task`."""
        return {KIND: {"labels": list(self.labels)}} if self.labels else {}

    def score(self, examples, features, outputs) -> dict[str, float]:
        """See `Task`; outputs are logits `[N, choices]`."""
        from data.tasks.metrics import compute_metrics

        return compute_metrics(self.metrics, examples.labels, outputs.argmax(axis=1))

    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """One row an example: its index; the choice, as the task's files call it; logits."""
        lines = ["index\tprediction\tlogits"]
        for index, logits in enumerate(outputs):
            best = int(logits.argmax())
            name = str(best) if self.labels is None else self.labels[best]
            lines.append(f"{index}\t{name}\t{' '.join(f'{logit:.6f}' for logit in logits)}")
        files.write_text(path, "\n".join(lines) + "\n")

    def _parse_row(self, table, row, has_label):
        """Context, choices with their stem, and the label's number; errors without the place."""
        cells, places = table.cells(row), list(table.labels)
        label, label_place = (cells.pop(), places.pop()) if has_label else (None, None)
        context = parse_text(cells.pop(0), places.pop(0))
        stem = ""
        if self.stem_column is not None:
            stem = parse_text(cells.pop(0), places.pop(0)) + " "
        if len(self.choice_columns) == 1:
            (cells,), (place,) = cells, places
            if not isinstance(cells, list) or len(cells) < 2:
                shown = json.dumps(cells, ensure_ascii=False)[:50]
                raise InputError(f"expected a list of two or more choices in {place}, got {shown}")
            places = [f"choice {number} of {place}" for number in range(len(cells))]
        choices = [parse_text(*pair) for pair in zip(cells, places, strict=True)]
        if self.labels is not None and len(self.labels) != len(choices):
            names = ", ".join(self.labels)
            raise InputError(f"expected {len(self.labels)} choices, {names}, got {len(choices)}")
        row = [context, [stem + choice for choice in choices]]
        return [*row, self._parse_label(label, len(choices), label_place)] if has_label else row

    def _parse_label(self, cell, num_choices, place):
        names = self.labels or tuple(map(str, range(num_choices)))
        is_number = isinstance(cell, int) and not isinstance(cell, bool)
        text = str(cell).strip() if is_number or isinstance(cell, str) else None
        if text not in names:
            shown = json.dumps(cell, ensure_ascii=False)[:50]
            raise InputError(f"expected one of {', '.join(names)} in {place}, got {shown}")
        return names.index(text)


def task_from_fields(path: str, fields: Mapping[str, Any]) -> MultipleChoiceTask:
    """The task that the fields of the JSON file `path` describe; see above.

    Raises:
        InputError: a field is missing, unknown or impossible.
    """
    values = {"name": os.path.splitext(os.path.basename(path))[0]} | fields
    check_fields(path, values, _FIELDS, ("context_column", "choice_columns", "label_column"))
    choices = values["choice_columns"]
    choices = tuple(choices) if isinstance(choices, list) else (choices,)
    columns = [values["context_column"], *choices, values["label_column"]]
    columns += [values["stem_column"]] if "stem_column" in values else []
    require(
        len(set(columns)) == len(columns) and len(set(map(type, columns))) == 1,
        "choice_columns",
        "other columns than the context's, the stem's and the label's, and "
        "all of them names, or all numbers",
        values["choice_columns"],
        path,
    )
    labels = values.get("labels")
    require(
        labels is None or len(choices) in (1, len(labels)),
        "labels",
        f"a list of {len(choices)}, one for each choice",
        labels,
        path,
    )

    def column(value):
        return value - 1 if isinstance(value, int) else value

    given = files_beside(path, values)
    return MultipleChoiceTask(
        values["name"],
        ("accuracy",),
        column(values["context_column"]),
        tuple(map(column, choices)),
        column(values["label_column"]),
        stem_column=column(values.get("stem_column")),
        labels=None if labels is None else tuple(labels),
        test_names=tests_among(given),
        files=given,
    )


_COLUMN = (is_column, "a column's name or number (from 1)")
_FIELDS = {
    "name": (is_name, "letters, digits, dots, - and _"),
    "context_column": _COLUMN,
    "stem_column": _COLUMN,
    "choice_columns": (
        lambda v: (isinstance(v, str) and v != "") or is_list(v, is_column, 2),
        "a list of two or more columns, or the name of one field with a list",
    ),
    "label_column": _COLUMN,
    "labels": (
        lambda v: is_list(v, lambda item: isinstance(item, str) and item.strip() == item != "", 2),
        "a list of two or more different strings, without spaces around them",
    ),
    "files": (is_files, "an object of file names by split"),
}
