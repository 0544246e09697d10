"""The same trial gives the same result: after other trials, and bit for bit in a new process."""

import os
import signal

import numpy as np
import pytest

import data.tasks.batching
import finetune
from jobs import trial_progress
from model import ConvBertModel
from tests.support import finetuning, processes
from tests.support.finetuning import WORDS, read_predictions, read_results, write_tsv
from tests.support.processes import finish

# Dropout is on, so that scores depend on every random draw.
HPARAMS = dict(max_seq_length=32, learning_rate=0.003, num_train_epochs=3.0, train_batch_size=8)
TRAIN, TEST = 44, 9


def killed():
    """Saves a state after each epoch. The first process that runs this ends after the second."""
    save, trial_progress.SECONDS_BETWEEN_STATES = trial_progress.TrialProgress._save, 0

    def save_and_die(progress):
        save(progress)
        if progress.step == 11 and progress.first_step == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    trial_progress.TrialProgress._save = save_and_die
    finetune.main()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """DATA_DIR with a CoLA of made-up sentences of many lengths, and pre-trained models."""
    directory = tmp_path_factory.mktemp("data")
    folder = directory / "finetuning_data" / "cola"
    draw = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("dev", 7), ("test", TEST)):
        texts = [" ".join(draw.choice(WORDS, draw.integers(2, 20))) for _ in range(count)]
        if split == "test":
            write_tsv(folder, split, map("{}\t{}".format, range(count), texts), "index\tsentence")
        else:
            write_tsv(folder, split, [f"x\t{i % 2}\t\t{text}" for i, text in enumerate(texts)])
    finetuning.save_encoder(directory, "both", "second", "one", "two", "killed")
    return directory


@pytest.fixture
def fine_tune(data_dir, monkeypatch):
    """A function that runs trials, and returns each one's batches, dev scores and test logits."""
    make_batches, trials = data.tasks.batching.training_batches, []

    def record(*args, **options):
        batches = make_batches(*args, **options)
        arrays = [inputs | {"targets": targets} for inputs, targets in batches]
        trials.append([{name: batch[name].tolist() for name in batch} for batch in arrays])
        return batches

    monkeypatch.setattr(data.tasks.batching, "training_batches", record)

    def run(name, **hparams):
        trials.clear()
        finetune.main(finetuning.arguments(data_dir, name, HPARAMS | hparams, "cola"))
        model_dir = data_dir / "models" / name
        return [
            (batches, result["metrics"], logits(model_dir, result["trial"]))
            for batches, result in zip(trials, read_results(model_dir, "cola"), strict=True)
        ]

    return run


def logits(model_dir, trial):
    rows = read_predictions(model_dir, f"cola_test_{trial}")
    found = np.array([numbers.split() for _, _, numbers in rows], float)
    assert found.shape == (TEST, 2)
    return found


def test_a_trial_depends_only_on_its_seed(fine_tune, monkeypatch):
    """It does not depend on what its process did before, though it has the same compiled model."""
    traced, trials, run_trial = [], [], finetune.run_trial
    call = ConvBertModel.call
    monkeypatch.setattr(ConvBertModel, "call", lambda *a, **b: traced.append(1) or call(*a, **b))
    monkeypatch.setattr(
        finetune, "run_trial", lambda *a: (run_trial(*a), trials.append(len(traced)))[0]
    )
    first, second = fine_tune("both", num_trials=2, seed=5)
    assert trials[0] == trials[1] <= 6
    (again,) = fine_tune("second", seed=6)
    batches, scores, found = second
    assert len(batches) == np.ceil(3 * TRAIN / 8)
    assert batches == again[0]
    assert scores == again[1]
    np.testing.assert_allclose(found, again[2], atol=1e-5)
    assert batches != first[0]
    assert np.abs(found - first[2]).max() > 0.01


def test_deterministic_trials_repeat_bit_for_bit(data_dir):
    """Alone or after another trial, in two new processes: only those can be limited to one thread.

    The second trial of a process takes over the first one's compiled model.
    """

    def start(name, **own):
        hparams = HPARAMS | {"deterministic": True} | own
        arguments = finetuning.arguments(data_dir, name, hparams, "cola")
        return processes.start(killed if name == "killed" else finetune.main, arguments)

    running = start("one", seed=1), start("two", num_trials=2)
    one, two, third = (data_dir / "models" / name for name in ("one", "two", "killed"))
    finish(start("killed", seed=1, eval_every="epoch"), -signal.SIGKILL)
    states = list((third / "finetuning_checkpoints" / "cola_1").iterdir())
    assert [path.name for path in states] == [f"step_{2 * TRAIN // 8}"]
    finish(start("killed", seed=1, eval_every="epoch"))
    for process in running:
        finish(process)
    for name in (
        "finetuning_models/cola_{}/model.safetensors",
        "finetuning_models/cola_{}/config.json",
        "test_predictions/cola_test_{}.tsv",
    ):
        content = (one / name.format(1)).read_bytes()
        assert content == (two / name.format(2)).read_bytes(), name
        assert content == (third / name.format(1)).read_bytes(), name
    (result,) = read_results(third, "cola")
    assert [each["epoch"] for each in result["evaluations"]] == pytest.approx([1, 2, 3], abs=0.1)
    assert not (third / "finetuning_checkpoints").exists()
    weights = (one / "finetuning_models/cola_1/model.safetensors").read_bytes()
    assert weights != (one / "discriminator/model.safetensors").read_bytes()
