"""What TensorFlow must be told before it computes anything."""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from common import console

# glibc's `mallopt`: (parameter, value).
KEEP_FREED_MEMORY = (
    (-1, -1),  # M_TRIM_THRESHOLD: never give the end of the heap back
    (-2, 2**26),  # M_TOP_PAD: grow the heap by 64 MB
    (-4, 0),  # M_MMAP_MAX: no separate mappings for large arrays
    (-8, 1),  # M_ARENA_MAX: one heap, of unlimited size
)

# Graph optimizations that find nothing to do in these models on a CPU, but take a tenth of the time
# to the first step.
IDLE_ON_CPUS = (
    "function_optimization",
    "implementation_selector",
    "layout_optimizer",
    "loop_optimization",
    "remapping",
)


def prepare_tensorflow(
    trains_the_model: bool, deterministic: bool = False, num_devices: int | None = None
) -> None:
    """Keeps TensorFlow off the GPU where it only feeds another backend; else sets it up to train.

    Args:
        trains_the_model: TensorFlow is Keras's backend.
        deterministic: results repeat bit for bit. A CPU can then use only one thread: on several,
            sums differ in the last bits from run to run, whatever the settings of TensorFlow.
        num_devices: how many devices will train the model; None means one. TensorFlow takes no
            memory on other GPUs, and only what it needs on these, unless TF_FORCE_GPU_ALLOW_GROWTH
            says otherwise. Without a GPU, the CPU is made to look like this many devices, to try
            out a job for several GPUs.
    """
    # A batch of another length is no reason to warn, and TensorFlow soon traces for any length.
    tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())
    gpus = tf.config.list_physical_devices("GPU")
    console.started()
    if not trains_the_model:
        if gpus:
            tf.config.set_visible_devices([], "GPU")
        return
    if gpus:
        gpus = gpus[: num_devices or 1]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if num_devices and num_devices > 1 and not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * num_devices
        tf.config.set_logical_device_configuration(cpu, parts)
    if not gpus:
        keep_freed_memory()
        tf.config.optimizer.set_experimental_options(dict.fromkeys(IDLE_ON_CPUS, False))
    if deterministic:
        tf.config.experimental.enable_op_determinism()
        # The graph optimizer can turn the same graph into different ones in two processes, which
        # then add up gradients in different orders. This happened with twelve layers, but never
        # with the optimizer off.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        if not gpus:
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)


def keep_freed_memory() -> None:
    """Makes the allocator, if it is glibc's, keep freed memory for the next step.

    Otherwise every step returns large arrays to the system and gets new ones: hundreds of thousands
    of pages, which the system clears each time and, on virtual machines, takes long to map.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in KEEP_FREED_MEMORY:
            mallopt(parameter, value)


def generator_dataset(generate: Callable[[], Iterable], output_signature: Any) -> tf.data.Dataset:
    """Calls `tf.data.Dataset.from_generator`, which alone would undo `keep_freed_memory`."""

    def elements():
        keep_freed_memory()
        yield from generate()

    return tf.data.Dataset.from_generator(elements, output_signature=output_signature)
