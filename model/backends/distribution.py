"""Several devices: where a step's rows are, and sums over all of them.

A batch is the global batch everywhere: whatever is drawn for it is drawn for all of its rows, and
what a loss divides by is summed over all of its rows, so that the number of devices changes a
result by rounding alone. On TensorFlow, `tf.distribute` runs the step once a device ("replica"),
each with its own rows. On JAX the step is written once for the whole batch, and the compiler
splits it.
"""

import contextlib
import math
import os

import keras

from common.errors import InputError
from common.fields import require

# Keras's own names, which `keras.distribution.initialize` reads.
NUM_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"


def tensorflow_backend():
    """The functions that need TensorFlow itself, where Keras runs on it; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    from model.backends import tensorflow_backend

    return tensorflow_backend


def replica() -> tuple:
    """(index, number) of the part of the batch that the calling code computes."""
    tensorflow = tensorflow_backend()
    return tensorflow.replica() if tensorflow else (0, 1)


def sum_over_replicas(value):
    """The sum of each replica's `value`; all must call it."""
    return tensorflow_backend().sum_over_replicas(value) if replica()[1] > 1 else value


def uniform_rows(shape: tuple, seed):
    """Float32 [rows, width] in [0, 1): the calling replica's rows of a draw for the whole batch.

    Args:
        shape: (rows, width) of the replica's own part.
        seed: a `keras.random.SeedGenerator`, in the same state on every replica.
    """
    index, number = replica()
    rows, width = shape
    drawn = keras.random.uniform((number * rows, width), seed=seed, dtype="float32")
    return drawn[index * rows : (index + 1) * rows] if number > 1 else drawn


def is_replicated(model: keras.Model) -> bool:
    """Whether `tf.distribute` trains the model on several devices."""
    return bool(tensorflow_backend()) and model.distribute_strategy.num_replicas_in_sync > 1


def separate_random_states(model: keras.Model, shared: list) -> None:
    """Lets dropout differ between the replicas, which otherwise all drop the same.

    The seeds follow from the first replica's, so that a checkpoint needs no more than that one.

    Args:
        model: any.
        shared: the model's generators that must be in the same state everywhere.
    """
    if is_replicated(model):
        kept = {id(generator.state) for generator in shared}
        tensorflow_backend().separate_random_states(
            model.distribute_strategy,
            [v for v in model.non_trainable_variables if id(v) not in kept],
        )


def train_step_in_parts(model, *state_and_batch):
    """A training step of Keras's backend that adds up the gradients of a batch's parts."""
    if tensorflow := tensorflow_backend():
        return tensorflow.train_step_in_parts(model, *state_and_batch)
    if keras.backend.backend() == "jax":
        from model.backends import jax_backend

        return jax_backend.train_step_in_parts(model, *state_and_batch)
    raise InputError(
        "`gradient_accumulation_steps` above 1 needs KERAS_BACKEND=tensorflow or jax; "
        f"it is {keras.backend.backend()}"
    )


def connect_processes(seed: int) -> None:
    """Joins the processes that the environment names into one run; must precede any computation.

    Raises:
        InputError: they are named, but Keras does not run on JAX.
    """
    if NUM_PROCESSES not in os.environ:
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"{NUM_PROCESSES} is set, but training in several processes needs KERAS_BACKEND=jax; "
            f"it is {keras.backend.backend()}"
        )
    from model.backends import jax_backend

    keras.utils.set_random_seed(seed)  # else Keras agrees on one of its own
    jax_backend.leave_signals_alone()
    keras.distribution.initialize()


def process() -> tuple[int, int]:
    """(index, number) of this process among those that train one model together."""
    if keras.backend.backend() != "jax":
        return 0, 1
    from model.backends import jax_backend

    return jax_backend.process()


def writes() -> bool:
    """Whether this process writes what a run leaves behind: the only one, or process 0."""
    return process()[0] == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process of the run; all must ask at the same step."""
    if process()[1] == 1:
        return flag
    from model.backends import jax_backend

    return jax_backend.any_process(flag)


def process_rows(batch_size: int) -> slice:
    """The rows of the global batch that this process reads."""
    index, number = process()
    rows = batch_size // number
    return slice(index * rows, (index + 1) * rows)


def count_devices(asked: int | None) -> int:
    """How many devices a run uses, those of all processes together.

    Args:
        asked: the hyper-parameter `num_devices`; None is every GPU or TPU, or one CPU a process.

    Raises:
        InputError: there are fewer, or they cannot be shared out among the processes.
    """
    devices, processes = keras.distribution.list_devices(), process()[1]
    if asked is None:
        return processes if devices[0].startswith("cpu") else len(devices)
    require(
        1 <= asked <= len(devices),
        "num_devices",
        f"from 1 to {len(devices)}, the devices there are ({', '.join(devices)})",
        asked,
    )
    require(
        processes == 1 or asked == len(devices),
        "num_devices",
        f"{len(devices)} or null where {processes} processes work together",
        asked,
    )
    return asked


def scope(num_devices: int):
    """What a model must be made in, a context manager, so that it trains on `num_devices`.

    On JAX this sets Keras's distribution for good: `fit` needs it as well.
    """
    if tensorflow := tensorflow_backend():
        return tensorflow.strategy(num_devices).scope()
    if num_devices > 1:
        devices = keras.distribution.list_devices()[:num_devices]
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        )
    return contextlib.nullcontext()


def check_batch(name: str, batch_size: int, parts: dict[str, int]) -> None:
    """Refuses a batch that cannot be cut into equal parts.

    Args:
        name: of the hyper-parameter with the batch's size.
        batch_size: of the global batch.
        parts: what it is divided by, by name, one after the other.
    """
    divisor = math.prod(parts.values())
    named = " x ".join(f"{number} {what}" for what, number in parts.items() if number > 1)
    require(batch_size % divisor == 0, name, f"a multiple of {divisor} ({named})", batch_size)
