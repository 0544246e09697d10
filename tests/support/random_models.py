"""Random models and what they should compute, for the tests of pipelines."""

import json
import pathlib

import keras
import numpy as np
import pytest

import finetune
from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel
from pipelines import command_line
from tests.support.eager import eagerly

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "H", "[", "]", "mask"]
NETWORK = {
    "vocab_size": len(VOCAB),
    "embedding_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}


def save(directory, kind=ConvBertForMaskedLM, max_length=64, lower=True, seed=0, **fields):
    """A random model's directory; the model is returned."""
    keras.utils.set_random_seed(seed)
    model = kind(ConvBertConfig(**(NETWORK | fields)))
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = ConvBertTokenizer(directory / "vocab.txt", do_lower_case=lower)
    tokenizer.save_pretrained(directory, max_length)
    return model


def rows_of(*texts):
    """Token ids of texts written as tokens with spaces between them, without padding."""
    for text in texts:
        yield np.array([[VOCAB.index(token) for token in f"[CLS] {text} [SEP]".split()]])


def softmax(logits):
    """The softmax over the last axis, as float64."""
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def run_with(pipeline, script, directory, monkeypatch, capsys):
    """A function that runs a script on a model that is loaded already, and returns what it prints.

    Arguments, `directory` first, become strings.
    """
    monkeypatch.setattr(command_line, "load_pipeline", lambda *_, **options: pipeline)

    def run(*arguments):
        script.main([str(directory), *map(str, arguments)])
        return capsys.readouterr().out

    return run


def from_lines(text):
    """The objects of JSON lines."""
    return list(map(json.loads, text.splitlines()))


def assert_close(found, expected):
    """Compares nested lists and dicts; fractions up to 1e-5, and all else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), [expected[name] for name in found]
    if isinstance(expected, list | np.ndarray):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        is_fraction = isinstance(expected, float | np.floating)
        assert found == (pytest.approx(expected, abs=1e-5) if is_fraction else expected)


def finetune_at_random(directory, fields, split_files, **hparams):
    """Runs finetune.py on a task, "mine", without training the model.

    Args:
        directory: an empty one; it becomes DATA_DIR.
        fields: those of the task's JSON file.
        split_files: the texts of the training and the test file, by name.
        **hparams: hyper-parameters.

    Returns:
        The model's directory; and the path of its predictions for the test file.
    """
    encoder = directory / "models" / "m" / "discriminator"
    save(encoder, ConvBertModel, num_hidden_layers=1)
    (directory / "finetuning_data" / "mine").mkdir(parents=True)
    for name, text in split_files.items():
        (directory / "finetuning_data" / "mine" / name).write_text(text, encoding="utf-8")
    (directory / "mine.json").write_text(json.dumps(fields))
    hparams = {"do_eval": False, "train_batch_size": 2, "max_seq_length": 16} | hparams
    with eagerly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "train", lambda *_: {})
        names = ["--data-dir", str(directory), "--model-name", "m", str(directory / "mine.json")]
        finetune.main([*names, "--hparams", json.dumps(hparams)])
    done = pathlib.Path(directory / "models" / "m")
    return done / "finetuning_models" / "mine_1", done / "test_predictions" / "mine_test_1.tsv"
