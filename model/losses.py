"""Losses that Keras lacks: one number per example, some of whose targets may be missing."""

from collections.abc import Sequence

import keras
from keras import ops
from typing_extensions import override

IGNORED = -100  # the target of a token without one, as in PyTorch


@keras.saving.register_keras_serializable(package="convbert")
class TokenCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits [B, T, C] with targets int [B, T], except those that are `IGNORED`.

    Logits [B, C] with targets [B] also work.

    With the reduction "sum", an example's loss is the sum over its tokens, and examples may have
    weights; otherwise the loss is the mean over all targets of the batch. (Keras's `ignore_class`
    does not support weights.)

    Args:
        class_weights: C factors of the loss, one for each class of a target; None means 1.
        label_smoothing: the share of a target's probability that is spread evenly over all classes.
        **kwargs: arguments of `keras.losses.Loss`.
    """

    def __init__(
        self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    @override
    def get_config(self):
        names = ("class_weights", "label_smoothing")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def has_target(self, targets, logits):
        """Selects the targets that count: bool, of their shape."""
        return ops.not_equal(targets, IGNORED)

    def call(self, targets, logits):
        """→ [B]."""
        counts = self.has_target(targets, logits)
        classes = ops.cast(ops.where(counts, targets, 0), "int32")
        losses = ops.sparse_categorical_crossentropy(classes, logits, from_logits=True)
        if self.label_smoothing:
            of_all = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
            losses += self.label_smoothing * (of_all - losses)
        if self.class_weights is not None:
            losses *= ops.take(ops.convert_to_tensor(self.class_weights, losses.dtype), classes)
        losses = ops.where(counts, losses, 0.0)
        if len(losses.shape) > 1:
            losses = ops.sum(losses, axis=-1)
        if self.reduction == "sum":
            return losses
        # Keras divides by the number of examples.
        size = ops.cast(ops.shape(losses)[0], losses.dtype)
        return losses * (size / ops.maximum(ops.sum(ops.cast(counts, losses.dtype)), 1.0))


@keras.saving.register_keras_serializable(package="convbert")
class PositionCrossEntropy(TokenCrossEntropy):
    """Cross-entropy of logits [B, T] with positions int [B], except those outside the row."""

    @override
    def has_target(self, targets, logits):
        inside = ops.less(targets, ops.cast(ops.shape(logits)[-1], targets.dtype))
        return ops.logical_and(ops.greater_equal(targets, 0), inside)


@keras.saving.register_keras_serializable(package="convbert")
class BinaryCrossEntropy(keras.losses.Loss):
    """Binary cross-entropy of logits with targets 0 or 1, [B] both."""

    def call(self, targets, logits):
        """→ [B]. (Keras's own loss would treat [B] as the labels of one example.)"""
        return ops.binary_crossentropy(targets, logits, from_logits=True)
