"""One job of finetune.py and the records of its trials: which are finished, and what came out.

A job trains one model: on one task, or on several jointly.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from common import files
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks.base import Examples, Task
from jobs import results_table
from model.config import ConvBertConfig

# Fields that change neither the trained model nor its scores (a trial's seed counts by itself).
NOT_IN_FINGERPRINT = (
    "do_train", "do_eval", "num_trials", "keep_all_models", "write_test_outputs", "n_writes_test",
    "eval_batch_size", "predict_batch_size", "seed", "task_names",
)  # fmt: skip

# A task's entry in the results: `metrics`, `num_examples`, `trial`, `seed`, `seconds`, …
Entry = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What every trial starts from: a saved model, or random weights if `directory` is None."""

    directory: str | None
    config: ConvBertConfig
    tokenizer: Any
    sha256: str


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task with the examples that its files hold: None, or no split, where they are not needed.

    Args:
        task: complete; see `Task.complete`.
        train: the training set.
        dev: by split what is scored, "dev" first.
        tests: by split what predictions are written for.
    """

    task: Task
    train: Examples | None
    dev: dict[str, Examples]
    tests: dict[str, Examples]


@dataclasses.dataclass(frozen=True)
class Job:
    """One task, or several to be trained jointly, with all that was given for them.

    Args:
        parts: the tasks; the first gives the order of everything.
        config: the hyper-parameters.
        encoder: what trials start from; None until it has been found.
        model_dir: `DATA_DIR/models/MODEL_NAME`; all paths are below it.
    """

    parts: tuple[TaskData, ...]
    config: FinetuningConfig
    encoder: Encoder | None
    model_dir: str

    @property
    def name(self) -> str:
        """The task's, or "cola+sst" of joint ones."""
        return "+".join(part.task.name for part in self.parts)

    @property
    def is_joint(self) -> bool:
        """Whether there are several tasks."""
        return len(self.parts) > 1

    @property
    def results_path(self) -> str:
        """The results as JSON; the text beside it ends in `.txt`."""
        return os.path.join(self.model_dir, "results", f"{self.name}_results.json")

    @property
    def num_characters(self) -> float:
        """The size of a trial: the text it reads, that of training three times."""
        read = trained = 0
        for part in self.parts:
            read += sum(e.num_characters for e in (*part.dev.values(), *part.tests.values()))
            trained += part.train.num_characters if part.train else 0
        return read + 3 * self.config.num_train_epochs * trained

    def trained_model(self, trial: int, task: Task | None = None) -> str:
        """The directory of a trial's fine-tuned model; of joint ones, that of each `task` in it."""
        parts = [task.name] if task and self.is_joint else []
        return os.path.join(self.model_dir, "finetuning_models", f"{self.name}_{trial}", *parts)

    def predictions(self, task: Task, split: str, trial: int) -> str:
        """The file of a trial's predictions for a test split."""
        folder = [self.name] if self.is_joint else []
        name = f"{task.name}_{split}_{trial}.tsv"
        return os.path.join(self.model_dir, "test_predictions", *folder, name)

    def tests_of(self, part: TaskData, trial: int) -> dict[str, Examples]:
        """The test splits that this trial writes predictions for."""
        return part.tests if trial <= self.config.n_writes_test else {}

    def fingerprint(self) -> str:
        """A hash of everything that decides a trial's outcome but its seed."""
        fields = dataclasses.asdict(self.config)
        for name in NOT_IN_FINGERPRINT:
            del fields[name]
        known = [fields, self.encoder.sha256]
        for part in self.parts:
            examples = [part.train, *part.dev.values()]
            known += [part.task.identity(), [each and each.sha256 for each in examples]]
        text = json.dumps(known, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_results(job: Job) -> dict[int, dict[str, Entry]]:
    """The trials that need no repeating: by trial, each task's entry.

    A trial is finished if it was run with the same hyper-parameters, model and data, and what it
    had to write is there.
    """
    if not (job.config.do_train and os.path.isfile(job.results_path)):
        return {}
    try:
        found: dict[int, dict[str, Entry]] = {}
        for part in job.parts:
            for entry in _written_entries(job)[part.task.name]:
                if is_finished(job, part, entry):
                    found.setdefault(entry["trial"], {})[part.task.name] = entry
    except (KeyError, TypeError) as error:
        raise _no_results_file(job, error) from None
    whole = len(job.parts)
    return {trial: found[trial] for trial in sorted(found) if len(found[trial]) == whole}


def trained_entry(job: Job, task: Task, trial: int) -> Entry:
    """What is written of a trial's model, which is only to be scored again; {} if nothing is."""
    if not os.path.isfile(job.results_path):
        return {}
    try:
        entries = _written_entries(job).get(task.name, [])
        return next((entry for entry in entries if entry["trial"] == trial), {})
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_results_file(job, error) from None


def _written_entries(job):
    with open(job.results_path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise _no_results_file(job, error) from None


def _no_results_file(job, error):
    return InputError(f"{job.results_path} is not a results file ({error!r}): move it away")


def is_finished(job: Job, part: TaskData, entry: Entry) -> bool:
    """Whether a task's results entry is what this job would compute; see `read_results`."""
    config, trial = job.config, entry["trial"]
    expected = (job.fingerprint(), config.seed + trial - 1)
    if (entry["fingerprint"], entry["seed"]) != expected or trial > config.num_trials:
        return False
    if config.do_eval and not entry["metrics"]:
        return False
    needs_model = config.keep_all_models or trial == config.num_trials
    if needs_model and not os.path.isdir(job.trained_model(trial, part.task)):
        return False
    return all(
        entry["tests"].get(split) == examples.sha256
        and os.path.isfile(job.predictions(part.task, split, trial))
        for split, examples in job.tests_of(part, trial).items()
    )


def write_results(job: Job, finished: dict[int, dict[str, Entry]]) -> None:
    """Writes the results so far as JSON and as text."""
    written = {
        part.task.name: [finished[trial][part.task.name] for trial in sorted(finished)]
        for part in job.parts
    }
    os.makedirs(os.path.dirname(job.results_path), exist_ok=True)
    files.write_text(job.results_path, json.dumps(written, indent=2) + "\n")
    write_results_as_text(job)


def write_results_as_text(job: Job) -> None:
    """Says in words what the JSON file says, if the text beside it does not say it already."""
    with open(job.results_path, encoding="utf-8") as file:
        written = json.load(file)
    lines = []
    for name, entries in written.items():
        lines += [result_line(name, entry) for entry in entries]
        for metric in entries[0]["metrics"] if len(entries) > 1 else ():
            values = [entry["metrics"][metric] for entry in entries if metric in entry["metrics"]]
            if len(values) == len(entries):
                numbers = results_table.over_trials(values)
                words = ", ".join(f"{key} {value:.2f}" for key, value in numbers.items())
                lines.append(f"{name} {metric}: {words}")
    path = os.path.splitext(job.results_path)[0] + ".txt"
    text = "\n".join(lines) + "\n"
    if not os.path.isfile(path) or pathlib.Path(path).read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def result_line(name: str, entry: Entry) -> str:
    """One trial's result in words."""
    scores = " - ".join(f"{metric}: {value:.2f}" for metric, value in entry["metrics"].items())
    return (
        f"{name} trial {entry['trial']}: {scores or 'not scored'} "
        f"({entry['num_examples']} dev examples, seed {entry['seed']}, {entry['seconds']} s)"
    )
