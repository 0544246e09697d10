"""The line about the device, on this machine and with functions that claim another one."""

import pytest
import tensorflow as tf

from common import gpus
from data import tensorflow_setup
from model.backends import backend, devices, distribution


def test_a_cpu(capsys, monkeypatch):
    warnings = []
    monkeypatch.setattr(gpus, "unused_warning", lambda name: f"{name}: install")
    monkeypatch.setattr(devices.logging, "warning", warnings.append)
    devices.report("float32", False)
    line = capsys.readouterr().err
    assert line.startswith("device: CPU (") and line.endswith(" cores), float32, no XLA\n")
    assert warnings == ["tensorflow: install"]


@pytest.mark.parametrize(
    ("flags", "precision", "is_slow"),
    [
        ("sse avx2", "float32", False),
        ("sse avx2", "mixed_bfloat16", True),
        ("avx512f avx512_bf16", "mixed_bfloat16", False),
        ("amx_bf16 amx_int8", "mixed_bfloat16", False),
        ("amx_bf16 amx_int8", "mixed_float16", True),
        ("amx_fp16", "mixed_float16", False),
    ],
)
def test_a_cpu_without_half_precision_says_so(flags, precision, is_slow, monkeypatch):
    warnings = []
    monkeypatch.setattr(devices, "_cpuinfo", lambda: flags)
    monkeypatch.setattr(devices.logging, "warning", lambda *parts: warnings.append(parts))
    devices.report(precision, False)
    assert [precision.endswith(parts[-1]) for parts in warnings] == [True] * is_slow


def test_gpus(capsys, monkeypatch):
    monkeypatch.setattr(backend, "accelerator", lambda: ("NVIDIA H200", "9.0"))
    gpu = gpus.Gpu("NVIDIA H200", 140.4, "580.3", "9.0")
    monkeypatch.setattr(gpus, "installed", lambda: (gpu,))
    devices.report("mixed_bfloat16", True, 2)
    expected = "device: 2 x NVIDIA H200 (140 GiB, compute capability 9.0), mixed_bfloat16, XLA\n"
    assert capsys.readouterr().err == expected


def test_tensorflow_takes_one_gpu_and_only_the_memory_it_needs(monkeypatch):
    done = []
    config = tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(config, "set_visible_devices", lambda gpus, kind: done.append(gpus))
    monkeypatch.setattr(config.experimental, "set_memory_growth", lambda *a: done.append(a))
    tensorflow_setup.prepare_tensorflow(True)
    tensorflow_setup.prepare_tensorflow(True, num_devices=2)
    one, two = ("GPU:0", True), ("GPU:1", True)
    assert done == [["GPU:0"], one, ["GPU:0", "GPU:1"], one, two]


def test_several_gpus(monkeypatch):
    found = ["gpu:0", "gpu:1"]
    monkeypatch.setattr(distribution.keras.distribution, "list_devices", lambda kind=None: found)
    assert distribution.count_devices(None) == 1
    assert distribution.count_devices(2) == 2
    assert distribution.uses_xla(None) and not distribution.uses_xla(False)
    monkeypatch.setattr(distribution.keras.distribution, "list_devices", lambda kind=None: [])
    assert distribution.uses_xla(True) and not distribution.uses_xla(None)


def test_tf32_can_be_forbidden():
    for allowed in (False, True):
        backend.allow_tf32(allowed)
        assert tf.config.experimental.tensor_float_32_execution_enabled() == allowed
