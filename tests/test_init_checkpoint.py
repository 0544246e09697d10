import shutil

import numpy as np
import pytest

import pretrain
from common.errors import InputError
from tests.support import pretraining
from tests.support.huggingface import edit_config
from tests.support.pretraining import build_data_dir, log_lines, weights

pytestmark = pytest.mark.usefixtures("eager")
HPARAMS = {
    "model_hparam_overrides": {"num_hidden_layers": 1, "max_position_embeddings": 128},
    "train_batch_size": 2,
    "num_warmup_steps": 1,
    "learning_rate": 0.01,
    "iterations_per_loop": 100,
}


def run(data_dir, name, steps, **hparams):
    return pretraining.run(data_dir, name, **(HPARAMS | {"num_train_steps": steps} | hparams))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data directories of two corpora, with sequences of 64 and of 128 tokens."""
    folder = tmp_path_factory.mktemp("continued")
    return (
        build_data_dir(folder / "short", max_seq_length=64, seed=0),
        build_data_dir(folder / "long", max_seq_length=128, seed=1),
    )


@pytest.fixture(scope="module")
def first(folders):
    """A run of two steps on the short sequences."""
    return run(folders[0], "first", 2)


def test_a_new_run_starts_from_another_ones_weights(folders, first, tmp_path):
    copied = tmp_path / "first"
    shutil.copytree(first, copied)
    # With this learning rate, nearly the initial weights are saved.
    hparams = {"seed": 7, "learning_rate": 1e-7, "num_warmup_steps": 0}
    run_dir = run(folders[1], "second", 1, init_checkpoint=str(copied), **hparams)
    (line,) = log_lines(run_dir)
    assert line["step"] == 1 and line["learning_rate"] == pytest.approx(1e-7)
    before, after = weights(first), weights(run_dir)
    assert before.keys() == after.keys() and len(before) > 50
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=str(name))
    shutil.rmtree(copied)  # no longer needed: the run resumes from its own checkpoint
    run(folders[1], "second", 3, init_checkpoint=str(copied), **hparams)
    lines = log_lines(run_dir)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1]["learning_rate"] == pytest.approx(1e-7 * 2 / 3)


def start(data_dir, **hparams):
    """The initial model of a run, and its step."""
    command = pretraining.arguments(data_dir, "new", seed=7, **(HPARAMS | hparams))
    return pretrain.start_model(pretrain.open_run(*pretrain.parse_arguments(command)))


def test_the_discriminators_directory_alone(folders, first, tmp_path):
    model, step = start(folders[1], init_checkpoint=str(first / "discriminator"))
    assert step == 0 and int(model.optimizer.iterations) == 0
    assert not any(np.any(moment) for moment in model.optimizer.first_moments)
    drawn, _ = start(folders[1])
    for made, directory in ((model, tmp_path / "made"), (drawn, tmp_path / "drawn")):
        made.save_pretrained(directory)
    theirs, ours, fresh = weights(first), weights(tmp_path / "made"), weights(tmp_path / "drawn")
    for (network, name), value in ours.items():
        given = network == "discriminator" or name.startswith("convbert.embeddings.")
        expected = theirs if given else fresh
        np.testing.assert_array_equal(value, expected[network, name], err_msg=name)


def assert_fails(folders, *messages, **hparams):
    with pytest.raises(InputError) as caught:
        run(folders[1], "new", 2, **hparams)
    for message in messages:
        assert message in str(caught.value)
    assert not (folders[1] / "models" / "new").exists()


def test_impossible_init_checkpoints(folders, first, tmp_path):
    assert_fails(
        folders,
        "encoder.layer.0.intermediate.dense.weight: (2, 64, 256) in the file, (2, 64, 128) in the",
        init_checkpoint=str(first),
        model_hparam_overrides={"num_hidden_layers": 1, "intermediate_size": 256},
    )
    missing, other = str(tmp_path / "missing"), tmp_path / "other"
    assert_fails(folders, "`init_checkpoint`", missing, init_checkpoint=missing)
    shutil.copytree(first / "discriminator", other)
    tokens = (other / "vocab.txt").read_text().replace("ding\n", "dingo\n")
    (other / "vocab.txt").write_text(tokens)
    (other / "tokenizer.json").unlink()
    vocab = f"{other}/vocab.txt (64 tokens, SHA-256 "
    assert_fails(folders, "`init_checkpoint`", vocab, init_checkpoint=str(other))
    (other / "vocab.txt").write_text(tokens + "surplus\n")
    assert_fails(folders, "(65 tokens, SHA-256 ", init_checkpoint=str(other))
    (other / "vocab.txt").unlink()
    edit_config(other, vocab_size=99)
    assert_fails(folders, str(other), "99", "64", init_checkpoint=str(other))
