"""The interface of all tasks. Each kind of task is a subclass of `Task`; see `registry`."""

import abc
import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from absl import logging

from common import hub_datasets, remote_cache
from common.errors import InputError
from data.tasks.examples import Examples
from data.tasks.review import Review


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """One task: its files, its model, and its scores.

    Args:
        name: also the name of the task's folder.
        metrics: names of the scores. Summaries show the first.
        files: by split, paths of files that are not in the task's folder, or addresses on the hub.
        test_splits: the splits to write predictions for.
        more_dev_splits: the optional splits to score besides "dev".
    """

    name: str
    metrics: tuple[str, ...]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)
    test_splits: tuple[str, ...] = dataclasses.field(default=("test",), kw_only=True)
    more_dev_splits: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    architecture: ClassVar[str]  # the model's class in `model`
    endings: ClassVar[tuple[str, ...]]  # of the names of its files
    other_endings: ClassVar[tuple[str, ...]] = ()  # used if no file has one of `endings`
    predicts_dev: ClassVar[bool] = False  # whether to write predictions for dev splits, too
    file_hint: ClassVar[str] = ""  # ends the message about a missing file

    @property
    def loss_settings(self) -> tuple[str, ...]:
        """Which of `class_weights` and `label_smoothing` the task's loss can have."""
        return ()

    def paths(self, directory: str, split: str) -> list[str]:
        """The paths where a split's file should be; `directory` holds the tasks' folders."""
        if split in self.files:
            path = self.files[split]
            is_on_hub = hub_datasets.is_address(path)
            return [hub_datasets.fetch_file(path) if is_on_hub else remote_cache.local(path)]
        return [os.path.join(directory, self.name, split + ending) for ending in self.endings]

    def complete(self, directory: str) -> "Task":
        """The task, completed from its training file, for example with labels; see `load`."""
        return self

    @abc.abstractmethod
    def read(self, path: str, split: str) -> Examples:
        """Reads the file of a split; see `load`."""

    def load(self, directory: str, split: str) -> Examples:
        """Reads a split that must exist; `directory` is `$DATA_DIR/finetuning_data`, or its URL.

        Splits are "train", "dev", and those of `more_dev_splits` and `test_splits`.
        """
        return self.read(self.find_file(directory, split), split)

    def load_if_there(self, directory: str, splits: tuple[str, ...]) -> dict[str, Examples]:
        """Reads the splits that have a file, and warns about the others."""
        found = {}
        for split in splits:
            if split in self.files or self._files(directory, split):
                found[split] = self.load(directory, split)
            else:
                what = "test predictions" if split in self.test_splits else f"scores on {split}"
                places = self._places(directory, split)
                logging.warning("%s: no %s: %s not found", self.name, what, places)
        return found

    def find_file(self, directory: str, split: str) -> str:
        """The path of a split's file; an `InputError` if there is no file, or more than one.

        A name may also have capital letters, one of `other_endings`, or `.gz` at its end.
        """
        found = self._files(directory, split)
        if not found:
            places, hint = self._places(directory, split), self.file_hint
            if split == "dev":
                hint += '. Without one, set "do_eval": false in --hparams'
            raise InputError(f"task {self.name}: no {split} file. Put it at {places}{hint}")
        if len(found) > 1 and os.path.dirname(found[0]) == os.path.dirname(found[1]):
            raise InputError(f"task {self.name}: found {' and '.join(found)}. Keep only one")
        return found[0]

    def _files(self, directory, split):
        """The files that a split may be read from; folders in an object store are fetched."""
        paths = self._local_paths(directory, split)
        found = [path for path in paths if os.path.isfile(path)]
        if found or split in self.files:
            return found
        names = {os.path.basename(path).lower() for path in paths}
        names |= {os.path.splitext(name)[0] + end for name in names for end in self.other_endings}
        return [path for path, name in _entries(paths) if name.lower().removesuffix(".gz") in names]

    def _local_paths(self, directory, split):
        parts = [os.path.split(path) for path in self.paths(directory, split)]
        return [os.path.join(remote_cache.local(folder, True), name) for folder, name in parts]

    def _places(self, directory, split):
        """Where a split's file should be, and one that is there with another name or ending."""
        paths, local_paths = self.paths(directory, split), self._local_paths(directory, split)
        other = [
            path for path, name in _entries(local_paths) if name.lower().startswith(f"{split}.")
        ]
        found = f" (found only {other[0]})" if other and split not in self.files else ""
        return " or ".join(paths) + found

    def training_examples(self, examples: Examples, options: Any) -> Examples:
        """The examples to train on, given those of the training file."""
        return examples

    @abc.abstractmethod
    def make_features(self, tokenizer: Any, examples: Examples, options: Any, training: bool):
        """Tokenizes examples into `data.tasks.batching.Features`, for training or not.

        `options` has the hyper-parameters as attributes, such as `max_seq_length`.
        """

    def model_fields(self) -> dict[str, Any]:
        """Fields of `ConvBertConfig` that depend on the task, such as `num_labels`."""
        return {}

    def model_options(self, options: Any) -> dict[str, Any]:
        """Further arguments of the model's class."""
        return {}

    def saved_options(self, options: Any) -> dict[str, Any]:
        """Options of a pipeline by kind of task, for `task_specific_params` in `config.json`."""
        return {}

    @abc.abstractmethod
    def score(self, examples: Examples, features: Any, outputs: Any) -> dict[str, float]:
        """Computes the metrics of a dev file's examples, in percent.

        `features` are those of the examples; the model's `outputs` are from `gather_outputs`.
        """

    @abc.abstractmethod
    def write_predictions(self, examples: Examples, features: Any, outputs: Any, path: str) -> None:
        """Writes predictions to `path`, which ends in `.tsv`; see `score` for the rest."""

    @abc.abstractmethod
    def review(self, examples: Examples, features: Any, outputs: Any) -> Review:
        """What the model got right and wrong on a dev file's examples; see `score`."""

    @abc.abstractmethod
    def describe(self, examples: Examples) -> list[tuple[tuple[str, ...], str | None]]:
        """Each example's texts, and its label in words; None in a test file."""

    def count_labels(self, examples: Examples) -> Counter[str]:
        """How often each label occurs; nothing for a test file."""
        return Counter(label for _, label in self.describe(examples) if label is not None)

    @abc.abstractmethod
    def count_cut(
        self, tokenizer: Any, examples: Examples, features: Any
    ) -> dict[str, tuple[int, int]]:
        """How many texts were longer than a row when `features` were made from the examples.

        Returns:
            What happened to texts → how many texts, and of how many: {"texts cut": (2, 100)}.
        """

    def identity(self) -> list[Any]:
        """The fields that decide what the task is; not its name, nor where its files are."""
        fields = dataclasses.asdict(self)
        return [fields[name] for name in sorted(fields) if name not in ("files", "name")]


def _entries(paths):
    """(path, name) of the files in the folders of paths, folder by folder."""
    for folder in dict.fromkeys(map(os.path.dirname, paths)):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if os.path.isfile(path := os.path.join(folder, name)):
                yield path, name
