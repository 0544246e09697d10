"""How a fine-tuning job computes: devices, micro-batches and precision."""

import os

import numpy as np
import pytest
import safetensors.numpy

import finetune
from common.errors import InputError
from tests.support import finetuning, processes
from tests.support.finetuning import read_predictions, read_results

HPARAMS = finetuning.HPARAMS | {"train_batch_size": 16}


@pytest.fixture
def data_dir(tmp_path):
    finetuning.write_data(tmp_path)
    finetuning.save_encoder(tmp_path, "one", "two")
    return tmp_path


def saved(data_dir, name, folder):
    path = data_dir / "models" / name / "finetuning_models" / folder / "model.safetensors"
    return safetensors.numpy.load_file(path)


def test_two_devices_with_micro_batches_equal_one(data_dir):
    """For two tasks trained jointly, whose last batch is not full, and for a second trial."""
    hparams = HPARAMS | {"num_train_epochs": 2.0, "num_trials": 2, "task_names": ["cola", "sts"]}
    shared = {"num_devices": 2, "gradient_accumulation_steps": 2}
    arguments = finetuning.arguments(data_dir, "two", hparams | shared)
    processes.finish(processes.start(finetune.main, arguments))
    finetune.main(finetuning.arguments(data_dir, "one", hparams))
    for task in ("cola", "sts"):
        one, two = (saved(data_dir, name, f"cola+sts_2/{task}") for name in ("one", "two"))
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
        one, two = (read_results(data_dir / "models" / n, task, "cola+sts") for n in ("one", "two"))
        for a, b in zip(one, two, strict=True):
            assert a["metrics"] == pytest.approx(b["metrics"], abs=1e-3)
            assert a["fingerprint"] == b["fingerprint"]  # may replace each other


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(data_dir, precision):
    hparams = HPARAMS | {"precision": precision}
    finetune.main(finetuning.arguments(data_dir, "one", hparams, "cola"))
    model_dir = data_dir / "models" / "one"
    assert [result["metrics"] for result in read_results(model_dir, "cola")] == [{"mcc": 100.0}]
    assert [label for _, label, _ in read_predictions(model_dir, "cola_test_1")] == list("0101010")
    assert {array.dtype for array in saved(data_dir, "one", "cola_1").values()} == {np.dtype("f4")}
    with pytest.raises(InputError, match=r"`precision` was .*, is .float32"):
        finetune.main(finetuning.arguments(data_dir, "one", HPARAMS, "cola"))


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"precision": "float16"}, '`precision` must be one of "float32", "mixed_bfloat16"'),
        ({"num_devices": 0}, "`num_devices` must be from 1 to"),
        ({"gradient_accumulation_steps": 3}, "`train_batch_size` must be a multiple of 3"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be at least 1"),
        ({"jit_compile": 1}, "`jit_compile` must be true or false or null"),
    ],
)
def test_what_cannot_work_is_named(data_dir, hparams, message):
    with pytest.raises(InputError, match=message):
        finetune.main(finetuning.arguments(data_dir, "one", HPARAMS | hparams, "cola"))
    assert sorted(os.listdir(data_dir / "models" / "one")) == ["discriminator"]
