"""The NVIDIA GPUs of this machine, and what to install for them; docs/gpu.md has the same table."""

import functools
import os
import subprocess
from typing import NamedTuple

from common import console

JAX_VERSION = "0.10.1"
PACKAGES = ("nvidia-", "jax-cuda")  # with CUDA, cuDNN and JAX's code for them


class Gpu(NamedTuple):
    """What the driver reports about a GPU; None for what it does not know."""

    name: str
    memory_gib: float | None  # unknown if the GPU shares the CPU's memory
    driver: str
    capability: str | None  # the compute capability, such as 9.0


@functools.cache
def installed() -> tuple[Gpu, ...]:
    """All GPUs of this machine; none if `nvidia-smi` is missing or fails."""
    fields = "name,memory.total,driver_version,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        rows = [map(_value, line.split(",")) for line in done.stdout.splitlines()]
        return tuple(Gpu(name, mib and float(mib) / 1024, *rest) for name, mib, *rest in rows)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return ()


def _value(cell):
    """A cell of nvidia-smi's table; None for one such as "[N/A]"."""
    return None if cell.strip().startswith("[") else cell.strip()


def package_versions() -> dict[str, str]:
    """The versions of all installed packages for GPUs."""
    import importlib.metadata  # takes a while, which `--help` should not

    packages = importlib.metadata.distributions()
    return {each.name: each.version for each in packages if each.name.startswith(PACKAGES)}


def install_command(backend: str, capability: str | None) -> str:
    """The command that installs what `backend` needs for GPUs of a compute capability.

    TensorFlow's wheel has no binary kernels for capability 9.0 and above. For those GPUs, the
    command installs JAX.
    """
    import importlib.metadata

    number = float(capability or 8)
    is_old = number < 7.5  # cuDNN dropped these GPUs after version 9.10
    if backend == "jax" or number >= 9:
        command = f'pip install "jax[cuda12]=={JAX_VERSION}"'
        command += ' "nvidia-cudnn-cu12==9.10.2.21"' if is_old else ""
        return command if backend == "jax" else f"{command}, and set KERAS_BACKEND=jax"
    version = importlib.metadata.version("tensorflow")
    limit = ' "nvidia-cudnn-cu12<9.11"' if is_old else ""
    return f'pip install "tensorflow[and-cuda]=={version}"{limit}'


def unused_warning(backend: str) -> str | None:
    """The warning if `backend` ("tensorflow" or "jax") sees no GPU.

    None if the machine has no GPU, or the environment hides it.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if backend == "jax":
        hidden |= "cpu" in os.environ.get("JAX_PLATFORMS", "")
    if hidden or not any(map(os.path.exists, console.NVIDIA_DEVICES)):
        return None
    gpu = next(iter(installed()), None)
    capability = gpu and gpu.capability
    known = capability and f"compute capability {capability}"
    facts = [gpu.name, known, f"driver {gpu.driver}"] if gpu else []
    described = f" ({', '.join(filter(None, facts))})" if facts else ""
    name = {"tensorflow": "TensorFlow", "jax": "JAX"}.get(backend, backend)
    return (
        f"this machine has an NVIDIA GPU{described}, but {name} does not see it and computes on "
        f"the CPU. Install what it needs: {install_command(backend, capability)}. "
        "docs/gpu.md says more. To use the CPU on purpose, set CUDA_VISIBLE_DEVICES=-1"
    )


def make_deterministic() -> None:
    """Makes XLA's results on GPUs repeat bit for bit; call it before the first `import jax`.

    On TensorFlow, `prepare_tensorflow` does more.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*flags, "--xla_gpu_deterministic_ops=true"]))
