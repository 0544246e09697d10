import errno
import json
import shutil
import types

import keras
import numpy as np
import pytest
import safetensors.numpy

import pretrain
from common import errors
from common.errors import InputError
from data import ConvBertTokenizer
from data.corpus import sources
from data.records import build, build_shard
from data.records.metadata import load_metadata
from model import ConvBertForMaskedLM, ConvBertModel
from model.training.checkpoints import TrainingCheckpoints
from tests.support import corpora

HPARAMS = {
    "model_size": "tiny",
    "model_hparam_overrides": {"num_hidden_layers": 1, "max_position_embeddings": 32},
    "train_batch_size": 4,
    "num_train_steps": 5,
    "num_warmup_steps": 2,
    "iterations_per_loop": 2,
    "save_checkpoints_steps": 3,
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A data folder with a vocabulary and records of a made-up corpus."""
    data_dir = tmp_path_factory.mktemp("records")
    corpora.write_vocab(data_dir / "vocab.txt")
    archives = corpora.random_archives(2, 4)
    (data_dir / "openwebtext.tar").write_bytes(corpora.openwebtext_of(archives))
    options = build_shard.BuildOptions(vocab_file=str(data_dir / "vocab.txt"), max_seq_length=24)
    build.build_records(sources.find_corpus(data_dir), options, data_dir / "pretrain_tfrecords")
    return data_dir


def run(data_dir, name="model", **hparams):
    text = json.dumps(HPARAMS | hparams)
    pretrain.main(["--data-dir", str(data_dir), "--model-name", name, "--hparams", text])
    return data_dir / "models" / name


@pytest.fixture(scope="module")
def finished(records):
    """A run of five steps."""
    return run(records)


@pytest.fixture
def copied(records, tmp_path):
    """The data folder without models, to be damaged."""
    shutil.copytree(records, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("models"))
    return tmp_path


def log_lines(run_dir):
    return [json.loads(line) for line in (run_dir / "train_log.jsonl").open()]


def arrays(run_dir, network="discriminator"):
    return safetensors.numpy.load_file(run_dir / network / "model.safetensors")


def random_states(run_dir):
    path = run_dir / "checkpoints" / "step_5" / "state.safetensors"
    return {k: v for k, v in safetensors.numpy.load_file(path).items() if v.dtype.kind in "iu"}


def test_what_a_run_leaves(records, finished):
    (start,) = json.loads((finished / "run.json").read_text())["starts"]
    assert start["hparams"]["learning_rate"] == 1e-3  # the size's own value
    assert start["records"]["metadata"] == str(records / "pretrain_tfrecords" / "metadata.json")
    assert [line["step"] for line in log_lines(finished)] == [1, 2, 4, 5]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "step_3",
        "step_5",
    ]
    assert any((finished / "tensorboard").iterdir())
    tokenizer = ConvBertTokenizer.from_pretrained(finished / "discriminator")
    assert tokenizer.vocab == ConvBertTokenizer(records / "vocab.txt").vocab
    hidden = ConvBertModel.from_pretrained(finished / "discriminator")(tokenizer(["ba be"]))
    assert hidden.shape == (1, 4, 128)
    logits = ConvBertForMaskedLM.from_pretrained(finished / "generator")(tokenizer(["ba be"]))
    assert logits.shape == (1, 4, tokenizer.vocab_size)


def test_a_finished_run_is_not_repeated(records, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    run(records)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_stopped_run_goes_on(records, finished):
    run_dir = run(records, "stopped", num_train_steps=5)
    path = run_dir / "checkpoints" / "step_5" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])  # step 3's is used
    for network in ("discriminator", "generator"):
        shutil.rmtree(run_dir / network)
    (run_dir / ".saving.tmp").mkdir()
    run(records, "stopped")
    assert not (run_dir / ".saving.tmp").exists()
    starts = json.loads((run_dir / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 3]
    assert [line["step"] for line in log_lines(run_dir)] == [1, 2, 4, 5]
    whole, resumed = arrays(finished), arrays(run_dir)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-5, err_msg=name)
    draws = [random_states(finished), random_states(run_dir)]
    assert len(draws[0]) > 4
    for name, value in draws[0].items():
        np.testing.assert_array_equal(draws[1][name], value, err_msg=name)


def test_evaluation(records, finished):
    run(records, do_train=False, do_eval=True, num_eval_steps=2, eval_batch_size=4)
    path = finished / "results" / "pretrain_results.json"
    first = json.loads(path.read_text())
    assert first["step"] == 5
    for name in ("mlm_accuracy", "mlm_loss", "sampled_mlm_accuracy", "rtd_loss", "rtd_auc"):
        assert np.isfinite(first[f"eval_{name}"])
    run(records, do_train=False, do_eval=True, num_eval_steps=2, eval_batch_size=4)
    assert json.loads(path.read_text()) == first
    assert log_lines(finished)[-1]["eval_rtd_auc"] == first["eval_rtd_auc"]


def test_masked_language_modeling_leaves_one_encoder(records):
    run_dir = run(records, "mlm", electra_objective=False)
    assert (run_dir / "encoder" / "model.safetensors").exists()
    assert not (run_dir / "discriminator").exists()
    assert "rtd_loss" not in log_lines(run_dir)[-1]


def tree(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def fails(capsys, data_dir, *messages, **hparams):
    """The command ends with status 1 and one message, and nothing on the disk changes."""
    before = tree(data_dir)
    with pytest.raises(SystemExit) as stopped:
        errors.run(lambda: run(data_dir, **hparams))
    printed = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "Traceback" not in printed
    for message in messages:
        assert message in printed
    assert tree(data_dir) == before


def test_wrong_hparams(copied, capsys):
    fails(capsys, copied, "error: unknown hyper-parameter `seeds`", "`seed`", seeds=1)
    fails(capsys, copied, "`seed` must be an integer", seed="1")
    fails(capsys, copied, "`max_seq_length` must be at most", max_seq_length=64)
    fails(capsys, copied, "`max_seq_length` is 16", "up to 24 tokens", max_seq_length=16)


def test_missing_records(copied, capsys):
    shutil.rmtree(copied / "pretrain_tfrecords")
    fails(capsys, copied, "no records in", "Run build_data.sh first")


def test_missing_vocabulary(copied, capsys):
    (copied / "vocab.txt").unlink()
    fails(capsys, copied, str(copied / "vocab.txt"))


def test_another_vocabulary(copied, capsys):
    with (copied / "vocab.txt").open("a") as file:
        file.write("surplus\n")
    fails(capsys, copied, "is not the one the records", "were built with")


def test_a_shard_cut_in_half(copied, capsys):
    shard = next((copied / "pretrain_tfrecords").glob("*tfrecord-00001*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    fails(capsys, copied, str(shard), "damaged")


def test_a_damaged_record(copied, capsys):
    shard = next((copied / "pretrain_tfrecords").glob("*tfrecord-00001*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(SystemExit):
        errors.run(lambda: run(copied))
    printed = capsys.readouterr().err
    assert f"error: the shard {shard} is damaged: record " in printed
    assert "(from 0), which begins at byte " in printed


def test_a_loss_that_is_not_finite(copied, capsys):
    with pytest.raises(SystemExit):
        errors.run(
            lambda: run(copied, learning_rate=1e30, num_warmup_steps=0, save_checkpoints_steps=1)
        )
    printed = capsys.readouterr().err
    run_dir = copied / "models" / "model"
    assert "error: the loss is no longer finite after step 2." in printed
    assert f"The last good checkpoint is {run_dir / 'checkpoints' / 'step_1'}; nothing" in printed
    assert f"step 2: {copied / 'pretrain_tfrecords' / 'pretrain_data.tfrecord-0'}" in printed
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_1"]
    assert [line["step"] for line in log_lines(run_dir)] == [1]


def test_weights_that_are_not_finite_are_not_saved(records, tmp_path):
    config = pretrain.PretrainingConfig.from_hparams(HPARAMS)
    checkpoints = TrainingCheckpoints(str(tmp_path / "checkpoints"))
    metadata = load_metadata(records / "pretrain_tfrecords")
    run = pretrain.Run(config, str(tmp_path), metadata, metadata, None, None, 24, checkpoints)
    weight = keras.Variable([1.0, np.nan], name="kernel")
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=keras.Variable(4)),
        trainable_variables=[weight],
    )
    with pytest.raises(InputError, match=r"kernel is no longer finite after step 4\. There is no"):
        pretrain.saver(run, model)()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(copied, capsys, monkeypatch):
    """The second checkpoint does not fit."""
    save_file = safetensors.numpy.save_file

    def save(arrays, path, **options):
        if "step_4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(arrays, path, **options)

    monkeypatch.setattr(safetensors.numpy, "save_file", save)
    with pytest.raises(SystemExit):
        errors.run(lambda: run(copied, save_checkpoints_steps=2))
    printed = capsys.readouterr().err
    checkpoints = copied / "models" / "model" / "checkpoints"
    assert f"error: cannot write {checkpoints / 'step_4'}: No space left on device." in printed
    assert f"The last good checkpoint is {checkpoints / 'step_2'}. Make room" in printed
    assert [path.name for path in checkpoints.iterdir()] == ["step_2"]


def test_other_hparams_on_a_started_run(records, finished, capsys):
    fails(capsys, records, "other hyper-parameters: learning_rate was 0.001", learning_rate=0.5)


def test_a_checkpoint_of_another_vocabulary(records, finished, copied, capsys):
    corpora_dir = copied / "other"
    corpora_dir.mkdir()
    vocab = (records / "vocab.txt").read_text() + "surplus\n"
    (corpora_dir / "vocab.txt").write_text(vocab)
    shutil.copy(records / "openwebtext.tar", corpora_dir)
    options = build_shard.BuildOptions(vocab_file=str(corpora_dir / "vocab.txt"), max_seq_length=24)
    build.build_records(
        sources.find_corpus(corpora_dir), options, corpora_dir / "pretrain_tfrecords"
    )
    shutil.copytree(finished, corpora_dir / "models" / "model")
    fails(
        capsys,
        corpora_dir,
        "is of another model",
        "word_embeddings is (64, 128) there and (65, 128)",
    )


def test_nothing_to_evaluate(copied, capsys):
    fails(capsys, copied, "nothing to evaluate", do_train=False, do_eval=True)
