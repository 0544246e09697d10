"""Optimizer, callbacks, evaluation and checkpoints of a training run."""
