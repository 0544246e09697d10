"""The device that a job computes on: what the user is told about it."""

import os
import platform
import re
import sys

import keras
from absl import logging

from common import gpus
from model.backends import backend


def report(precision: str, jit_compile: bool, num_devices: int = 1) -> None:
    """Prints a line about the device; warns if the machine has a GPU that is not used.

    `precision` is a Keras dtype policy, `jit_compile` whether XLA compiles.
    """
    if backend.process()[0] > 0:
        return
    found = backend.accelerator()
    if found is None and (warning := gpus.unused_warning(keras.backend.backend())):
        logging.warning(warning)
    name = _cpu() if found is None else _accelerator(*found)
    count = f"{num_devices} x " if num_devices > 1 else ""
    xla = "XLA" if jit_compile else "no XLA"
    print(f"device: {count}{name}, {precision}, {xla}", file=sys.stderr)


def memory_gib() -> float | None:
    """The memory of the GPU that computes; None if that is not known."""
    name, _ = backend.accelerator() or (None, None)
    return next((gpu.memory_gib for gpu in gpus.installed() if gpu.name == name), None)


def _accelerator(name, capability):
    memory = memory_gib()
    known = [f"{memory:.0f} GiB"] if memory else []
    known += [f"compute capability {capability}"] if capability else []
    return f"{name} ({', '.join(known)})" if known else name


def _cpu():
    name = None
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            name = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return f"CPU ({name[1] if name else platform.machine()}, {cores} cores)"
