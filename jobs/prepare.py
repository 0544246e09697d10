"""What both jobs do before they compute: set up Keras's backend, and check the batch sizes."""

import os
from typing import Any

from common import gpus, remote_cache
from common.errors import require_package

COMPILATION_CACHE = ".compilation_cache"  # in DATA_DIR


def prepare_backend(config: Any, data_dir: str | None, connect: bool = False) -> int:
    """Sets Keras's backend up, and reports the device; returns how many devices share each batch.

    Args:
        config: the job's hyper-parameters, a `model.config.Execution` with a `seed`.
        data_dir: DATA_DIR, where the backend may keep what it compiles; None keeps nothing.
        connect: join the processes that the environment names into one run.

    Raises:
        InputError: there are fewer devices than `num_devices`, or a logger's package is missing.
    """
    for name in config.loggers:
        require_package(name, f'`loggers`: "{name}"')
    if config.deterministic:
        gpus.make_deterministic()
    import keras

    from data.tensorflow_setup import prepare_tensorflow
    from model.backends import backend, devices, distribution

    if data_dir is not None:
        directory = os.path.join(remote_cache.local_path(data_dir), COMPILATION_CACHE)
        backend.keep_compilations(directory)
    if connect:
        backend.connect_processes(config.seed)
    prepare_tensorflow(
        keras.backend.backend() == "tensorflow", config.deterministic, config.num_devices
    )
    backend.allow_tf32(config.tf32)
    num_devices = distribution.count_devices(config.num_devices)
    jit_compile = distribution.uses_xla(config.jit_compile)
    devices.report(config.precision, jit_compile, num_devices)
    return num_devices


def check_batches(config: Any, num_devices: int, predicted: dict[str, bool]) -> None:
    """Checks that devices and micro-batches can share `train_batch_size` equally.

    Devices must also be able to share batches that are only predicted. `predicted` says for each of
    their sizes, by name, whether the job uses it. Raises an `InputError` that names the size.
    """
    from model.backends import distribution

    divisor = {"devices": num_devices}
    parts = divisor | {"gradient_accumulation_steps": config.gradient_accumulation_steps}
    distribution.check_batch("train_batch_size", config.train_batch_size, parts)
    for name, is_used in predicted.items():
        if is_used:
            distribution.check_batch(name, getattr(config, name), divisor)
