"""The functions of a backend module, for one process that computes on one device."""

import contextlib
import itertools
import math
import os

import keras

from common.console import NUM_PROCESSES
from common.errors import InputError

# Whether every function of a model is compiled, anew for each shape of its arrays.
ALWAYS_COMPILES = True
COMPILES_STEPS = False  # whether XLA compiles every training step


def default_jit_compile() -> bool:
    """Whether XLA is enabled by default."""
    return True


def forbids_xla() -> bool:
    """Whether XLA cannot be used, because of how this process was set up."""
    return False


def allow_tf32(is_allowed: bool) -> None:
    """Sets whether GPUs may round the factors of float32 products to 10 bits; they do by default.

    Raises:
        InputError: `is_allowed` is false, and this backend cannot turn the rounding off.
    """
    if not is_allowed:
        raise InputError(
            "`tf32` must be true unless KERAS_BACKEND is tensorflow or jax. "
            f"Received: false on {keras.backend.backend()}"
        )


def accelerator() -> tuple[str, str | None] | None:
    """Returns the name and compute capability of the first GPU or TPU; None for a CPU."""
    return None


def peak_memory() -> int | None:
    """Returns the most bytes that were in use on the first GPU or TPU; None if not known."""
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has too little memory."""
    return False


def scope(num_devices: int) -> contextlib.AbstractContextManager:
    """Returns the context in which to create a model that trains on `num_devices`."""
    return contextlib.nullcontext()


def replica() -> tuple:
    """Returns (index, count) of the calling replica, which computes one part of the batch.

    Outside of replicas, that is (0, 1).
    """
    return 0, 1


def sum_over_replicas(value):
    """Sums each replica's `value`; all replicas must call it."""
    return value


def is_replicated(model: keras.Model) -> bool:
    """Whether `tf.distribute` trains the model on several devices."""
    return False


def separate_random_states(model: keras.Model, shared: list) -> None:
    """Makes dropout differ between replicas, which would otherwise all drop the same units.

    The replicas' seeds derive from the first replica's seed, so a checkpoint needs only that one.
    The generators in `shared` keep the same state on all replicas.
    """


def train_step_in_parts(model, *state_and_batch):
    """Makes one update of a `TrainableModel`; adds up the gradients of a batch's parts.

    Receives and returns what Keras's `train_step` does on this backend: metrics by name, and on JAX
    the new state.
    """
    raise InputError(
        "`gradient_accumulation_steps` above 1 needs KERAS_BACKEND=tensorflow or jax. "
        f"Received: {keras.backend.backend()}"
    )


def connect_processes(seed: int) -> None:
    """Joins the processes that the environment names into one run; call it before any computation.

    Raises:
        InputError: the environment names several, but Keras does not run on JAX.
    """
    if NUM_PROCESSES in os.environ:
        raise InputError(
            f"{NUM_PROCESSES} is set, but training in several processes needs KERAS_BACKEND=jax. "
            f"Received: {keras.backend.backend()}"
        )


def keep_compilations(directory: str) -> None:
    """Stores compiled functions below a directory for later processes, where that is safe.

    Call it before the first computation, and before anything asks for the devices.
    """


def process() -> tuple[int, int]:
    """Returns (index, count) of this process among those that train one model together."""
    return 0, 1


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process of the run.

    All processes must call it at the same step.
    """
    return flag


def in_graph(*arrays, dtypes=("float32", "bfloat16"), static_shapes: bool = False) -> bool:
    """Whether these are arrays, of these dtypes, of a TensorFlow graph that is being traced.

    Layers call `compiled` and `custom_gradient`, which this module lacks, only in such a graph or
    where XLA compiles the whole step. `static_shapes` also requires known shapes.
    """
    return False


def is_tracing(array) -> bool:
    """Whether `array` is part of a graph that is being traced."""
    return False


def traced_once(function):
    """Makes all calls of a function in graphs, for arrays of the same shapes, share one trace.

    Arguments and results are nested arrays. Whatever else the function depends on must not change.
    """
    return function


def join(arrays: list):
    """Joins arrays to one vector."""
    return keras.ops.concatenate([keras.ops.reshape(array, (-1,)) for array in arrays])


def split(vector, shapes: list[tuple[int, ...]]) -> list:
    """Inverts `join`: returns the parts of a vector, in these shapes."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))[:-1]
    parts = keras.ops.split(vector, ends) if ends else [vector]
    return [keras.ops.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def bias_gradient(gradient):
    """Sums over all but the last axis, in float32: […, C] → [C]."""
    axes = tuple(range(len(gradient.shape) - 1))
    total = keras.ops.sum(keras.ops.cast(gradient, "float32"), axes)
    return keras.ops.cast(total, gradient.dtype)


def random_bits(shape, seed):
    """Draws uniform uint32 numbers; `seed` is int [2]."""
    number = int(keras.ops.convert_to_numpy(seed) @ (1_000_003, 1)) % 2**31
    drawn = keras.random.uniform(shape, seed=number, dtype="float64")
    return keras.ops.floor(drawn * 2**32)
