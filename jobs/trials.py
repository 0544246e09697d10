"""A job of finetune.py, its paths, and the results of its trials.

A job trains one model: on one task, or on several jointly. A trial is one run with its own seed.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from common import files
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks.base import Examples, Task
from jobs import results_table
from jobs.encoder import Encoder

# Hyper-parameters that change neither a trained model nor its scores. (A trial's seed is compared
# separately.)
NOT_IN_FINGERPRINT = (
    "do_train",
    "do_eval",
    "num_trials",
    "keep_all_models",
    "write_test_outputs",
    "n_writes_test",
    "eval_batch_size",
    "predict_batch_size",
    "seed",
    "task_names",
)

# What one trial gives for one task, as in the results file.
TrialResult = dict[str, Any]
Trials = dict[int, dict[str, TrialResult]]  # by trial and task
RESULT_KEYS = {"trial", "seed", "seconds", "fingerprint", "metrics", "num_examples", "tests"}


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task and its examples."""

    task: Task  # as `Task.complete` returns it
    train: Examples | None  # None if nothing is trained
    dev: dict[str, Examples]  # by split, "dev" first; empty if nothing is scored
    tests: dict[str, Examples]  # by split, what predictions are written for


@dataclasses.dataclass(frozen=True)
class Job:
    """One task, or several to train jointly."""

    parts: tuple[TaskData, ...]
    config: FinetuningConfig
    encoder: Encoder | None  # None until it is known
    model_dir: str  # DATA_DIR/models/MODEL_NAME; all paths are below it

    @property
    def name(self) -> str:
        """The task's name; "cola+sst" for joint tasks."""
        return "+".join(part.task.name for part in self.parts)

    @property
    def is_joint(self) -> bool:
        """Whether there are several tasks."""
        return len(self.parts) > 1

    @property
    def results_path(self) -> str:
        """The results as JSON; the text file beside it ends in `.txt`."""
        return os.path.join(self.model_dir, "results", f"{self.name}_results.json")

    @property
    def num_characters(self) -> float:
        """The cost of a trial: characters read, where each one trained on counts three times."""
        read = trained = 0
        for part in self.parts:
            read += sum(e.num_characters for e in (*part.dev.values(), *part.tests.values()))
            trained += part.train.num_characters if part.train else 0
        return read + 3 * self.config.num_train_epochs * trained

    def trained_model(self, trial: int, task: Task | None = None) -> str:
        """The directory of a trial's model; for joint tasks, `task` selects one in it."""
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
        """A hash of everything that decides a trial's outcome except its seed."""
        fields = dataclasses.asdict(self.config)
        for name in NOT_IN_FINGERPRINT:
            del fields[name]
        known = [fields, self.encoder.sha256]
        for part in self.parts:
            examples = [part.train, *part.dev.values()]
            known += [part.task.identity(), [each and each.sha256 for each in examples]]
        text = json.dumps(known, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_results_file(path: str, task_name: str) -> list[TrialResult]:
    """A task's results, one for each trial; [] if there is no file.

    Raises:
        InputError: not a results file, or a damaged one.
    """
    if not os.path.isfile(path):
        return []
    results = files.read_json_object(path).get(task_name)
    if not isinstance(results, list) or not all(
        isinstance(result, dict) and result.keys() >= RESULT_KEYS for result in results
    ):
        raise InputError(f"{path}: not the results of {task_name}. Delete or rename it")
    return results


def finished_trials(job: Job) -> Trials:
    """The trials that need not be repeated: by number, each task's result.

    A trial is finished if it had the same hyper-parameters, model and data, and all its files
    exist.
    """
    if not job.config.do_train:
        return {}
    finished: Trials = {}
    for part in job.parts:
        for result in read_results_file(job.results_path, part.task.name):
            if is_finished(job, part, result):
                finished.setdefault(result["trial"], {})[part.task.name] = result
    num_tasks = len(job.parts)
    return {
        trial: finished[trial] for trial in sorted(finished) if len(finished[trial]) == num_tasks
    }


def training_of(job: Job, task: Task, trial: int) -> TrialResult:
    """The result of the trial that trained a model which is only evaluated now; {} if unknown."""
    results = read_results_file(job.results_path, task.name)
    return next((result for result in results if result["trial"] == trial), {})


def is_finished(job: Job, part: TaskData, result: TrialResult) -> bool:
    """Whether this job would compute the same result; see `finished_trials`."""
    config, trial = job.config, result["trial"]
    expected = (job.fingerprint(), config.seed + trial - 1)
    if (result["fingerprint"], result["seed"]) != expected or trial > config.num_trials:
        return False
    if config.do_eval and not result["metrics"]:
        return False
    needs_model = config.keep_all_models or trial == config.num_trials
    if needs_model and not os.path.isdir(job.trained_model(trial, part.task)):
        return False
    return all(
        result["tests"].get(split) == examples.sha256
        and os.path.isfile(job.predictions(part.task, split, trial))
        for split, examples in job.tests_of(part, trial).items()
    )


def write_results(job: Job, finished: Trials) -> None:
    """Writes the results so far as JSON and as text."""
    results = {
        part.task.name: [finished[trial][part.task.name] for trial in sorted(finished)]
        for part in job.parts
    }
    os.makedirs(os.path.dirname(job.results_path), exist_ok=True)
    files.write_text(job.results_path, json.dumps(results, indent=2) + "\n")
    write_results_as_text(job)


def write_results_as_text(job: Job) -> None:
    """Writes the content of the JSON file as text, unless the text file has it already."""
    lines = []
    for part in job.parts:
        name, results = part.task.name, read_results_file(job.results_path, part.task.name)
        lines += [result_line(name, result) for result in results]
        for metric in results[0]["metrics"] if len(results) > 1 else ():
            values = [each["metrics"][metric] for each in results if metric in each["metrics"]]
            if len(values) == len(results):
                numbers = results_table.over_trials(values)
                words = ", ".join(f"{key} {value:.2f}" for key, value in numbers.items())
                lines.append(f"{name} {metric}: {words}")
    path = pathlib.Path(job.results_path).with_suffix(".txt")
    text = "\n".join(lines) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def result_line(task_name: str, result: TrialResult) -> str:
    """One trial's result as text."""
    scores = " - ".join(f"{metric}: {value:.2f}" for metric, value in result["metrics"].items())
    return (
        f"{task_name} trial {result['trial']}: {scores or 'not scored'} "
        f"({result['num_examples']} dev examples, seed {result['seed']}, {result['seconds']} s)"
    )


def describe_progress(jobs: list[Job], finished: dict[str, Trials]) -> str:
    """The number of the next trial, the number of trials, and the estimated time left.

    A trial is estimated to take as long as the job's finished ones. For a job without any, the time
    per character of the other jobs is used.
    """
    num_finished = sum(map(len, finished.values()))
    text = f"trial {num_finished + 1} of {sum(job.config.num_trials for job in jobs)}"
    if not num_finished:
        return text
    # All tasks of a trial have its time.
    seconds = {
        name: [next(iter(results.values()))["seconds"] for results in trials.values()]
        for name, trials in finished.items()
    }
    num_characters = sum(job.num_characters * len(seconds[job.name]) for job in jobs)
    total = sum(map(sum, seconds.values()))
    left = 0.0
    for job in jobs:
        known = seconds[job.name]
        by_length = job.num_characters * total / num_characters
        estimate = sum(known) / len(known) if known else by_length
        left += estimate * (job.config.num_trials - len(known))
    hours, minutes = divmod(math.ceil(left / 60), 60)
    return f"{text}, about {f'{hours} h ' if hours else ''}{minutes} min left"
