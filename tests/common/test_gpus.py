"""What is said of GPUs, with an `nvidia-smi` that prints what the test wants."""

import os

import pytest

from common import console, gpus
from tests.support.processes import ROOT

V100 = "Tesla V100-SXM2-16GB, 16384, 535.1, 7.0"
A100 = "NVIDIA A100-SXM4-40GB, 40960, 550.2, 8.0"
H200 = "NVIDIA H200, 143771, 580.3, 9.0"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that gives this machine GPUs."""

    def give(*lines):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.setattr(console, "NVIDIA_DEVICES", [str(program)])
        gpus.installed.cache_clear()

    yield give
    gpus.installed.cache_clear()


def test_what_the_driver_says(machine):
    machine(H200, V100)
    assert gpus.installed()[0] == ("NVIDIA H200", 143771 / 1024, "580.3", "9.0")
    assert [gpu.capability for gpu in gpus.installed()] == ["9.0", "7.0"]
    machine("NVIDIA GB10, [N/A], 580.3, 12.1", "GRID, 1024, 535.1, [N/A]")
    assert gpus.installed() == (
        ("NVIDIA GB10", None, "580.3", "12.1"),
        ("GRID", 1.0, "535.1", None),
    )
    machine("Failed to initialize NVML")
    assert gpus.installed() == ()


def test_what_the_driver_does_not_know_is_left_out(machine):
    machine("NVIDIA GB10, [N/A], 580.3, 12.1")
    warning = gpus.unused_warning("tensorflow")
    assert "(NVIDIA GB10, compute capability 12.1, driver 580.3)" in warning
    assert "KERAS_BACKEND=jax" in warning
    machine("GRID, 1024, 535.1, [N/A]")
    assert "(GRID, driver 535.1)" in gpus.unused_warning("tensorflow")


@pytest.mark.parametrize("gpu", [V100, A100, H200, "Failed to initialize NVML"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_gpu_that_is_not_used(machine, monkeypatch, backend, gpu):
    machine(gpu)
    warning = gpus.unused_warning(backend)
    command = warning.split("Install what it needs: ")[1].split(", and set")[0].split(". ")[0]
    needs_jax = backend == "jax" or gpu == H200
    assert ("tensorflow[and-cuda]" in command) != needs_jax
    assert ("nvidia-cudnn-cu12" in command) == (gpu == V100)
    assert ("KERAS_BACKEND=jax" in warning) == (backend == "tensorflow" and gpu == H200)
    assert f"`{command}`" in (ROOT / "docs" / "gpu.md").read_text()
    assert (gpu.split(",")[0] in warning) == ("," in gpu)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpus.unused_warning(backend) is None


def test_no_gpu_is_no_reason_to_warn(machine, monkeypatch):
    machine(A100)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert gpus.unused_warning("jax") is None
    monkeypatch.setattr(console, "NVIDIA_DEVICES", [])
    assert gpus.unused_warning("tensorflow") is None


def test_the_version_of_jax_is_the_tested_one():
    assert f"\njax=={gpus.JAX_VERSION} " in (ROOT / "requirements-peers.txt").read_text()
    assert f'"jax[cuda12]=={gpus.JAX_VERSION}"' in (ROOT / "requirements.txt").read_text()


def test_xla_keeps_its_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/x")
    for _ in range(2):
        gpus.make_deterministic()
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=/x --xla_gpu_deterministic_ops=true"
