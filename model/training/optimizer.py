"""The original's optimizer and schedule: Adam without bias correction, decoupled weight decay.

Source: model/optimization.py of the release, and ELECTRA's layer-wise learning rates.
"""

import itertools
import math
import re

import keras
from keras import ops
from typing_extensions import override

from model.backends import backend
from model.layers import fused

NO_DECAY = ("gamma", "beta", "bias", "output_bias")  # LayerNorm and biases, by variable name

# Numbers that are updated as one vector: few operations, on arrays of 16 MB. The allocator returns
# larger arrays to the system after every step, and the system clears them again page by page.
GROUP_SIZE = 2**22

# For float16, as in Keras's LossScaleOptimizer.
INITIAL_LOSS_SCALE = 2.0**15
GROWTH_STEPS = 2000


@keras.saving.register_keras_serializable(package="convbert")
class WarmupPolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`rate · (1 − step / steps)^power · min(1, step / warm-up)`: the factors apply together.

    Without warm-up steps, the first step has the full rate.
    """

    def __init__(
        self,
        learning_rate: float,
        num_train_steps: int,
        num_warmup_steps: int = 0,
        power: float = 1.0,
    ):
        self.learning_rate = learning_rate
        self.num_train_steps = num_train_steps
        self.num_warmup_steps = num_warmup_steps
        self.power = power

    def __call__(self, step):
        """Returns the rate of the update that follows `step` updates."""
        step = ops.cast(step, "float32")
        remaining = 1.0 - ops.minimum(step / self.num_train_steps, 1.0)
        rate = self.learning_rate * remaining**self.power
        if self.num_warmup_steps:
            rate *= ops.minimum(step / self.num_warmup_steps, 1.0)
        return rate

    @override
    def get_config(self):
        names = ("learning_rate", "num_train_steps", "num_warmup_steps", "power")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="convbert")
class AdamWeightDecay(keras.optimizers.Optimizer):
    """Adam without bias correction, with decoupled weight decay and clipping by global norm.

    Variables with the same rate and weight decay are updated together, in groups of about
    `GROUP_SIZE` numbers. The moments of a group are two flat vectors, and one update is computed
    for all of it. A few large operations instead of hundreds of small ones make a step faster both
    to trace and to run.

    Args:
        learning_rate: a number or a schedule.
        weight_decay_rate: factor of the decay, which is this times the learning rate times the
            variable. LayerNorm and biases do not decay.
        layerwise_lr_decay: None, or the factor from one layer to the layer below (see
            `learning_rate_scale`).
        num_hidden_layers: number of the encoder's layers; required with `layerwise_lr_decay`.
        clip_norm: the maximum global norm of the gradients.
        dynamic_loss_scale: scale the loss, which float16 gradients need. The scale is halved when
            they overflow and doubled after `GROWTH_STEPS` steps without an overflow. A step that
            overflows changes no weight and no moment, but counts as a step. Keras's wrapper would
            not count it, and the step would no longer determine the position in the data.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        *,
        weight_decay_rate: float = 0.01,
        layerwise_lr_decay: float | None = None,
        num_hidden_layers: int | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        clip_norm: float = 1.0,
        dynamic_loss_scale: bool = False,
        name: str = "adam_weight_decay",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.weight_decay_rate = weight_decay_rate
        self.layerwise_lr_decay = layerwise_lr_decay
        self.num_hidden_layers = num_hidden_layers
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.clip_norm = clip_norm
        self.dynamic_loss_scale = dynamic_loss_scale

    @override
    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # Groups hold indices instead of variables: Keras treats every variable in an attribute of
        # the optimizer as the optimizer's own, so it would save the weights twice, and JAX would
        # donate their buffers twice.
        self.groups = self._grouped(variables)
        self.first_moments, self.second_moments = (
            [
                self.add_variable((sum(map(_size, group)),), dtype="float32", name=f"{name}_{i}")
                for i, group in enumerate(self._variables_by_group())
            ]
            for name in ("first_moment", "second_moment")
        )
        if self.dynamic_loss_scale:
            initial = keras.initializers.Constant(INITIAL_LOSS_SCALE)
            self.loss_scale = self.add_variable((), initial, dtype="float32", name="loss_scale")
            # "int" is int64 on TensorFlow, which keeps int32 variables on the host, where a step
            # that XLA compiles for a GPU cannot reach them.
            self.finite_steps, self.skipped_steps = (
                self.add_variable((), dtype="int", name=name)
                for name in ("finite_steps", "skipped_steps")
            )

    def reset(self) -> None:
        """Returns to the state before the first update."""
        for variable in self.variables:
            if variable is not self._learning_rate:
                variable.assign(ops.zeros(variable.shape, variable.dtype))
        if self.dynamic_loss_scale:
            self.loss_scale.assign(INITIAL_LOSS_SCALE)

    @override
    def scale_loss(self, loss):
        return loss * self.loss_scale if self.dynamic_loss_scale else super().scale_loss(loss)

    def _grouped(self, variables) -> list[list[int]]:
        """Groups variables with the same update, up to `GROUP_SIZE` numbers or one variable."""
        groups = {}
        for i, variable in enumerate(variables):
            key = (self.learning_rate_scale(variable), variable.name in NO_DECAY)
            alike = groups.setdefault(key, [])
            if not alike or alike[-1][1] + _size(variable) > GROUP_SIZE:
                alike.append([[], 0])
            alike[-1][0].append(i)
            alike[-1][1] += _size(variable)
        return [group for alike in groups.values() for group, _ in alike]

    def _variables_by_group(self) -> list[list]:
        return [[self._trainable_variables[i] for i in group] for group in self.groups]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Updates every variable; Keras calls it with the gradients of a step."""
        given = {
            id(variable): gradient
            for gradient, variable in zip(grads, trainable_variables, strict=True)
        }
        # After this sum, all replicas make the same update to their copies of the variables.
        groups = self._variables_by_group()
        gradients = [backend.sum_over_replicas(_joined(group, given)) for group in groups]
        if self.dynamic_loss_scale:
            gradients = [gradient / self.loss_scale for gradient in gradients]
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
        clip = self.clip_norm / ops.maximum(norm, self.clip_norm)
        finite = ops.isfinite(norm) if self.dynamic_loss_scale else None
        for group, gradient, *moments in zip(
            groups, gradients, self.first_moments, self.second_moments, strict=True
        ):
            rate = learning_rate * self.learning_rate_scale(group[0])
            decay = 0.0 if group[0].name in NO_DECAY else self.weight_decay_rate
            numbers = (clip, rate, self.beta_1, self.beta_2, self.epsilon)
            arrays = (gradient, *(moment.value for moment in moments))
            if fused.is_whole():
                first, second, update = fused.adam_update(*arrays, numbers)
                values = [
                    variable.value * (1.0 - rate * decay) - part
                    for variable, part in zip(group, _gathered(update, group), strict=True)
                ]
            else:
                joined = _joined(group, {id(variable): variable.value for variable in group})
                first, second, joined = fused.adam(*arrays, joined, (*numbers, decay))
                values = _split(joined, group)
            updates = [*zip(moments, (first, second), strict=True)]
            # As in the original, weights without a gradient do not decay either.
            for variable, value in zip(group, values, strict=True):
                if given.get(id(variable)) is not None:
                    updates.append((variable, value))
            for variable, value in updates:
                variable.assign(
                    value if finite is None else ops.where(finite, value, variable.value)
                )
        if finite is not None:
            self._adapt_loss_scale(finite)

    def _adapt_loss_scale(self, finite):
        """Halves the scale if the gradients were not finite; doubles it every `GROWTH_STEPS`."""
        scale, steps, skipped = (
            variable.value for variable in (self.loss_scale, self.finite_steps, self.skipped_steps)
        )
        steps = ops.where(finite, steps + 1, 0)
        grows = steps >= GROWTH_STEPS
        grown = ops.where(grows, scale * 2.0, scale)
        self.loss_scale.assign(ops.where(finite, grown, scale * 0.5))
        self.finite_steps.assign(ops.where(grows, 0, steps))
        self.skipped_steps.assign(ops.where(finite, skipped, skipped + 1))

    def loss_scaling(self) -> dict[str, float]:
        """Returns the loss scale, and how many steps have overflowed so far; {} without a scale."""
        if not self.dynamic_loss_scale:
            return {}
        return {
            "loss_scale": float(self.loss_scale.numpy()),
            "skipped_steps": int(self.skipped_steps.numpy()),
        }

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate of the update that follows `step` updates."""
        rate = self._learning_rate
        return float(rate(step) if callable(rate) else rate)

    def learning_rate_scale(self, variable) -> float:
        """Returns the factor of the variable's learning rate: decay^(layers + 2 − depth).

        The depth is 0 for the embeddings and their projection, i + 1 for layer i, and layers + 2
        above the encoder: the top layer has decay², as in the original.
        """
        if self.layerwise_lr_decay is None:
            return 1.0
        if self.num_hidden_layers is None:
            raise ValueError("`layerwise_lr_decay` needs `num_hidden_layers`")
        depth = self.num_hidden_layers + 2
        if layer := re.search(r"(?:^|/)layer_(\d+)/", variable.path):
            depth = int(layer[1]) + 1
        elif re.search(r"(?:^|/)embeddings(_project)?/", variable.path):
            depth = 0
        return self.layerwise_lr_decay ** (self.num_hidden_layers + 2 - depth)

    @override
    def get_config(self):
        names = ("weight_decay_rate", "layerwise_lr_decay", "num_hidden_layers", "beta_1", "beta_2")
        names += ("epsilon", "clip_norm", "dynamic_loss_scale")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _joined(group, values: dict):
    """Joins a group's arrays, given by the variables' `id`, to a vector; None stands for zeros."""
    return backend.join(
        [
            ops.convert_to_tensor(values[id(variable)], dtype="float32")
            if values.get(id(variable)) is not None
            else ops.zeros((_size(variable),), dtype="float32")
            for variable in group
        ]
    )


def _split(vector, group) -> list:
    """Inverts `_joined`: returns each variable's part, in its shape."""
    return backend.split(vector, [tuple(variable.shape) for variable in group])


def _gathered(vector, group) -> list:
    """Like `_split`, but with gathers, because XLA does not fuse several slices of one array."""
    begins = itertools.accumulate(map(_size, group), initial=0)
    indices = [ops.arange(begin, begin + _size(v)) for begin, v in zip(begins, group, strict=False)]
    parts = [ops.take(vector, each) for each in indices]
    return [ops.reshape(part, v.shape) for part, v in zip(parts, group, strict=True)]


def _size(variable) -> int:
    return math.prod(variable.shape)


def create_optimizer(
    learning_rate: float,
    num_train_steps: int,
    num_warmup_steps: int = 0,
    *,
    lr_decay_power: float = 1.0,
    **options,
) -> AdamWeightDecay:
    """Creates the optimizer of pre-training and fine-tuning; `options` are `AdamWeightDecay`'s."""
    schedule = WarmupPolynomialDecay(
        learning_rate, num_train_steps, num_warmup_steps, lr_decay_power
    )
    return AdamWeightDecay(schedule, **options)
