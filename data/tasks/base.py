"""What finetune.py asks of a task, whatever its kind.

A kind of task is a class: `classification.task`, `tagging.task`, `question_answering.task` and
`multiple_choice` have one each. A task is an object of it: a row of a table, or a JSON file of the
user's own.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from absl import logging

from common.errors import InputError
from common.fields import unknown


@dataclasses.dataclass(frozen=True)
class Examples:
    """One file's examples, in file order; each kind of task has its own fields.

    Args:
        path: the file.
        sha256: hash of its bytes.
    """

    path: str
    sha256: str

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not say how many examples it has")

    @property
    def num_characters(self) -> int:
        """How much text there is to read: an estimate of the work."""
        raise TypeError(f"{type(self).__name__} does not say how long its examples are")


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: what its files hold, what is to be predicted, and how it is scored.

    Args:
        name: also that of the task's folder.
        metrics: names of the scores; the first is the task's own in summaries.
        files: by split, the path of a file that is not where `paths` looks.
    """

    name: str
    metrics: tuple[str, ...]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)

    # The class in `model` that learns it.
    architecture: ClassVar[str]
    # What the names of its files may end in.
    endings: ClassVar[tuple[str, ...]]
    # Whether predictions are written for dev sets, too: others' scripts score them.
    predicts_dev: ClassVar[bool] = False
    # What an error says after the places where a missing file may be.
    where_from: ClassVar[str] = ""

    @property
    def more_dev_splits(self) -> tuple[str, ...]:
        """What is scored beside "dev", if it is there."""
        return ()

    @property
    def test_splits(self) -> tuple[str, ...]:
        """What predictions are written for."""
        return ("test",)

    def paths(self, directory: str, split: str) -> list[str]:
        """Where a split's file may be; `directory` holds the tasks' folders."""
        if split in self.files:
            return [self.files[split]]
        return [os.path.join(directory, self.name, split + ending) for ending in self.endings]

    def complete(self, directory: str) -> "Task":
        """The task with what its training file alone can say, such as the labels there are.

        Raises:
            InputError: see `load`.
        """
        return self

    def read(self, path: str, split: str) -> Examples:
        """Reads the file of a split; see `load`."""
        raise TypeError(f"{type(self).__name__} reads no files")

    def load(self, directory: str, split: str) -> Examples:
        """Reads a split that must exist.

        Args:
            directory: the folder that holds the tasks' folders, `$DATA_DIR/finetuning_data`.
            split: "train", "dev", or one of `more_dev_splits` and `test_splits`.

        Raises:
            InputError: the file is missing, or a line of it cannot be used; the message has the
                place, what was expected and what came.
        """
        return self.read(self.find_file(directory, split), split)

    def load_if_there(self, directory: str, splits: tuple[str, ...]) -> dict[str, Examples]:
        """Those of the splits that have a file, by name; a missing one is a warning."""
        found = {}
        for split in splits:
            paths = self.paths(directory, split)
            if split in self.files or any(os.path.isfile(path) for path in paths):
                found[split] = self.load(directory, split)
            else:
                what = "test predictions" if split in self.test_splits else f"scores on {split}"
                logging.warning("%s: no %s, for there is no %s", self.name, what, paths[0])
        return found

    def find_file(self, directory: str, split: str) -> str:
        """The path of a split's file, of which there must be one."""
        paths = self.paths(directory, split)
        found = [path for path in paths if os.path.isfile(path)]
        if not found:
            raise InputError(f"task {self.name}: no {split} file. "
                             f"Put it at {' or '.join(paths)}{self.where_from}")  # fmt: skip
        if len(found) > 1 and os.path.dirname(found[0]) == os.path.dirname(found[1]):
            raise InputError(f"task {self.name}: there are {' and '.join(found)}. Keep one of them")
        return found[0]

    def training_examples(self, examples: Examples, options: Any) -> Examples:
        """What is trained on, of the training file's examples."""
        return examples

    def make_features(self, tokenizer: Any, examples: Examples, options: Any, training: bool):
        """Tokens and targets of examples, as the model reads them.

        Args:
            tokenizer: a `ConvBertTokenizer`.
            examples: of this task.
            options: the hyper-parameters, `max_seq_length` and such, as attributes.
            training: whether they are trained on.

        Returns:
            `data.tasks.batching.Features`.
        """
        raise TypeError(f"{type(self).__name__} makes no features")

    def model_fields(self) -> dict[str, Any]:
        """Fields of `ConvBertConfig` that the task decides, such as `num_labels`."""
        raise TypeError(f"{type(self).__name__} does not say what model it needs")

    def model_options(self, options: Any) -> dict[str, Any]:
        """Arguments of the model's class beside its configuration; see `make_features`."""
        return {}

    def saved_options(self, options: Any) -> dict[str, Any]:
        """What predictions of new texts must know beside the model and `max_seq_length`.

        It is kept in `config.json` as `task_specific_params`.

        Args:
            options: see `make_features`.

        Returns:
            Options by the task's kind; `{}` where there are none.
        """
        return {}

    def score(self, examples: Examples, features: Any, outputs: Any) -> dict[str, float]:
        """Metrics in percent.

        Args:
            examples: of a dev file.
            features: what `make_features` made of them.
            outputs: the model's, of all rows or tokens; see `data.tasks.batching.gather_outputs`.
        """
        raise TypeError(f"{type(self).__name__} is not scored")

    def write_predictions(self, examples: Examples, features: Any, outputs: Any, path: str) -> None:
        """Writes what the outputs for a test file say; arguments are those of `score`.

        `path` ends in `.tsv`; what has another format goes beside it, with another ending.
        """
        raise TypeError(f"{type(self).__name__} writes no predictions")

    def identity(self) -> list[Any]:
        """Everything that decides what a task's files mean; not where they are."""
        fields = dataclasses.asdict(self)
        return [fields[name] for name in sorted(fields) if name not in ("files", "name")]


def find_task(name: str, tasks: Mapping[str, Task]) -> Task:
    """The one of `tasks` called `name`; an `InputError` lists those there are."""
    if name in tasks:
        return tasks[name]
    raise unknown("task", name, tasks)
