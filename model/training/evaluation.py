"""Scores on held-out text while the training goes on."""

import time
from collections.abc import Callable

import keras

from model.training.callbacks import StepsCallback


class PeriodicEvaluation(StepsCallback):
    """Evaluates the model every `every` steps, and at the last one, without a trace in training.

    Masks and samples of an evaluation come from a random state of their own, and the means that
    the training's log is collecting are put back.

    Args:
        evaluate: scores the model; {name: value}, or None if it gave up (see `StopEvaluation`).
        write: called with (scores, seconds).
        every: steps between two evaluations.
        first_step: updates done before this `fit`.
        last_step: updates done when the run is finished.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict | None],
        write: Callable[[dict, float], None],
        every: int,
        first_step: int,
        last_step: int,
    ):
        super().__init__(first_step, last_step)
        self.evaluate = evaluate
        self.write = write
        self.every = every

    def on_steps(self, before, logs):
        """Evaluates where it is due."""
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
    """Ends an evaluation early, for a job that must end.

    Args:
        should_stop: asked after every batch.
    """

    def __init__(self, should_stop: Callable[[], bool]):
        super().__init__()
        self.should_stop = should_stop
        self.stopped = False

    def on_test_batch_end(self, batch, logs=None):
        """One more batch is scored."""
        if self.should_stop():
            self.model.stop_evaluating = self.stopped = True
