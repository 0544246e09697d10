"""The functions of `any_backend` on JAX: several devices, several processes, gradients in parts.

The training step is written once for the whole batch, and the compiler splits it among devices.
"""

import contextlib
import os

import jax
import keras
import numpy
from jax.experimental import multihost_utils

from common.console import NUM_PROCESSES
from common.fields import require
from model.backends.any_backend import *  # noqa: F403 (the functions not defined here)

# ruff: noqa: D103 (`any_backend` documents the functions)

JOB_ADDRESSES, PROCESS_ID = "KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_PROCESS_ID"
LOST_AFTER_SECONDS = 30  # without a heartbeat from a process
COMPILES_STEPS = True


def allow_tf32(is_allowed: bool) -> None:
    jax.config.update("jax_default_matmul_precision", None if is_allowed else "highest")


def accelerator() -> tuple[str, str | None] | None:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return None
    return device.device_kind, getattr(device, "compute_capability", None)


def peak_memory() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def scope(num_devices: int) -> contextlib.AbstractContextManager:
    """Sets Keras's distribution for the rest of the process: `fit` needs it as well."""
    if num_devices > 1:
        devices = keras.distribution.list_devices()[:num_devices]
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        )
    return contextlib.nullcontext()


def connect_processes(seed: int) -> None:
    """Joins the processes, if there are several, as `keras.distribution.initialize` does.

    Keras's function cannot set how soon a process counts as lost when its host is gone. It would
    also let JAX detect Slurm, and JAX would then use only one GPU of each host.
    """
    if NUM_PROCESSES not in os.environ:
        return
    address = os.environ.get(JOB_ADDRESSES, "").split(",")[0]
    require(":" in address, JOB_ADDRESSES, "process 0's HOST:PORT", address)
    count = _number(NUM_PROCESSES, "a number above 0", range(1, 1 << 20))
    index = _number(PROCESS_ID, f"from 0 to {count - 1}", range(count))
    keras.utils.set_random_seed(seed)  # otherwise Keras agrees on a random seed
    # The run handles SIGTERM itself; JAX would catch it once processes are connected.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        count,
        index,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=LOST_AFTER_SECONDS,
    )


def _number(variable, expected, allowed):
    """The number in an environment variable; it must be in `allowed`."""
    text = os.environ.get(variable, "")
    require(text.isdecimal() and int(text) in allowed, variable, expected, text)
    return int(text)


def keep_compilations(directory: str) -> None:
    """Sets JAX's cache, unless the environment does: JAX_COMPILATION_CACHE_DIR."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", directory)


def process() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


def any_process(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(numpy.array(flag)).any())


def train_step_in_parts(model, state: tuple, data) -> tuple:
    """Scans over the parts, adding up their gradients.

    `state` has the values of trainable, other, optimizer and metric variables.
    """
    trainable, others, optimizer_values, metric_values = state

    def pairs(variables, values):
        return list(zip(variables, values, strict=True))

    def values_in(scope, variables):
        return [scope.get_current_value(variable) for variable in variables]

    def loss_of(trainable, others, part):
        values = pairs(model.trainable_variables, trainable)
        values += pairs(model.non_trainable_variables, others)
        values += pairs(model.metrics_variables, metric_values)  # Keras tracks each output's loss
        with keras.StatelessScope(state_mapping=values) as scope:
            outputs = model.outputs_of(part, totals, training=True)
        with keras.StatelessScope(pairs(model.optimizer.variables, optimizer_values)):
            loss = model.optimizer.scale_loss(outputs["loss"])
        outputs = {name: outputs[name] for name in model.part_outputs}
        return loss, (outputs, values_in(scope, model.non_trainable_variables))

    def step(carry, part):
        gradients, others = carry
        added, (outputs, others) = jax.grad(loss_of, has_aux=True)(trainable, others, part)
        return (jax.tree.map(jax.numpy.add, gradients, added), others), outputs

    with keras.StatelessScope(pairs(model.non_trainable_variables, others)) as scope:
        prepared, totals = model.prepare(data, training=True)
    others = values_in(scope, model.non_trainable_variables)
    zeros = jax.tree.map(jax.numpy.zeros_like, trainable)
    (gradients, others), outputs = jax.lax.scan(step, (zeros, others), model.split(prepared))
    trainable, optimizer_values = model.optimizer.stateless_apply(
        optimizer_values, gradients, trainable
    )
    with keras.StatelessScope(pairs(model.metrics_variables, metric_values)) as scope:
        logs = model.finish_step(prepared, outputs)
    metric_values = values_in(scope, model.metrics_variables)
    return logs, (trainable, others, optimizer_values, metric_values)


def is_tracing(array) -> bool:
    return isinstance(array, jax.core.Tracer)


def traced_once(function):
    return jax.jit(function)


def custom_gradient(function, *arguments, constants=()):
    """As in `tensorflow_backend`; `function` must use no arrays but its arguments.

    `function` is called again for the gradients, and XLA computes only what the gradients need.
    """

    @jax.custom_vjp
    def call(arguments, constants):
        return function(*arguments, *constants)[0]

    def forward(arguments, constants):
        return call(arguments, constants), (arguments, constants)

    def backward(saved, upstream):
        arguments, constants = saved
        _, gradient = function(*arguments, *constants)
        zeros = [numpy.zeros(array.shape, jax.dtypes.float0) for array in constants]
        return gradient(upstream), tuple(zeros)

    call.defvjp(forward, backward)
    return call(arguments, tuple(constants))
