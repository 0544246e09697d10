"""How a batch is shared among devices and processes.

A batch always means the global batch: random numbers are drawn for all of its rows, and a loss's
denominator is summed over all of its rows. The number of devices therefore changes results by
rounding errors only.
"""

import math

import keras

from common.fields import require
from model.backends import backend


def uniform_rows(shape: tuple, seed):
    """Draws float32 numbers in [0, 1) for the whole batch; returns the calling replica's rows.

    `shape` is the shape of the replica's part. `seed` is a `SeedGenerator` with the same state on
    all replicas.
    """
    index, count = backend.replica()
    rows, width = shape
    drawn = keras.random.uniform((count * rows, width), seed=seed, dtype="float32")
    return drawn[index * rows : (index + 1) * rows] if count > 1 else drawn


def writes() -> bool:
    """Whether this process writes the run's files: the only process, or process 0."""
    return backend.process()[0] == 0


def process_rows(batch_size: int) -> slice:
    """Returns the rows of the global batch that this process reads."""
    index, count = backend.process()
    rows = batch_size // count
    return slice(index * rows, (index + 1) * rows)


def count_devices(requested: int | None) -> int:
    """Counts the devices that a run uses, in all of its processes.

    `requested` is the hyper-parameter `num_devices`; None means one GPU on TensorFlow, all GPUs or
    TPUs on JAX, or one CPU per process. Raises an `InputError` if there are fewer devices, or if
    processes cannot share them equally.
    """
    devices, processes = keras.distribution.list_devices(), backend.process()[1]
    if requested is None:
        if devices[0].startswith("cpu"):
            return processes
        # On TensorFlow, several GPUs have not been seen to be faster than one.
        return 1 if keras.backend.backend() == "tensorflow" else len(devices)
    require(
        1 <= requested <= len(devices),
        "num_devices",
        f"from 1 to {len(devices)}, the number of devices ({', '.join(devices)})",
        requested,
    )
    require(
        processes == 1 or requested == len(devices),
        "num_devices",
        f"{len(devices)} or null when {processes} processes train together",
        requested,
    )
    return requested


def uses_xla(jit_compile: bool | None) -> bool:
    """Whether XLA compiles a job's steps; `jit_compile` is the hyper-parameter, None its default.

    With several devices on TensorFlow, XLA compiles only the part that each device computes by
    itself. Raises an `InputError` if XLA was requested but Keras would turn it off.
    """
    if jit_compile is None:
        return backend.default_jit_compile()
    is_possible = not (jit_compile and backend.forbids_xla())
    expected = "false or null with `deterministic` on TensorFlow, where XLA cannot repeat results"
    require(is_possible, "jit_compile", expected, jit_compile)
    return jit_compile


def check_batch(name: str, batch_size: int, parts: dict[str, int]) -> None:
    """Raises an `InputError` for a global batch that cannot be cut into equal parts.

    `name` is the hyper-parameter that sets the batch size. `parts` has the numbers whose product
    must divide it; each key says what its number counts.
    """
    divisor = math.prod(parts.values())
    named = " x ".join(f"{number} {what}" for what, number in parts.items() if number > 1)
    require(batch_size % divisor == 0, name, f"a multiple of {divisor} ({named})", batch_size)
