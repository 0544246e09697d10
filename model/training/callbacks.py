"""What happens between the steps of a pre-training run: logging, saving and stopping."""

import math
import resource
import sys
import time
from collections.abc import Callable

import keras
from tqdm import tqdm
from typing_extensions import override

from common.console import progress_bar
from model.backends import backend


class StepsCallback(keras.callbacks.Callback):
    """Counts steps over a whole run, for any `steps_per_execution`; subclasses define `on_steps`.

    Args:
        first_step: updates done before this `fit`.
        last_step: updates done when the run is finished.
    """

    def __init__(self, first_step: int, last_step: int):
        super().__init__()
        self.first_step = self.step = first_step
        self.last_step = last_step

    @override
    def on_train_batch_end(self, batch, logs=None):
        # `batch` is the index of the last step that this execution may have included.
        before, self.step = self.step, min(self.first_step + batch + 1, self.last_step)
        self.on_steps(before, logs)

    def on_steps(self, before: int, logs: dict[str, float]) -> None:
        """Handles the steps `before + 1` to `self.step`; `logs` are means since the last reset.

        In a `StepCallbacks`, they are arrays; converting them to numbers waits for the device.
        """
        raise NotImplementedError

    def is_due(self, before: int, every: int) -> bool:
        """Whether these steps include a multiple of `every`, or the run's last step."""
        return self.step // every > before // every or self.step == self.last_step


class StepCallbacks(keras.callbacks.CallbackList):
    """Keras's list of callbacks, for `fit`, without a wait for the device after every step.

    Keras converts all logs to numbers, even if no callback reads them. Here they stay arrays.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], model: keras.Model):
        super().__init__(callbacks, add_history=True, model=model)

    @override
    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class CheckFinite(StepsCallback):
    """Ends the run when the loss is no longer finite.

    Reading a loss waits for the device, so losses stay there until the step is a multiple of a
    number in `every`. The log resets the means, so `every` must contain its interval. `error`
    creates the exception from the first and the last step that can be the cause.
    """

    def __init__(
        self, error: Callable[[int, int], Exception], every: tuple[int, ...], **interval: int
    ):
        super().__init__(**interval)
        self.error = error
        self.every = every
        self._unread: list = []

    @override
    def on_steps(self, before, logs):
        self._unread.append((before + 1, self.step, logs["loss"]))
        if before == self.first_step or any(self.is_due(before, every) for every in self.every):
            unread, self._unread = self._unread, []
            if not _is_finite(unread[-1][2]):  # once a loss is not finite, neither is the mean
                raise self.error(*next(steps for *steps, loss in unread if not _is_finite(loss)))


def _is_finite(value):
    return math.isfinite(keras.ops.convert_to_numpy(value))


class SaveCheckpoints(StepsCallback):
    """Calls `save`, which returns a path, every `every` steps and at the last step.

    It also calls `stop_requested` every `ask_every` steps; once that returns true, it saves and
    ends `fit`.
    """

    def __init__(
        self,
        save: Callable[[], str],
        every: int,
        stop_requested: Callable[[], bool] = lambda: False,
        ask_every: int = 1,
        **interval: int,
    ):
        super().__init__(**interval)
        self.save = save
        self.every = every
        self.stop_requested = stop_requested
        self.ask_every = ask_every

    @override
    def on_steps(self, before, logs):
        stop = self.is_due(before, self.ask_every) and self.stop_requested()
        if stop or self.is_due(before, self.every):
            _ = self.model  # on JAX, this brings the variables up to date
            tqdm.write(f"step {self.step}: saved {self.save()}", file=sys.stderr)
        if stop:
            self.model.stop_training = True


class TrainingLog(StepsCallback):
    """Shows a progress bar, and logs metrics.

    A line has the means since the previous line. The first line covers only the first step (or the
    first execution, if it has several steps). Tokens per second include padding.

    Args:
        write: called with (step, {name: value}) for each line. None disables all output, for all
            processes but one.
        tokens_per_step: B · T.
        every: steps between two lines.
        **interval: see `StepsCallback`.
    """

    def __init__(
        self,
        write: Callable[[int, dict[str, float]], None] | None,
        *,
        tokens_per_step: int,
        every: int,
        **interval: int,
    ):
        super().__init__(**interval)
        self.write = write
        self.tokens_per_step = tokens_per_step
        self.every = every
        self.logged_step = self.first_step
        self.bar = None
        self.started = time.monotonic()

    @override
    def on_train_begin(self, logs=None):
        self.bar = progress_bar(
            self.last_step,
            "pre-training",
            initial=self.step,
            unit="step",
            disable=self.write is None,
        )
        self.logged_time = time.monotonic()

    @override
    def on_steps(self, before, logs):
        self.bar.update(self.step - before)
        first = before == self.first_step
        if first or self.is_due(before, self.every):
            self._write_line(logs)
        if first:
            seconds = time.monotonic() - self.started
            self._say(f"first step after {seconds:.1f} s")

    def _write_line(self, logs):
        logs = self.model.exact_logs(logs)
        means = {name: keras.ops.convert_to_numpy(logs[name]) for name in sorted(logs)}
        now = time.monotonic()  # after the device has done the steps
        tokens = (self.step - self.logged_step) * self.tokens_per_step
        line = {name: round(float(v), 6) for name, v in means.items()}
        line["learning_rate"] = self.model.optimizer.learning_rate_at(self.step - 1)
        line |= self.model.optimizer.loss_scaling()
        line["tokens_per_second"] = round(tokens / (now - self.logged_time), 1)
        line["seconds"] = round(now - self.started, 1)
        line["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        if (peak := backend.peak_memory()) is not None:
            line["device_peak_memory_mb"] = peak // 1_000_000
        self._record(line)
        names = ("loss", "mlm_accuracy", "rtd_auc", "rtd_recall", "tokens_per_second")
        names += ("loss_scale", "skipped_steps")
        self.bar.set_postfix({name: f"{line[name]:.4g}" for name in names if name in line})
        self.model.reset_metrics()
        self.logged_step, self.logged_time = self.step, now

    def _record(self, line):
        if self.write is not None:
            self.write(self.step, line)

    def write_evaluation(self, scores: dict[str, float], seconds: float) -> None:
        """Writes the scores of an evaluation, which took `seconds`, as a line of their own.

        These seconds do not count as training time.
        """
        self._record(scores | {"eval_seconds": round(seconds, 1)})
        self.logged_time += seconds
        names = ("eval_loss", "eval_mlm_accuracy", "eval_rtd_auc", "eval_rtd_recall")
        shown = ", ".join(f"{name} {scores[name]:.4g}" for name in names if name in scores)
        self._say(f"step {self.step}: {shown}")

    def _say(self, text):
        if self.write is not None:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the progress bar, so that further output starts on a new line."""
        if self.bar is not None:
            self.bar.close()
