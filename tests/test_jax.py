"""Whole jobs on Keras's JAX backend."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.support import finetuning

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.peers
def test_fine_tuning_learns_and_predicts(tmp_path):
    data_dir = finetuning.build_data_dir(tmp_path)
    hparams = {
        "max_seq_length": 16,
        "learning_rate": 0.003,
        "layerwise_lr_decay": 1.0,
        "num_train_epochs": 25.0,
        "train_batch_size": 15,
    }
    command = [sys.executable, str(ROOT / "finetune.py")]
    command += finetuning.arguments(data_dir, "small_one", hparams, "cola", "sts")
    done = subprocess.run(
        command,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    model_dir = data_dir / "models" / "small_one"
    (result,) = finetuning.read_results(model_dir, "cola")
    assert result["metrics"] == {"mcc": 100.0}  # one word decides
    labels = [label for _, label, _ in finetuning.read_predictions(model_dir, "cola_test_1")]
    assert labels == list("0101010")
    (result,) = finetuning.read_results(model_dir, "sts")
    assert result["metrics"]["pearson"] > 90
