"""The machine that a benchmark runs on: what it is, and which of its cores are used."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator

PACKAGES = ("tensorflow", "tensorflow-text", "numpy", "protobuf", "tokenizers")


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keeps what is started within to so many of the cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def machine() -> dict:
    """Says where and with what it was measured."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": versions,
    }
