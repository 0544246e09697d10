"""A small pre-trained encoder and made-up tasks in GLUE's format."""

import json

import keras

from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertModel
from tests.support.files import write

WORDS = ["good", "bad", "the", "dog", "cat", "ran", "sat", "on", "a", "mat"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
NETWORK = {
    "vocab_size": len(VOCAB),
    "embedding_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


HPARAMS = {
    "max_seq_length": 16,
    "learning_rate": 0.003,
    "layerwise_lr_decay": 1.0,
    "num_train_epochs": 25.0,
    "train_batch_size": 15,
    "model_hparam_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


class Killed(BaseException):
    """Stands for `kill -9`: nothing after it happens."""


def save_encoder(data_dir, *model_names):
    """Writes the vocabulary, and the same random encoder for each model name."""
    (data_dir / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    keras.utils.set_random_seed(0)
    model = ConvBertModel(ConvBertConfig(**NETWORK))
    for name in model_names:
        directory = data_dir / "models" / name / "discriminator"
        model.save_pretrained(directory)
        ConvBertTokenizer(data_dir / "vocab.txt").save_pretrained(directory)


def write_tsv(folder, split, rows, header=None):
    """Writes a split's file."""
    lines = ([header] if header else []) + list(rows)
    write(folder / f"{split}.tsv", "\n".join(lines) + "\n")


def sentence(i):
    """Different sentences, of which every second one is "good"."""
    return f"the {WORDS[3 + i % 2]} {WORDS[5 + i % 3 % 2]} {('bad', 'good')[i % 2]}" + " mat" * (
        i % 4
    )


def write_data(data_dir):
    """CoLA, MRPC and STS-B files in GLUE's format; the texts are made up."""
    data = data_dir / "finetuning_data"
    pair_header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for split, count in (("train", 30), ("dev", 11)):
        rows = range(count)
        write_tsv(data / "cola", split, [f"x\t{i % 2}\t\t{sentence(i)}" for i in rows])
        pairs = [f"{i % 2}\t1\t2\t{sentence(i)}\tthe mat" for i in rows]
        write_tsv(data / "MRPC", split, pairs, pair_header)
        scores = [f"{i}\t{sentence(i)}\tthe mat\t{1 + 3 * (i % 2)}.0" for i in rows]
        write_tsv(data / "STS-B", split, scores, "index\tsentence1\tsentence2\tscore")
    write_tsv(data / "cola", "test", [f"{i}\t{sentence(i)}" for i in range(7)], "index\tsentence")
    tests = [f"{i}\t{sentence(i)}\tthe mat" for i in range(5)]
    write_tsv(data / "STS-B", "test", tests, "index\tsentence1\tsentence2")


def build_data_dir(directory, model_name="small_one"):
    """Makes `directory` a DATA_DIR with tasks, a vocabulary and an encoder. Returns it."""
    write_data(directory)
    save_encoder(directory, model_name)
    return directory


def arguments(data_dir, model_name, hparams, *tasks):
    """finetune.py's command line."""
    names = ["--data-dir", str(data_dir), "--model-name", model_name]
    return [*names, "--hparams", json.dumps(hparams), *tasks]


def read_results(model_dir, task, job=None):
    """A task's results, one for each trial."""
    return json.loads((model_dir / "results" / f"{job or task}_results.json").read_text())[task]


def read_predictions(model_dir, name):
    """The rows of a file of predictions: index, prediction, logits."""
    header, *rows = (model_dir / "test_predictions" / f"{name}.tsv").read_text().splitlines()
    assert header == "index\tprediction\tlogits"
    return [row.split("\t") for row in rows]
