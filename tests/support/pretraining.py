"""Small pre-training runs on records of a made-up corpus."""

import json

import safetensors.numpy

import pretrain
from data.corpus import sources
from data.records import build, build_shard
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


# What an evaluation computes.
SCORES = {
    "loss",
    "mlm_loss",
    "mlm_accuracy",
    "sampled_mlm_accuracy",
    "rtd_loss",
    "rtd_auc",
    "rtd_accuracy",
    "rtd_precision",
    "rtd_recall",
}


def build_data_dir(
    folder, num_archives=2, documents_each=4, max_seq_length=24, seed=0, more_tokens=()
):
    """Makes `folder` a data directory: a vocabulary, a corpus and its records. Returns it."""
    folder.mkdir(exist_ok=True)
    vocab_file = corpora.write_vocab(folder / "vocab.txt")
    with vocab_file.open("a") as file:
        file.writelines(f"{token}\n" for token in more_tokens)
    archives = corpora.random_archives(num_archives, documents_each, seed)
    (folder / "openwebtext.tar").write_bytes(corpora.openwebtext_of(archives))
    options = build_shard.BuildOptions(vocab_file=str(vocab_file), max_seq_length=max_seq_length)
    build.build_records(sources.find_corpus(folder), options, folder / "pretrain_tfrecords")
    return folder


def arguments(data_dir, name="model", **hparams):
    """The command line of a run: `HPARAMS`, changed by `hparams`."""
    text = json.dumps(HPARAMS | hparams)
    return ["--data-dir", str(data_dir), "--model-name", name, "--hparams", text]


def run(data_dir, name="model", **hparams):
    """Runs pretrain.py's `main`; returns the run's directory."""
    pretrain.main(arguments(data_dir, name, **hparams))
    return data_dir / "models" / name


def log_lines(run_dir):
    """The objects in the run's log."""
    return [json.loads(line) for line in (run_dir / "train_log.jsonl").open()]


def weights(run_dir, networks=("discriminator", "generator")):
    """The tensors of the saved models, by (network, name)."""
    return {
        (network, name): value
        for network in networks
        for name, value in safetensors.numpy.load_file(
            run_dir / network / "model.safetensors"
        ).items()
    }


def tree(directory):
    """All paths below `directory`, each with the time of its last change if it is a file."""
    paths = directory.rglob("*")  # a lock file changes the times of folders
    return {path: path.stat().st_mtime_ns if path.is_file() else None for path in paths}
