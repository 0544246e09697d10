"""A job of finetune.py, its paths, and the results of its trials.

A job trains one model: on one task, or on several jointly. A trial is one run with its own seed.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from common import files
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks.base import Examples, Task
from jobs import results_table, unfinished
from jobs.encoder import Encoder
from jobs.working_copy import RUNS
from model.config import Execution

# Hyper-parameters that change neither a trained model nor its scores, except by rounding and the
# draws of dropout. (A trial's seed is compared separately.)
EXECUTION = {field.name for field in dataclasses.fields(Execution)}
NOT_IN_FINGERPRINT = EXECUTION - {"precision", "deterministic"}
NOT_IN_FINGERPRINT |= {
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
}

# Settings that are identified by a hash.
_HASHED = ("encoder", "task", "training data", "dev data")
# Differences that do not matter for scoring a trained model.
ONLY_TRAINING = {
    "settings",
    "deterministic",
    "model_size",
    "model_hparam_overrides",
    "classifier_head",
    "learning_rate",
    "weight_decay_rate",
    "layerwise_lr_decay",
    "num_train_epochs",
    "warmup_proportion",
    "train_batch_size",
    "double_unordered",
    "answerable_weight",
    "class_weights",
    "label_smoothing",
    "eval_every",
    "keep",
    "early_stopping_patience",
    "seed",
    "encoder",
    "training data",
}

CHECKPOINTS = "finetuning_checkpoints"  # in the model's directory, or in a run's

# The result of a trial for one task, as in the results file.
TrialResult = dict[str, Any]
Trials = dict[int, dict[str, TrialResult]]  # by trial and task
RESULT_KEYS = {"trial", "seed", "seconds", "fingerprint", "metrics", "num_examples", "tests"}


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A task and its examples."""

    task: Task  # as `Task.complete` returns it
    train: Examples | None  # None if nothing is trained
    dev: dict[str, Examples]  # by split, "dev" first; empty if nothing is scored
    tests: dict[str, Examples]  # by split; predictions are written for them


@dataclasses.dataclass(frozen=True)
class Job:
    """One task, or several to train jointly."""

    parts: tuple[TaskData, ...]
    config: FinetuningConfig
    encoder: Encoder | None  # None until it is loaded
    model_dir: str  # see `working_copy.output_directory`; all paths are below it
    send: Callable[[], None] = lambda: None  # sends `model_dir` to the store it is a copy of
    # Called with the trial and its evaluations after each one; what it raises ends the training.
    watch: Callable[[int, list[dict[str, float]]], None] | None = None

    @property
    def name(self) -> str:
        """The task's name; "cola+sst" for joint tasks."""
        return "+".join(part.task.name for part in self.parts)

    @property
    def title(self) -> str:
        """The model's name, and that of the run."""
        model_dir, _, run = self.model_dir.partition(f"{os.sep}{RUNS}{os.sep}")
        name = os.path.basename(model_dir)
        return f"{name}, {run}" if run else name

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
        """The cost of a trial: characters read, and three times those trained on in each epoch."""
        read = trained = 0
        for part in self.parts:
            read += sum(e.num_characters for e in (*part.dev.values(), *part.tests.values()))
            trained += part.train.num_characters if part.train else 0
        return read + 3 * self.config.num_train_epochs * trained

    def seed(self, trial: int) -> int:
        """The seed of a trial's random draws."""
        return self.config.seed + trial - 1

    def trained_model(self, trial: int, task: Task | None = None) -> str:
        """The directory of a trial's model; for joint tasks, `task` selects one in it."""
        parts = [task.name] if task and self.is_joint else []
        return os.path.join(self.model_dir, "finetuning_models", f"{self.name}_{trial}", *parts)

    def predictions(self, task: Task, split: str, trial: int) -> str:
        """The file of a trial's predictions for a test split."""
        folder = [self.name] if self.is_joint else []
        name = f"{task.name}_{split}_{trial}.tsv"
        return os.path.join(self.model_dir, "test_predictions", *folder, name)

    def report(self, task: Task) -> str:
        """The page about a task's dev sets; see `jobs.report`."""
        folder = [self.name] if self.is_joint else []
        return os.path.join(self.model_dir, "results", *folder, f"{task.name}_report.html")

    def checkpoints(self, trial: int) -> str:
        """The directory of the state that a killed trial goes on from; see `unfinished`."""
        return os.path.join(self.model_dir, CHECKPOINTS, f"{self.name}_{trial}")

    def log_directory(self, trial: int) -> str:
        """The directory of a trial's log, and of the same numbers for TensorBoard."""
        return os.path.join(self.model_dir, "finetuning_logs", f"{self.name}_{trial}")

    def outputs(self) -> list[str]:
        """The paths of all trials' models and predictions."""
        numbers = range(1, self.config.num_trials + 1)
        return [self.trained_model(trial) for trial in numbers] + [
            self.predictions(part.task, split, trial)
            for trial in numbers
            for part in self.parts
            for split in self.tests_of(part, trial)
        ]

    def tests_of(self, part: TaskData, trial: int) -> dict[str, Examples]:
        """The test splits that this trial writes predictions for."""
        return part.tests if trial <= self.config.n_writes_test else {}

    def hparams(self) -> dict[str, Any]:
        """The hyper-parameters that decide a trial's outcome, except its seed."""
        fields = dataclasses.asdict(self.config)
        if self.config.keep == "last" and self.config.early_stopping_patience is None:
            del fields["eval_every"]
        return {name: value for name, value in fields.items() if name not in NOT_IN_FINGERPRINT}

    def fingerprint(self) -> str:
        """A hash of everything that decides a trial's outcome except its seed."""
        known = [self.hparams(), self.encoder.sha256]
        for part in self.parts:
            examples = [part.train, *part.dev.values()]
            known += [part.task.identity(), [each and each.sha256 for each in examples]]
        return _hash(known)

    def settings(self, part: TaskData) -> dict[str, Any]:
        """By name: the seed, and those values behind `fingerprint` that concern one task."""
        others = {
            "seed": self.config.seed,
            "encoder": self.encoder.sha256,
            "task": _hash(part.task.identity()),
            "training data": part.train and part.train.sha256,
            "dev data": [each.sha256 for each in part.dev.values()],
        }
        return self.hparams() | others


def mean_score(job: Job, metrics: Mapping[str, Mapping[str, float]]) -> float:
    """The main metric of the job's task, or its mean over several; `metrics` are by task."""
    return statistics.fmean(metrics[part.task.name][part.task.metrics[0]] for part in job.parts)


def _hash(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_results_file(path: str, task_name: str) -> list[TrialResult]:
    """A task's results, one for each trial; [] if there is no file.

    Raises:
        InputError: not a file with results of the task, or a damaged one.
    """
    if not os.path.isfile(path):
        return []
    results = files.read_json_object(path).get(task_name)
    if not isinstance(results, list) or not all(map(_is_result, results)):
        raise InputError(f"{path}: not the results of {task_name}. Delete or rename it")
    return results


def _is_result(value):
    return (
        isinstance(value, dict)
        and value.keys() >= RESULT_KEYS
        and isinstance(value["trial"], int)
        and all(isinstance(value.get(name, {}), dict) for name in ("metrics", "tests", "settings"))
    )


def differences(job: Job, part: TaskData, result: TrialResult) -> dict[str, str]:
    """The settings of a trial that differ from the job's, by name, in words.

    Dev data are compared only if the trial was scored, and the job scores, too.
    """
    before, now = result.get("settings"), job.settings(part)
    if before is None:  # an older version wrote it
        expected = (job.fingerprint(), job.config.seed + result["trial"] - 1)
        is_same = (result["fingerprint"], result["seed"]) == expected
        return {} if is_same else {"settings": "other settings"}
    # An older version that lacked a hyper-parameter behaved as with its default.
    before = dict.fromkeys(now) | dataclasses.asdict(FinetuningConfig()) | before
    if not (before["dev data"] and now["dev data"] and result["metrics"]):
        before = before | {"dev data": now["dev data"]}
    return {
        name: f"another {name}"
        if name in _HASHED
        else f"`{name}` was {json.dumps(before[name])}, is {json.dumps(value)}"
        for name, value in now.items()
        if before[name] != value
    }


def check_results(job: Job) -> None:
    """Refuses to replace results of other settings.

    Raises:
        InputError: the results file has trials of other settings, or an unfinished trial has other
            settings; the message lists the differences. Or there are models or predictions without
            a results file, or a file is damaged.
    """
    found: dict[str, str] = {}
    for part in job.parts:
        for result in read_results_file(job.results_path, part.task.name):
            found |= _replaced(job, part, result)
        for trial in range(1, job.config.num_trials + 1) if job.config.do_train else ():
            found |= unfinished_differences(job, part, trial)
    advice = "Replace them with --overwrite"
    if job.config.do_train:
        advice += ", or keep them and give this run a place of its own with --run-name NAME"
    if found:
        differing = "; ".join(found.values())
        place = job.results_path
        if not os.path.exists(place):
            place = os.path.join(job.model_dir, CHECKPOINTS)
        raise InputError(f"{place} has results of other settings: {differing}. {advice}")
    if job.config.do_train and not os.path.exists(job.results_path):
        for path in filter(os.path.exists, job.outputs()):
            raise InputError(f"{path} exists, without results in {job.results_path}. {advice}")


def unfinished_differences(job: Job, part: TaskData, trial: int) -> dict[str, str]:
    """The settings of a killed trial that differ from the job's; see `differences`."""
    known = unfinished.describe(job.checkpoints(trial))
    if known is None:
        return {}
    settings = known["settings"].get(part.task.name, {})
    return differences(job, part, {"settings": settings, "metrics": known["evaluations"]})


def _replaced(job, part, result):
    """The differences that would make the job replace a result, or a part of it."""
    found = differences(job, part, result)
    if job.config.do_train:
        return found
    is_scored = (
        result["metrics"] and job.config.do_eval and result["trial"] <= job.config.num_trials
    )
    relevant = found.keys() - ONLY_TRAINING if is_scored else ()
    return {name: found[name] for name in sorted(relevant)}


def merge_evaluation(job: Job, part: TaskData, known: TrialResult, new: TrialResult) -> TrialResult:
    """The result of a trial whose model was scored again; it keeps what is `known` of the training.

    `scored_with` lists settings of the new scores that differ from those of the training.
    """
    if not job.config.do_eval:
        new = new | {name: known[name] for name in ("metrics", "num_examples") if name in known}
    found = differences(job, part, known)
    others = [found[name] for name in sorted(found.keys() - ONLY_TRAINING)]
    merged = known | new | {"tests": known.get("tests", {}) | new["tests"]}
    merged.pop("scored_with", None)
    return merged | ({"scored_with": others} if others else {})


def finished_trials(job: Job) -> Trials:
    """The trials that need not be repeated: by number, each task's result.

    They had the same hyper-parameters, model and data, and all their files exist.
    """
    return _trials(job, lambda part, result: job.config.do_train and is_finished(job, part, result))


def kept_trials(job: Job) -> Trials:
    """The trials that stay in the results file, finished or not: those of the same settings.

    A job that only evaluates keeps all.
    """
    return _trials(
        job, lambda part, result: not (job.config.do_train and differences(job, part, result))
    )


def _trials(job, condition):
    """The trials whose results for all tasks meet the condition, in order."""
    found: Trials = {}
    for part in job.parts:
        for result in read_results_file(job.results_path, part.task.name):
            if condition(part, result):
                found.setdefault(result["trial"], {})[part.task.name] = result
    return {trial: found[trial] for trial in sorted(found) if len(found[trial]) == len(job.parts)}


def is_finished(job: Job, part: TaskData, result: TrialResult) -> bool:
    """Whether this job would compute the same result; see `finished_trials`."""
    config, trial = job.config, result["trial"]
    if trial > config.num_trials or "scored_with" in result or differences(job, part, result):
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


def write_results(job: Job, new: Trials, without: int | None = None) -> None:
    """Writes new and kept results as JSON and as text, but not those of the trial `without`."""
    found = kept_trials(job) | new
    results = {
        part.task.name: [
            found[trial][part.task.name] for trial in sorted(found) if trial != without
        ]
        for part in job.parts
    }
    files.write_json(job.results_path, results)
    write_results_as_text(job)


def check_disk(job: Job) -> None:
    """Checks, before a trial is computed, that its files can be written; if not, a `WriteError`."""
    size = 4 * job.encoder.config.num_kernel_parameters() * len(job.parts)
    for folder, num_bytes in (
        ("results", 0),
        ("test_predictions", 0),
        ("finetuning_models", size if job.config.do_train else 0),
    ):
        files.require_writable(os.path.join(job.model_dir, folder), num_bytes)


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
    kept, count = "", len(result.get("evaluations", ()))
    if result.get("settings", {}).get("keep") == "best":
        kept = f", step {result['kept_step']}, the best of {count} scores on dev"
    return (
        f"{task_name} trial {result['trial']}: {scores or 'not scored'} "
        f"({result['num_examples']} dev examples, seed {result['seed']}, {result['seconds']} s"
        f"{kept})"
    )


def describe_progress(jobs: list[Job], finished: dict[str, Trials]) -> str:
    """The number of the next trial, the number of trials, and the estimated time left.

    A trial is assumed to take as long as the job's finished ones. If there are none, it is assumed
    to take as long per character as the other jobs' trials.
    """
    num_finished = sum(map(len, finished.values()))
    text = f"trial {num_finished + 1} of {sum(job.config.num_trials for job in jobs)}"
    if not num_finished:
        return text
    # All tasks of a trial have the same time.
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
