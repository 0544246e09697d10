"""Messages to the user about the device that a job computes on."""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
from absl import logging

from common import gpus
from common.errors import InputError
from model.backends import backend


def report(precision: str, jit_compile: bool, num_devices: int = 1) -> None:
    """Prints a line about the device; warns if the machine has a GPU that is not used.

    `precision` is a Keras dtype policy, `jit_compile` whether XLA compiles.
    """
    if backend.process()[0] > 0:
        return
    warning = gpus.unused_warning(keras.backend.backend())
    if warning and backend.accelerator() is None:
        logging.warning(warning)
    count = f"{num_devices} x " if num_devices > 1 else ""
    xla = "XLA" if jit_compile else "no XLA"
    print(f"device: {count}{_name()}, {precision}, {xla}", file=sys.stderr)
    if backend.accelerator() is None and not _multiplies(precision):
        logging.warning(
            "this CPU does not multiply in %s: float32 is faster here",
            precision.removeprefix("mixed_"),
        )


def memory_gib() -> float | None:
    """The memory of the GPU in use, in GiB; None if that is not known."""
    name, _ = backend.accelerator() or (None, None)
    return next((gpu.memory_gib for gpu in gpus.installed() if gpu.name == name), None)


@contextlib.contextmanager
def lack_of_memory_explained(what: str, advice: str) -> Iterator[None]:
    """Turns an out-of-memory error inside the block into an `InputError` about `what`."""
    try:
        yield
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        message = f"out of memory: {what} does not fit {_name()}. To need less, {advice}"
        raise InputError(message) from error


def _name():
    found = backend.accelerator()
    if found is None:
        return _cpu()
    (name, capability), memory = found, memory_gib()
    known = [f"{memory:.0f} GiB"] if memory else []
    known += [f"compute capability {capability}"] if capability else []
    return f"{name} ({', '.join(known)})" if known else name


def _multiplies(precision):
    """Whether this CPU has instructions that multiply in a precision."""
    instructions = {"float16": "amx_fp16|avx512_fp16", "bfloat16": "amx_bf16|avx512_bf16|bf16"}
    wanted = instructions.get(precision.removeprefix("mixed_"))
    return wanted is None or re.search(rf"\b({wanted})\b", _cpuinfo()) is not None


def _cpuinfo():
    return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


def _cpu():
    name = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    return f"CPU ({name[1] if name else platform.machine()}, {cores} cores)"
