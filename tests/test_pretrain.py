import errno
import functools
import json
import os
import shutil
import types

import keras
import numpy as np
import pytest
import safetensors.numpy

import pretrain
from common import files
from common.errors import InputError
from data import ConvBertTokenizer
from data.records.metadata import load_metadata
from model import ConvBertForMaskedLM, ConvBertModel
from model.training.checkpoints import TrainingCheckpoints
from tests.support import corpora, pretraining
from tests.support.pretraining import log_lines, run, tree

ROTATED = ["[UNK]", "[PAD]", "[SEP]", "[CLS]", "[MASK]"]
ONE_NETWORK = {"uniform_generator": True}  # is traced faster
EVALUATION = {"do_eval": True, "num_eval_steps": 2, "eval_batch_size": 4}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return pretraining.build_data_dir(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def finished(records):
    """A run of five steps that was scored; tests leave it as it is."""
    return run(records, **EVALUATION)


def test_a_vocabulary_with_pad_elsewhere(tmp_path):
    write_vocab = functools.partial(corpora.write_vocab, special=ROTATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "write_vocab", write_vocab)
        data_dir = pretraining.build_data_dir(tmp_path)
    opened = pretrain.open_run(*pretrain.parse_arguments(pretraining.arguments(data_dir)))
    assert opened.network.pad_token_id == opened.tokenizer.pad_id == 1


@pytest.fixture
def copied(records, tmp_path):
    """The data directory without models, to be damaged."""
    shutil.copytree(records, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("models"))
    return tmp_path


def test_what_a_run_writes(records, finished):
    (start,) = json.loads((finished / "run.json").read_text())["starts"]
    assert start["hparams"]["learning_rate"] == 1e-3  # the size's default
    assert start["records"]["metadata"] == str(records / "pretrain_tfrecords" / "metadata.json")
    assert [line["step"] for line in log_lines(finished)] == [1, 2, 4, 5, 5]
    checkpoints = {path.name for path in (finished / "checkpoints").iterdir()}
    assert checkpoints == {"step_3", "step_5"}
    assert any((finished / "tensorboard").iterdir())
    assert not [path for path in finished.rglob("*") if files.TEMPORARY_SUFFIX in path.name]
    tokenizer = ConvBertTokenizer.from_pretrained(finished / "discriminator")
    assert tokenizer.vocab == ConvBertTokenizer(records / "vocab.txt").vocab
    hidden = ConvBertModel.from_pretrained(finished / "discriminator")(tokenizer(["ba be"]))
    assert hidden.shape == (1, 4, 128)
    logits = ConvBertForMaskedLM.from_pretrained(finished / "generator")(tokenizer(["ba be"]))
    assert logits.shape == (1, 4, tokenizer.vocab_size)


def test_a_finished_run_is_not_repeated(records, finished):
    before = tree(finished)
    run(records)
    assert tree(finished) == before


def test_a_stopped_run_resumes_from_the_last_good_checkpoint(records, finished):
    run_dir = shutil.copytree(finished, records / "models" / "stopped")
    path = run_dir / "checkpoints" / "step_5" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for network in ("discriminator", "generator"):
        shutil.rmtree(run_dir / network)
    run(records, "stopped")
    starts = json.loads((run_dir / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 3]
    assert [line["step"] for line in log_lines(run_dir)] == [1, 2, 4, 5]
    assert (run_dir / "discriminator").is_dir() and (run_dir / "generator").is_dir()


def test_evaluation(records, finished):
    """A finished run can be scored again, with the same result."""
    run_dir = shutil.copytree(finished, records / "models" / "scored")
    path = run_dir / "results" / "pretrain_results.json"
    first = json.loads(path.read_text())
    path.unlink()
    run(records, "scored", do_train=False, **EVALUATION)
    assert json.loads(path.read_text()) == first and first["step"] == 5
    for name in ("mlm_accuracy", "mlm_loss", "sampled_mlm_accuracy", "rtd_loss", "rtd_auc"):
        assert np.isfinite(first[f"eval_{name}"])
    assert log_lines(run_dir)[-1] == log_lines(run_dir)[-2]
    assert log_lines(run_dir)[-1]["eval_rtd_auc"] == first["eval_rtd_auc"]


def test_masked_language_modeling_writes_one_encoder(records):
    run_dir = run(records, "mlm", electra_objective=False)
    assert (run_dir / "encoder" / "model.safetensors").exists()
    assert not (run_dir / "discriminator").exists()
    assert "rtd_loss" not in log_lines(run_dir)[-1]


def assert_fails(data_dir, *messages, **hparams):
    """The run ends with an error, and nothing on the disk changes."""
    before = tree(data_dir)
    with pytest.raises(InputError) as caught:
        run(data_dir, **hparams)
    for message in messages:
        assert message in str(caught.value)
    assert tree(data_dir) == before


def test_wrong_hparams(copied):
    assert_fails(copied, "`seed` must be an integer", seed="1")
    assert_fails(copied, "`max_seq_length` must be at most 32", max_seq_length=64)
    assert_fails(copied, "`max_seq_length`", "16", "24 tokens", max_seq_length=16)


def test_missing_files(copied):
    assert_fails(copied, "no checkpoint in", do_train=False, do_eval=True)
    vocab = copied / "vocab.txt"
    vocab.rename(copied / "moved.txt")
    assert_fails(copied, str(vocab))
    shutil.rmtree(copied / "pretrain_tfrecords")
    assert_fails(copied, "no records in", "build_data.sh")


def test_another_vocabulary(copied):
    with (copied / "vocab.txt").open("a") as file:
        file.write("surplus\n")
    assert_fails(copied, "vocabulary", "65", str(copied / "pretrain_tfrecords"), "64")


def test_a_shard_cut_in_half(copied):
    shard = next((copied / "pretrain_tfrecords").glob("*tfrecord-00001*"))
    os.truncate(shard, shard.stat().st_size // 2)
    assert_fails(copied, str(shard), "damaged")


def test_a_damaged_record(copied):
    shard = next((copied / "pretrain_tfrecords").glob("*tfrecord-00001*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(InputError, match=rf"{shard} is damaged: record \d+ .*byte \d+"):
        run(copied, **ONE_NETWORK)


def test_a_loss_that_is_not_finite(copied):
    with pytest.raises(InputError, match="the loss is no longer finite after step 2") as caught:
        run(copied, learning_rate=1e30, num_warmup_steps=0, save_checkpoints_steps=1, **ONE_NETWORK)
    run_dir, message = copied / "models" / "model", str(caught.value)
    assert f"checkpoint is {run_dir / 'checkpoints' / 'step_1'}; nothing" in message
    assert f"step 2: {copied / 'pretrain_tfrecords' / 'pretrain_data.tfrecord-0'}" in message
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_1"]
    assert [line["step"] for line in log_lines(run_dir)] == [1]


def test_weights_that_are_not_finite_are_not_saved(records, tmp_path):
    config = pretrain.PretrainingConfig.from_hparams(pretraining.HPARAMS)
    checkpoints = TrainingCheckpoints(str(tmp_path / "checkpoints"))
    metadata = load_metadata(records / "pretrain_tfrecords")
    run = pretrain.Run(config, str(tmp_path), metadata, metadata, None, None, 24, checkpoints)
    weight = keras.Variable([1.0, np.nan], name="kernel")
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=keras.Variable(4)),
        trainable_variables=[weight],
    )
    with pytest.raises(InputError, match=r"kernel is no longer finite after step 4\b"):
        pretrain.save_checkpoint(run, model)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(copied, monkeypatch):
    """The second checkpoint does not fit."""
    save_file = safetensors.numpy.save_file

    def save(arrays, path, **options):
        if "step_4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(arrays, path, **options)

    monkeypatch.setattr(safetensors.numpy, "save_file", save)
    checkpoints = copied / "models" / "model" / "checkpoints"
    with pytest.raises(
        InputError,
        match=rf"cannot write {checkpoints / 'step_4'}: No space left on device\. "
        rf".* checkpoint is {checkpoints / 'step_2'}\. ",
    ):
        run(copied, save_checkpoints_steps=2, **ONE_NETWORK)
    assert [path.name for path in checkpoints.iterdir()] == ["step_2"]


def test_other_hparams_in_a_run_that_has_started(records, finished):
    assert_fails(records, str(finished), "learning_rate was 0.001, is 0.5", learning_rate=0.5)


def test_a_checkpoint_of_another_vocabulary(copied, finished):
    """Records are built again with another vocabulary."""
    shutil.rmtree(copied / "pretrain_tfrecords")
    pretraining.build_data_dir(copied, more_tokens=["surplus"])
    shutil.copytree(finished, copied / "models" / "model")
    assert_fails(copied, "word_embeddings", "(64, 128)", "(65, 128)")
