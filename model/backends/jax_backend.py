"""What takes JAX itself: gradients in parts, and the processes of a run.

Imported where Keras runs on JAX, and nowhere else.
"""

import jax
import keras
import numpy
from jax.experimental import multihost_utils


def process() -> tuple[int, int]:
    """(index, number) of this process among those of the run."""
    return jax.process_index(), jax.process_count()


def leave_signals_alone() -> None:
    """Keeps JAX from catching SIGTERM once it connects processes, which a run does itself."""
    jax.config.update("jax_enable_preemption_service", False)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; each waits for all the others."""
    return bool(multihost_utils.process_allgather(numpy.array(flag)).any())


def train_step_in_parts(model, state: tuple, batch: dict) -> tuple:
    """One update from the sum of the gradients of a batch's parts.

    Args:
        model: a compiled `ConvBertForPreTraining`.
        state: trainable, other, optimizer and metric variables' values, as Keras passes them.
        batch: the global batch.

    Returns:
        The metrics' values by name, and the new state.
    """
    trainable, others, optimizer_values, metric_values = state

    def set_to(variables, values):
        return list(zip(variables, values, strict=True))

    def values_in(scope, variables):
        return [scope.get_current_value(variable) for variable in variables]

    def loss_of(trainable, others, part):
        values = set_to(model.trainable_variables, trainable)
        values += set_to(model.non_trainable_variables, others)
        with keras.StatelessScope(state_mapping=values) as scope:
            outputs = model.outputs_of(part, totals, training=True)
        with keras.StatelessScope(set_to(model.optimizer.variables, optimizer_values)):
            loss = model.optimizer.scale_loss(outputs["loss"])
        outputs = {name: outputs[name] for name in model.part_outputs}
        return loss, (outputs, values_in(scope, model.non_trainable_variables))

    def step(carry, part):
        gradients, others = carry
        added, (outputs, others) = jax.grad(loss_of, has_aux=True)(trainable, others, part)
        return (jax.tree.map(jax.numpy.add, gradients, added), others), outputs

    with keras.StatelessScope(set_to(model.non_trainable_variables, others)) as scope:
        masked, totals = model.prepare(batch, training=True)
    others = values_in(scope, model.non_trainable_variables)
    zeros = jax.tree.map(jax.numpy.zeros_like, trainable)
    (gradients, others), outputs = jax.lax.scan(step, (zeros, others), model.split(masked))
    trainable, optimizer_values = model.optimizer.stateless_apply(
        optimizer_values, gradients, trainable
    )
    with keras.StatelessScope(set_to(model.metrics_variables, metric_values)) as scope:
        logs = model.finish_step(masked, outputs)
    metric_values = values_in(scope, model.metrics_variables)
    return logs, (trainable, others, optimizer_values, metric_values)
