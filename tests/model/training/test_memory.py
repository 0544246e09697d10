"""What is said where the device's memory is too small, on a GPU that only the test knows."""

import re

import pytest
import tensorflow as tf

from common import gpus
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from configure_pretraining import PretrainingConfig
from model.backends import backend
from model.training import memory
from pipelines import base
from tests.support import small_models


@pytest.fixture
def v100(monkeypatch):
    gpu = gpus.Gpu("Tesla V100", 16.0, "535", "7.0")
    monkeypatch.setattr(gpus, "installed", lambda: (gpu,))
    monkeypatch.setattr(backend, "accelerator", lambda: ("Tesla V100", "7.0"))


def full(*arguments, **options):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")


def test_training_says_what_needs_less(v100):
    config = PretrainingConfig.from_hparams({"train_batch_size": 6})
    with pytest.raises(InputError) as caught, memory.explained(config, 128):
        full()
    assert str(caught.value).startswith(
        "out of memory: a step of `train_batch_size` 6 x 128 tokens in float32 does not fit Tesla "
        "V100 (16 GiB, compute capability 7.0). To need less, set "
        '"gradient_accumulation_steps": 2 (the result stays the same), or '
        '"precision": "mixed_float16" (in a new run)'
    )
    tuning = memory.explained(FinetuningConfig(), 128)
    with pytest.raises(InputError, match=r"set .*a smaller `train_batch_size`"), tuning:
        full()
    with pytest.raises(ZeroDivisionError), memory.explained(config, 128):
        assert 1 / 0


def test_prediction_says_what_needs_less(v100, monkeypatch):
    monkeypatch.setattr(base, "gather_outputs", full)
    network = base.Predictor(small_models.make("one label"))
    with pytest.raises(InputError, match=r"a batch of 32 rows does not fit Tesla V100 .*smaller"):
        base.compute_outputs(network, None, 32)


@pytest.mark.parametrize(
    ("hparams", "length", "expected"),
    [
        ({}, 128, None),
        ({}, 512, "128 x 512 tokens in float32 may need about .* and the GPU has 16 GiB"),
        ({"gradient_accumulation_steps": 8}, 512, None),
    ],
)
def test_a_step_that_will_not_fit(v100, monkeypatch, hparams, length, expected):
    warnings = []
    monkeypatch.setattr(memory.logging, "warning", lambda text, *a: warnings.append(text % a))
    config = PretrainingConfig.from_hparams(hparams)
    memory.warn_if_large(config, config.model_config(30522), length, 18_539_191)
    assert len(warnings) == bool(expected)
    if expected:
        assert re.search(expected, warnings[0])


@pytest.mark.parametrize(
    ("size", "precision", "length", "parameters", "compiled"),
    [
        ("small", "float32", 128, 14_019_903, 4.69),
        ("medium-small", "mixed_bfloat16", 512, 18_539_191, 20.44),
        ("base", "mixed_bfloat16", 128, 115_836_059, 15.51),
    ],
)
def test_the_estimate_is_near_what_the_compiler_says(size, precision, length, parameters, compiled):
    """In GB, from `python3 -m benchmarks compile --target h200 --backend tensorflow`."""
    config = PretrainingConfig.from_hparams({"model_size": size, "precision": precision})
    network = config.model_config(30522)
    needed = memory.estimate_gib(config, network, length, parameters)
    assert needed * 2**30 / 1e9 == pytest.approx(compiled, rel=0.15)
