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
from common.lock import locked
from data import ConvBertTokenizer
from data.records.metadata import load_metadata
from model import ConvBertForMaskedLM, ConvBertModel
from model.training.checkpoints import TrainingCheckpoints
from tests.support import corpora, pretraining
from tests.support.eager import eagerly
from tests.support.pretraining import log_lines, run, tree

pytestmark = pytest.mark.usefixtures("eager")
ROTATED = ["[UNK]", "[PAD]", "[SEP]", "[CLS]", "[MASK]"]
ONE_NETWORK = {"uniform_generator": True}  # is computed faster
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


@pytest.mark.parametrize("name", ["model", "not_yet"])
def test_a_dry_run_writes_nothing(records, finished, name, caplog):
    before = tree(records)
    hparams = EVALUATION if name == "not_yet" else {}
    pretrain.main([*pretraining.arguments(records, name, **hparams), "--dry-run"])
    assert tree(records) == before
    text = caplog.text
    assert "one step: loss" in text and ("eval_rtd_auc" in text) == bool(hparams)


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
    run = pretrain.Run(config, "", str(tmp_path), metadata, metadata, None, None, 24, checkpoints)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more_tokens": ["surplus"]}, "the vocabulary with the SHA-256"),
        ({"seed": 1}, "the records in"),
        ({"max_seq_length": 16}, "sequences of the length 24, not 16"),
    ],
)
def test_a_run_does_not_resume_on_other_data(copied, finished, change, message):
    """Records are built again, at the same place."""
    shutil.copytree(finished, copied / "models" / "model")
    shutil.rmtree(copied / "pretrain_tfrecords")
    pretraining.build_data_dir(copied, **change)
    state = str(copied / "models" / "model" / "checkpoints" / "step_5")
    assert_fails(copied, state, message, "`init_checkpoint`", num_train_steps=6)
    if "seed" in change:  # other records may be scored
        run(copied, do_train=False, **EVALUATION)


def test_a_run_resumes_on_the_same_records_elsewhere(records, finished, tmp_path):
    run_dir = shutil.copytree(finished, records / "models" / "elsewhere")
    shutil.copytree(records / "pretrain_tfrecords", tmp_path / "moved")
    before = tree(run_dir)
    run(records, "elsewhere", pretrain_tfrecords=str(tmp_path / "moved"))
    assert tree(run_dir) == before


def edit_state(run_dir, change):
    path = run_dir / "checkpoints" / "step_5" / "state.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_of_an_older_version_resumes(records, finished, caplog):
    """Its state does not identify its data, and lacks a hyper-parameter that came later."""
    run_dir = shutil.copytree(finished, records / "models" / "older")

    def age(content):
        del content["format"], content["data"], content["hparams"]["temperature"]

    edit_state(run_dir, age)
    before = tree(run_dir)
    run(records, "older")
    assert tree(run_dir) == before
    assert [r.levelname for r in caplog.records if "older version" in r.message] == ["WARNING"]
    with pytest.raises(InputError, match=r"temperature was 1\.0, is 0\.5"):
        run(records, "older", temperature=0.5)


def test_a_run_of_a_newer_version_is_refused(records, finished):
    run_dir = shutil.copytree(finished, records / "models" / "newer")
    edit_state(run_dir, lambda content: content.update(format=99))
    with pytest.raises(InputError, match=r"step_5 .* newer version"):
        run(records, "newer")


def test_models_of_others_are_not_replaced(copied, finished):
    """A user has put a model where fine-tuning looks for one."""
    shutil.copytree(finished / "discriminator", copied / "models" / "model" / "discriminator")
    assert_fails(copied, str(copied / "models" / "model" / "discriminator"), "--model-name")


def test_one_process_works_on_a_run(copied):
    path = copied / "models" / "model" / ".pretrain.lock"
    with locked(path, "the run", ""):
        with pytest.raises(InputError, match=rf"{path.parent} is in use by"):
            run(copied)
        assert os.listdir(path.parent) == [path.name]


def test_paths_may_be_below_the_data_directory(copied, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, copied / "models" / "first")
    (copied / "pretrain_tfrecords").rename(copied / "records")
    (copied / "vocab.txt").rename(copied / "words.txt")
    monkeypatch.chdir("/")
    paths = {"pretrain_tfrecords": "records", "vocab_file": "words.txt"}
    command = pretraining.arguments(copied, init_checkpoint="models/first", **paths)
    model, step = pretrain.start_model(pretrain.open_run(*pretrain.parse_arguments(command)))
    assert step == 0
    model.save_pretrained(tmp_path / "made")
    weights = [
        safetensors.numpy.load_file(path / "discriminator" / "model.safetensors")
        for path in (tmp_path / "made", finished)
    ]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])
    for name in ("pretrain_tfrecords", "vocab_file", "init_checkpoint"):
        places = f"`{name}`: models/other and {copied}/models/other"
        assert_fails(copied, places, **(paths | {name: "models/other"}))


def test_the_warmup_of_a_short_run(copied, caplog):
    assert_fails(
        copied, "`num_warmup_steps` must be below `num_train_steps` (5)", num_warmup_steps=5
    )
    command = ["--data-dir", "d", "--model-name", "m", "--hparams"]
    pretrain.parse_arguments([*command, '{"num_train_steps": 1000, "learning_rate": 0.001}'])
    assert "only 2.5e-05 instead of 0.001" in caplog.text and "`num_warmup_steps`" in caplog.text
    caplog.clear()
    pretrain.parse_arguments([*command, '{"num_train_steps": 100000}'])
    assert caplog.text == ""


def test_float16_logs_skipped_steps(records):
    with eagerly(False):
        run_dir = run(records, "float16", precision="mixed_float16", **ONE_NETWORK)
    lines = log_lines(run_dir)
    assert all(line["loss_scale"] > 0 for line in lines)
    skipped = [line["skipped_steps"] for line in lines]
    assert skipped == sorted(skipped) and 0 <= skipped[-1] <= 5
