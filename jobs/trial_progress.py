"""What happens between the steps of a trial: dev scores, weights to keep, states to resume from.

Without `eval_every`, nothing is scored, because scoring takes time. A state is saved at the end of
an epoch, or after a score, only if `SECONDS_BETWEEN_STATES` have passed, so that short trials save
none.
"""

import dataclasses
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import logging
from tqdm import tqdm
from typing_extensions import override

from common import files
from jobs import trials, unfinished
from jobs.loggers import Loggers
from jobs.stop_signals import StopSignals
from jobs.trials import Job
from model.training.callbacks import StepsCallback
from model.training.checkpoints import TrainingCheckpoints, copied, state_variables

SECONDS_BETWEEN_STATES = 60
BEST = "best/"  # begins the names of the best weights in a state

Scores = dict[str, dict[str, float]]  # by task and metric


class TrialProgress(StepsCallback):
    """Scores the dev sets, chooses the weights, stops early, logs, and saves the trial's state.

    Args:
        job, trial, steps: the job, the number of the trial, and its steps in all.
        trained: the compiled model that `fit` trains. It gets the trial's last state, if any.
        evaluate: returns the scores of the current weights, and the outputs behind them.
        num_examples: in an epoch; batches may span epochs.

    Attributes:
        shown: the last scores as text, for the progress bar.
        stop: the signals that end the training; after one, call `leave`.
    """

    def __init__(
        self,
        job: Job,
        trial: int,
        trained: Any,
        evaluate: Callable[[], tuple[Scores, Any]],
        steps: int,
        num_examples: int,
    ):
        self.job, self.trial, self.trained, self.evaluate = job, trial, trained, evaluate
        self.steps_per_epoch = num_examples / job.config.train_batch_size
        self.evaluations: list[dict[str, float]] = []
        self.best_weights: dict[str, Any] = {}
        self.found: tuple[Scores, Any] | None = None  # for the weights to keep, if known
        self.stop = StopSignals()
        self.seconds_before, self.started = 0.0, time.monotonic()
        self.shown: dict[str, str] = {}
        self.checkpoints = TrainingCheckpoints(job.checkpoints(trial), keep=1)
        super().__init__(self._restore(), steps)
        epochs = range(1, math.ceil(job.config.num_train_epochs))
        ends = (math.ceil(i * num_examples / job.config.train_batch_size) for i in epochs)
        self.epoch_ends = {*ends, steps}
        every = job.config.eval_every
        self.evaluated = set() if every is None else self.epoch_ends
        if isinstance(every, int):
            self.evaluated = {*range(every, steps, every), steps}
        self.saved_at = time.monotonic()
        self.log = self._open_log()

    def _restore(self):
        """Gives the model the state of a trial that was killed; returns the number of its steps."""
        known = unfinished.describe(self.job.checkpoints(self.trial))
        if known is None:
            return 0
        parts = self.job.parts
        if any(trials.unfinished_differences(self.job, part, self.trial) for part in parts):
            unfinished.forget(self.job.checkpoints(self.trial))  # --overwrite was given
            return 0
        state = self.checkpoints.newest()
        arrays = dict(state.arrays)
        best = [name for name in arrays if name.startswith(BEST)]
        self.best_weights = {name.removeprefix(BEST): arrays.pop(name) for name in best}
        dataclasses.replace(state, arrays=arrays).restore(self.trained)
        self.evaluations, self.seconds_before = known["evaluations"], known["seconds"]
        message = "%s: trial %d goes on after step %s"
        logging.info(message, self.job.name, self.trial, f"{state.step:,}")
        return state.step

    def _open_log(self):
        directory = self.job.log_directory(self.trial)
        if not self.first_step:  # what is there belongs to a trial that this one replaces
            shutil.rmtree(directory, ignore_errors=True)
        if not self.evaluated:
            return None
        job, config = self.job, self.job.config
        title = f"{job.title}, {job.name} {self.trial}"
        settings = dataclasses.asdict(config) | {"seed": job.seed(self.trial)}
        return Loggers(directory, directory, config.loggers, title, settings, self.first_step)

    @property
    def seconds(self) -> float:
        """How long the trial has been trained, by this process and those before it."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def best(self) -> int:
        """The index of the best evaluation, on a tie the first."""
        scores = [each["score"] for each in self.evaluations]
        return scores.index(max(scores))

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        patience, count = self.job.config.early_stopping_patience, len(self.evaluations)
        is_stopped = patience is not None and count > 0 and count > self.best + patience
        return is_stopped or self.step == self.last_step

    @override
    def on_steps(self, before, logs):
        if self.stop.received:
            self.model.stop_training = True
        if self.step not in self.epoch_ends | self.evaluated:
            return
        _ = self.model  # on JAX, this brings the variables up to date
        if self.step in self.evaluated:
            self._evaluate(logs)
        if time.monotonic() - self.saved_at >= SECONDS_BETWEEN_STATES:
            self._save()
        if self.is_done:
            self.model.stop_training = True

    def _evaluate(self, logs):
        started, config = time.monotonic(), self.job.config
        found = self.evaluate()
        by_task = found[0]
        line = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 3)}
        scores = _flat(by_task)
        self.evaluations.append(line | {"score": trials.mean_score(self.job, by_task)} | scores)
        is_best = self.best == len(self.evaluations) - 1
        if is_best or config.keep == "last":
            self.found = found
        if is_best and config.keep == "best":
            self.best_weights = copied(self._weights())
        line["loss"] = round(float(logs["loss"]) / config.train_batch_size, 6)
        line["learning_rate"] = self.trained.optimizer.learning_rate_at(self.step - 1)
        line |= {f"eval_{name}": round(value, 4) for name, value in scores.items()}
        line["eval_seconds"] = round(time.monotonic() - started, 1)
        self.log.write(self.step, {k: v for k, v in line.items() if k != "step"})
        self.model.reset_metrics()  # so that the next line has the loss since this one
        self.shown = {name: f"{value:.2f}" for name, value in scores.items()}
        text = ", ".join(f"{name} {value}" for name, value in self.shown.items())
        remark = " (best so far)" if is_best else ""
        tqdm.write(f"step {self.step:,}, epoch {line['epoch']:g}: {text}{remark}", file=sys.stderr)
        if self.job.watch is not None:
            self.job.watch(self.trial, self.evaluations)

    def _save(self):
        parts = self.job.parts
        data = {
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "settings": {part.task.name: self.job.settings(part) for part in parts},
        }
        best = {BEST + name: array for name, array in self.best_weights.items()}
        try:
            with files.write_errors_named(self.checkpoints.directory):
                os.makedirs(self.checkpoints.directory, exist_ok=True)
            self.checkpoints.save(self.trained, self.job.hparams(), data, best)
        except files.WriteError as error:  # the trial may still end well
            logging.warning("no state of the trial was saved: %s", error)
        self.saved_at = time.monotonic()

    def _weights(self):
        variables = state_variables(self.trained)
        return {name: v for name, v in variables.items() if name.startswith("model/")}

    def close(self) -> None:
        """Ends the log."""
        if self.log is not None:
            self.log.close()

    def finish(self) -> dict[str, Any]:
        """Gives the model the weights to keep; returns what the results record of the evaluations.

        `found` is what `evaluate` returned for these weights, or None if it is not known.
        """
        if not self.evaluations:
            return {}
        kept_step = self.step
        if self.job.config.keep == "best":
            kept_step = self.evaluations[self.best]["step"]
            for name, variable in self._weights().items():
                variable.assign(self.best_weights[name])
        return {"kept_step": kept_step, "evaluations": self.evaluations, "found": self.found}

    def leave(self) -> NoReturn:
        """Saves the trial's state and ends the process, after a signal."""
        self._save()
        if saved := self.checkpoints.last_good:
            self.stop.leave(f"saved {saved}. The same command goes on from there")
        self.stop.leave("the trial's state is not saved. The same command repeats the trial")


def _flat(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores by metric; if there are several tasks, by TASK_METRIC."""
    if len(found) == 1:
        return dict(*found.values())
    return {f"{task}_{name}": value for task in found for name, value in found[task].items()}
