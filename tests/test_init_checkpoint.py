import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import pretrain
from common import errors
from data.corpus import sources
from data.records import build as building
from data.records import build_shard
from tests.support import corpora

HPARAMS = {
    "model_size": "tiny",
    "model_hparam_overrides": {"num_hidden_layers": 1, "max_position_embeddings": 128},
    "train_batch_size": 2,
    "num_warmup_steps": 1,
    "learning_rate": 0.01,
}
SAVED = ("discriminator", "generator")


def build(folder, length, seed):
    """A data folder with records of a corpus of its own."""
    folder.mkdir()
    vocab_file = corpora.write_vocab(folder / "vocab.txt")
    archives = corpora.random_archives(2, 4, seed=seed)
    (folder / "openwebtext.tar").write_bytes(corpora.openwebtext_of(archives))
    options = build_shard.BuildOptions(vocab_file=str(vocab_file), max_seq_length=length)
    building.build_records(sources.find_corpus(folder), options, folder / "pretrain_tfrecords")
    return folder


def run(data_dir, name, steps, **hparams):
    text = json.dumps(HPARAMS | {"num_train_steps": steps} | hparams)
    pretrain.main(["--data-dir", str(data_dir), "--model-name", name, "--hparams", text])
    return data_dir / "models" / name


def weights(run_dir):
    return {
        (network, name): value
        for network in SAVED
        for name, value in safetensors.numpy.load_file(
            run_dir / network / "model.safetensors"
        ).items()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data folders of two corpora, with rows of 64 and of 128 tokens."""
    folder = tmp_path_factory.mktemp("continued")
    return build(folder / "short", 64, seed=0), build(folder / "long", 128, seed=1)


@pytest.fixture(scope="module")
def first(folders):
    """A run of two steps on the short rows."""
    return run(folders[0], "first", 2)


def test_a_run_goes_on_with_longer_rows_of_another_corpus(folders, first, tmp_path):
    copied = tmp_path / "first"
    shutil.copytree(first, copied)
    # Step 1 has rate 0, with a warm-up: what is saved after it are the weights before it.
    run_dir = run(folders[1], "second", 1, init_checkpoint=str(copied), seed=7)
    (line,) = map(json.loads, (run_dir / "train_log.jsonl").open())
    assert line["step"] == 1 and line["learning_rate"] == 0
    before, after = weights(first), weights(run_dir)
    assert before.keys() == after.keys() and len(before) > 50
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=str(name))
    shutil.rmtree(copied)  # no longer needed: the run goes on from its own weights
    run(folders[1], "second", 3, init_checkpoint=str(copied), seed=7)
    lines = [json.loads(line) for line in (run_dir / "train_log.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1]["learning_rate"] == pytest.approx(0.01 * 2 / 3)


def start(data_dir, **hparams):
    """The model that a run would begin with."""
    text = json.dumps(HPARAMS | {"seed": 7} | hparams)
    args, config = pretrain.parse_arguments(
        ["--data-dir", str(data_dir), "--model-name", "new", "--hparams", text]
    )
    return pretrain.start_model(pretrain.open_run(args, config))


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


def fails(capsys, folders, message, **hparams):
    with pytest.raises(SystemExit) as stopped:
        errors.run(lambda: run(folders[1], "new", 1, **hparams))
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert not (folders[1] / "models" / "new").exists()


def test_what_cannot_be_gone_on_from(folders, first, tmp_path, capsys):
    fails(
        capsys,
        folders,
        "shape of encoder.layer.0.intermediate.dense.weight: (2, 64, 256) in the file, "
        "(2, 64, 128) in the model",
        init_checkpoint=str(first),
        model_hparam_overrides={"num_hidden_layers": 1, "intermediate_size": 256},
    )
    missing = str(tmp_path / "missing")
    fails(capsys, folders, f"`init_checkpoint`: {missing} is neither", init_checkpoint=missing)
    other = tmp_path / "other"
    shutil.copytree(first / "discriminator", other)
    tokens = (other / "vocab.txt").read_text().replace("ding\n", "dingo\n")
    (other / "vocab.txt").write_text(tokens)
    (other / "tokenizer.json").unlink()
    fails(
        capsys,
        folders,
        f"the vocabulary of `init_checkpoint`, {other}/vocab.txt (64 tokens, SHA-256 ",
        init_checkpoint=str(other),
    )
    (other / "vocab.txt").write_text(tokens + "surplus\n")
    fails(capsys, folders, "(65 tokens, SHA-256 ", init_checkpoint=str(other))
    (other / "vocab.txt").unlink()
    content = json.loads((other / "config.json").read_text()) | {"vocab_size": 99}
    (other / "config.json").write_text(json.dumps(content))
    fails(
        capsys,
        folders,
        f"{other} has a vocabulary of 99 tokens, and this run one of 64",
        init_checkpoint=str(other),
    )
