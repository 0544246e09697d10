"""Scores on held-out text during training."""

import time
from collections.abc import Callable

import keras
from typing_extensions import override

from model.training.callbacks import StepsCallback


class PeriodicEvaluation(StepsCallback):
    """Evaluates the model every `every` steps, and at the last step, without affecting training.

    Evaluation has its own random state for masks and samples. Afterwards, the means that the
    training log is collecting are restored.

    `evaluate` returns the scores by name, or None if it was stopped (`StopEvaluation`). `write` is
    called with the scores and the seconds that the evaluation took.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict | None],
        write: Callable[[dict, float], None],
        every: int,
        **interval: int,
    ):
        super().__init__(**interval)
        self.evaluate = evaluate
        self.write = write
        self.every = every

    @override
    def on_steps(self, before, logs):
        if not self.is_due(before, self.every):
            return
        started = time.monotonic()
        variables = self.model.metrics_variables
        means = [variable.numpy() for variable in variables]
        scores = self.evaluate()
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)
        if scores is not None:
            self.write(scores, time.monotonic() - started)


class StopEvaluation(keras.callbacks.Callback):
    """Ends an evaluation once `should_stop`, called after every batch, returns true."""

    def __init__(self, should_stop: Callable[[], bool]):
        super().__init__()
        self.should_stop = should_stop
        self.stopped = False

    @override
    def on_test_batch_end(self, batch, logs=None):
        if self.should_stop():
            self.model.stop_evaluating = self.stopped = True
