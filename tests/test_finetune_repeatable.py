"""The same trial is the same again: in this process, after other trials, and bit for bit."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import data.tasks.batching
import finetune
from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertModel

ROOT = pathlib.Path(__file__).parents[1]
WORDS = ["good", "bad", "the", "dog", "cat", "ran", "sat", "on", "a", "mat"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
# Dropout is on, so that scores depend on every random draw.
ENCODER = ConvBertConfig(
    vocab_size=len(VOCAB), embedding_size=16, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
)  # fmt: skip
HPARAMS = dict(max_seq_length=32, learning_rate=0.003, num_train_epochs=3.0, train_batch_size=8)
TRAIN, TEST = 44, 9


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """DATA_DIR with a CoLA of made-up sentences of many lengths, and a pre-trained model."""
    directory = tmp_path_factory.mktemp("data")
    folder = directory / "finetuning_data" / "cola"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("dev", 7), ("test", TEST)):
        texts = [" ".join(draw.choice(WORDS, draw.integers(2, 20))) for _ in range(count)]
        if split == "test":
            rows = ["index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(texts))]
        else:
            rows = [f"x\t{i % 2}\t\t{text}" for i, text in enumerate(texts)]
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    keras.utils.set_random_seed(0)
    model = ConvBertModel(ENCODER)
    for name in ("both", "second", "one", "two"):
        encoder = directory / "models" / name / "discriminator"
        model.save_pretrained(encoder)
        ConvBertTokenizer(directory / "vocab.txt").save_pretrained(encoder)
    return directory


def arguments(data_dir, name, **hparams):
    text = json.dumps(HPARAMS | hparams)
    return ["--data-dir", str(data_dir), "--model-name", name, "--hparams", text, "cola"]


@pytest.fixture
def fine_tune(data_dir, monkeypatch):
    """A function that runs trials, and returns of each its batches, dev scores and test logits."""
    make_batches, trials = data.tasks.batching.training_batches, []

    def record(*args, **options):
        batches = make_batches(*args, **options)
        trials.append([
            {name: array.tolist() for name, array in (*inputs.items(), ("targets", targets))}
            for inputs, targets in batches.as_numpy_iterator()
        ])  # fmt: skip
        return batches

    monkeypatch.setattr(data.tasks.batching, "training_batches", record)

    def run(name, **hparams):
        trials.clear()
        finetune.main(arguments(data_dir, name, **hparams))
        model_dir = data_dir / "models" / name
        entries = json.loads((model_dir / "results" / "cola_results.json").read_text())["cola"]
        return [
            (batches, entry["metrics"], logits(model_dir, entry["trial"]))
            for batches, entry in zip(trials, entries, strict=True)
        ]

    return run


def logits(model_dir, trial):
    rows = (model_dir / "test_predictions" / f"cola_test_{trial}.tsv").read_text().splitlines()
    found = np.array([[float(x) for x in row.split("\t")[2].split()] for row in rows[1:]])
    assert found.shape == (TEST, 2)
    return found


def test_a_trial_depends_on_its_seed_alone(fine_tune):
    """Not on what its process did before: here another trial, and there two."""
    first, second = fine_tune("both", num_trials=2, seed=5)
    (again,) = fine_tune("second", seed=6)
    batches, scores, found = second
    assert len(batches) == np.ceil(3 * TRAIN / 8)
    assert batches == again[0]
    assert scores == again[1]
    np.testing.assert_allclose(found, again[2], atol=1e-5)
    assert batches != first[0]
    assert np.abs(found - first[2]).max() > 0.01


def test_deterministic_trials_repeat_bit_for_bit(data_dir):
    """In two processes: a process that has computed can no longer be told to use one thread."""
    running = []
    for name in ("one", "two"):
        command = [sys.executable, "finetune.py", *arguments(data_dir, name, deterministic=True)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    for process in running:
        assert process.wait(timeout=180) == 0
    one, two = (data_dir / "models" / name for name in ("one", "two"))
    for name in (
        "finetuning_models/cola_1/model.safetensors",
        "finetuning_models/cola_1/config.json",
        "test_predictions/cola_test_1.tsv",
    ):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    weights = (one / "finetuning_models/cola_1/model.safetensors").read_bytes()
    assert weights != (one / "discriminator/model.safetensors").read_bytes()
