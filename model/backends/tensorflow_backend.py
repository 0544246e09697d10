"""The functions of `any_backend` on TensorFlow: replicas, gradients in parts, compiled functions.

`tf.distribute` runs the training step once per device ("replica"), each with its own rows.
"""

import contextlib
import functools
import hashlib
import math
import os

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from common import gpus
from model.backends.any_backend import *  # noqa: F403 (the functions not defined here)

# ruff: noqa: D103 (`any_backend` documents the functions)

ALWAYS_COMPILES = False  # a service must not wait for XLA, not even on a GPU
# TensorFlow's names for GPUs in its two ways of running compiled functions.
KEPT_FOR = "GPU,XLA_GPU_JIT"
SEED_STRIDE = 1_000_003  # between the seeds of replicas; any large number works


def default_jit_compile() -> bool:
    """Enables XLA by default on GPUs, but not where it is forbidden.

    On a CPU, TensorFlow's XLA was measured five to ten times slower than its kernels.
    """
    return not forbids_xla() and bool(keras.distribution.list_devices("gpu"))


def forbids_xla() -> bool:
    """Whether results must repeat bit for bit: Keras then turns XLA off."""
    return is_op_determinism_enabled()


def allow_tf32(is_allowed: bool) -> None:
    tf.config.experimental.enable_tensor_float_32_execution(is_allowed)


def accelerator() -> tuple[str, str | None] | None:
    gpu = next(iter(tf.config.get_visible_devices("GPU")), None)
    if gpu is None:
        return None
    details = tf.config.experimental.get_device_details(gpu)
    capability = details.get("compute_capability")
    return details.get("device_name", "GPU"), capability and "{}.{}".format(*capability)


def peak_memory() -> int | None:
    if not tf.config.list_logical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError) or (
        isinstance(error, tf.errors.OpError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def keep_compilations(directory: str) -> None:
    """Keeps what XLA compiles for the GPUs, if they are of one kind; see `_compilations_folder`.

    If the user's TF_XLA_FLAGS name a cache or a file of flags, they stay as they are. TensorFlow
    reads the variable when its devices are first asked for.

    On CPUs nothing is kept: the code may use instructions that another machine lacks.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "").strip()
    kinds = {gpu._replace(memory_gib=0) for gpu in gpus.installed()}
    is_taken = "tf_xla_persistent_cache_directory" in flags or not (flags + "--").startswith("--")
    if len(kinds) != 1 or is_taken or "'" in directory:
        return
    folder = _compilations_folder(os.path.abspath(directory), *kinds)
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        return  # an entry that cannot be written would end the job
    flags += f" --tf_xla_persistent_cache_directory='{folder}'"
    os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_persistent_cache_device_types={KEPT_FOR}"


def _compilations_folder(directory: str, gpu: gpus.Gpu) -> str:
    """A folder whose name covers what compiled code depends on but its file name does not show.

    A file name covers the function's HLO, the shapes of its arguments, and that it is for a GPU:
    see `BuildSerializedCacheKey` in tensorflow/compiler/jit/device_executable_persistor.h. If a
    file was compiled under other conditions, TensorFlow loads it all the same, or fails: see
    `CompileStrict` in device_compiler.h. The code also depends on the GPU, the driver and XLA's
    flags. The chosen algorithms depend on the versions of cuBLAS and cuDNN, wherever they come
    from.
    """
    variables = ("XLA_FLAGS", "TF_XLA_FLAGS", "LD_LIBRARY_PATH")
    parts = [tf.__version__, gpu.name, gpu.capability, gpu.driver]
    parts += [os.environ.get(name, "") for name in variables]
    parts += map(str, sorted(gpus.package_versions().items()))
    digest = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()
    return os.path.join(directory, f"tensorflow-{tf.__version__}-{digest[:16]}")


def scope(num_devices: int) -> contextlib.AbstractContextManager:
    """Mirrors the model on the first `num_devices` GPUs, or CPUs if there is no GPU."""
    if num_devices == 1:
        return tf.distribute.get_strategy().scope()
    return _mirrored(num_devices).scope()


@functools.cache
def _mirrored(num_devices):
    """One strategy for a model and its optimizer, wherever each is created."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(num_devices)])


def replica() -> tuple:
    context = tf.distribute.get_replica_context()
    if context is None:  # outside of all replicas
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def sum_over_replicas(value):
    if replica()[1] == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def is_replicated(model: keras.Model) -> bool:
    return model.distribute_strategy.num_replicas_in_sync > 1


def separate_random_states(model: keras.Model, shared: list) -> None:
    """Gives each replica's copy of a random state its own seed, derived from the first's."""
    if not is_replicated(model):
        return
    kept = {id(generator.state) for generator in shared}
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state" and id(variable) not in kept:
            copies = model.distribute_strategy.experimental_local_results(variable.value)
            for i, copy in enumerate(copies[1:], start=1):
                copy.assign(copies[0] + tf.constant([i * SEED_STRIDE, 0], copy.dtype))


def train_step_in_parts(model, data):
    """Loops over the parts of the calling replica's rows, adding up their gradients.

    With several replicas, XLA cannot compile the whole step, because of the sums over replicas. XLA
    may then compile this loop for each replica.
    """
    variables = [variable.value for variable in model.trainable_variables]
    count = model.gradient_accumulation_steps

    def add_up(prepared, totals):
        parts = model.split(prepared)

        def step(i, gradients, arrays):
            part = keras.tree.map_structure(lambda array: array[i], parts)
            with tf.GradientTape() as tape:
                outputs = model.outputs_of(part, totals, training=True)
                loss = model.optimizer.scale_loss(outputs["loss"])
            added = tape.gradient(loss, variables, unconnected_gradients="zero")
            gradients = [
                total + tf.convert_to_tensor(gradient)
                for total, gradient in zip(gradients, added, strict=True)
            ]
            return i + 1, gradients, {k: array.write(i, outputs[k]) for k, array in arrays.items()}

        _, gradients, arrays = tf.while_loop(
            lambda i, *_: i < count,
            step,
            (
                0,
                [tf.zeros(variable.shape) for variable in variables],
                {name: tf.TensorArray(dtype, count) for name, dtype in model.part_outputs.items()},
            ),
            maximum_iterations=count,
        )
        return gradients, {name: array.stack() for name, array in arrays.items()}

    if model.compiles_gradients:
        add_up = tf.function(add_up, jit_compile=True, autograph=False)
    prepared, totals = model.prepare(data, training=True)
    gradients, outputs = add_up(prepared, totals)
    model.optimizer.apply(gradients, model.trainable_variables)
    return model.finish_step(prepared, outputs)


def in_graph(*arrays, dtypes=("float32", "bfloat16"), static_shapes: bool = False) -> bool:
    return not tf.executing_eagerly() and all(
        tf.is_tensor(array)
        and tf.as_dtype(array.dtype).name in dtypes
        and (array.shape.is_fully_defined() or not static_shapes)
        for array in arrays
    )


@functools.cache
def compiled(function):
    """Makes XLA compile the function wherever it is called."""
    return tf.function(function, jit_compile=True, autograph=False)


def is_tracing(array) -> bool:
    return not tf.executing_eagerly()


def traced_once(function):
    # Not inlined, so that TensorFlow also optimizes it only once.
    shared = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})

    def call(*arguments):  # With variables as arguments, each would have a trace of its own.
        return shared(*tf.nest.map_structure(tf.convert_to_tensor, arguments))

    return call


def custom_gradient(function, *arguments, constants=()):
    """Calls `function`, which returns its value and the function of its gradient.

    The gradient function returns a tuple with one gradient for each of `arguments`. `constants` are
    passed after the arguments and have no gradient.
    """

    def call(*everything):
        value, gradient = function(*everything)
        return value, lambda upstream: (*gradient(upstream), *[None] * len(constants))

    return tf.custom_gradient(call)(*arguments, *constants)


def join(arrays: list) -> tf.Tensor:
    """Joins arrays to one vector, with few operations in a graph."""
    flat = tf.constant([-1])
    return tf.concat([a if a.shape.rank == 1 else tf.reshape(a, flat) for a in arrays], axis=0)


def split(vector, shapes: list[tuple[int, ...]]) -> list[tf.Tensor]:
    """Inverts `join`, with few operations in a graph."""
    parts = tf.split(vector, [math.prod(shape) for shape in shapes])
    constants = {shape: tf.constant(shape) for shape in set(shapes)}
    return [
        part if len(shape) == 1 else tf.reshape(part, constants[shape])
        for part, shape in zip(parts, shapes, strict=True)
    ]


def bias_gradient(gradient) -> tf.Tensor:
    """Sums over all but the last axis: […, C] → [C].

    For bfloat16, the sum is a matrix product, which adds in float32. TensorFlow's own operation
    does not.
    """
    if gradient.dtype != tf.bfloat16:
        return tf.raw_ops.BiasAddGrad(out_backprop=gradient)
    rows = tf.reshape(gradient, (-1, gradient.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(rows)[0]), rows.dtype), rows)[0]


def random_bits(shape, seed) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, tf.cast(seed, tf.int32), None, None, tf.uint32)
