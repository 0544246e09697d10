"""Losses that Keras lacks: one number per example, some of whose targets may be missing."""

import keras
from keras import ops
from typing_extensions import override

IGNORED = -100  # the target of a token without one, as in PyTorch


@keras.saving.register_keras_serializable(package="convbert")
class TokenCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits [B, T, C] with targets int [B, T], except those that are `IGNORED`.

    With the reduction "sum", an example's loss is the sum over its tokens, and examples may have
    weights; otherwise the loss is the mean over all targets of the batch. (Keras's `ignore_class`
    does not support weights.)
    """

    def has_target(self, targets, logits):
        """Selects the targets that count: bool, of their shape."""
        return ops.not_equal(targets, IGNORED)

    def call(self, targets, logits):
        """→ [B]."""
        counts = self.has_target(targets, logits)
        losses = ops.sparse_categorical_crossentropy(
            ops.cast(ops.where(counts, targets, 0), "int32"), logits, from_logits=True
        )
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
