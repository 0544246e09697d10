import base64
import json

import keras
import numpy as np
import pytest

from common.errors import InputError
from model import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel
from model.layers.heads import DiscriminatorHead
from model.weights import pretrained
from scripts import visualize
from tests.support import random_models
from tests.support.pages import Page
from tests.support.random_models import NETWORK, VOCAB


def run(directory, *arguments):
    """Runs the script; returns the page and its data."""
    output = directory.parent / "page.html"
    visualize.main([str(directory), *arguments, "--output", str(output)])
    page = Page(output.read_text(encoding="utf-8"))
    return page, json.loads(page.texts["data"])


def decode(data, name, width):
    numbers = np.frombuffer(base64.b64decode(data[name]), "<u2") / 65535
    return numbers.reshape(data["layers"], data["heads"], len(data["tokens"]), width)


def test_a_discriminator_reads_a_pair(tmp_path, capsys):
    keras.utils.set_random_seed(3)
    encoder = ConvBertModel(ConvBertConfig(**NETWORK))
    head = DiscriminatorHead(encoder.config)
    head.build((None, None, encoder.config.hidden_size))
    directory = tmp_path / "discriminator"
    random_models.save(directory, ConvBertModel, lower=False)
    tensors = encoder.tensors() + pretrained.discriminator_tensors(head)
    pretrained.save(directory, encoder.config, tensors, "ConvBertModel")

    page, data = run(directory, "a Hx H", "b </script><script> c")
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert page.count("script") == 2 and data["texts"][1] == "b </script><script> c"
    for name in ("replaced", "controls", "attention", "matrix", "kernels", "overview", "data"):
        assert page.ids().count(name) == 1
    tokens = ["[CLS]", "a", "H", "##x", "H", "[SEP]", "b", *["[UNK]"] * 7, "c", "[SEP]"]
    assert data["tokens"] == tokens and data["segments"] == [0] * 6 + [1] * 10
    assert (data["layers"], data["heads"], data["taps"], data["cut"]) == (2, 1, 9, 0)

    ids = np.array([[VOCAB.index(token) for token in tokens]])
    seen = encoder.activations({"input_ids": ids, "segment_ids": np.array([data["segments"]])})
    attention, kernels = decode(data, "attention", 16), decode(data, "kernels", 9)
    for layer in range(2):
        expected = np.asarray(seen["attention"][layer])[0]
        np.testing.assert_allclose(attention[layer], expected, atol=1e-5)
        expected = np.asarray(seen["conv_kernel"][layer])[0].transpose(1, 0, 2)
        np.testing.assert_allclose(kernels[layer], expected, atol=1e-5)
    logits = np.asarray(head(seen["layers"][-1]))[0]
    np.testing.assert_allclose(data["replaced"], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_a_classifier_without_convolutions_and_a_long_text(tmp_path, caplog):
    fields = {"conv_type": "noconv", "head_ratio": 1}
    random_models.save(tmp_path / "m", ConvBertForSequenceClassification, max_length=16, **fields)
    _, data = run(tmp_path / "m", "A b " * 20)
    assert data["tokens"] == ["[CLS]", *["a", "b"] * 7, "[SEP]"] and data["cut"] == 26
    assert data["replaced"] is None and data["taps"] == 0 and data["kernels"] == ""
    assert data["heads"] == 2
    np.testing.assert_allclose(decode(data, "attention", 16).sum(axis=-1), 1.0, atol=1e-3)
    _, data = run(tmp_path / "m", "a b " * 20, "--max-seq-length", "6")
    assert data["tokens"] == ["[CLS]", "a", "b", "a", "b", "[SEP]"] and data["cut"] == 36
    assert "36 of 42 tokens do not fit into 6" in caplog.text


def test_wrong_arguments(tmp_path):
    with pytest.raises(InputError, match=r"--output.*\.html"):
        visualize.main(["m", "text", "--output", "page.png"])
    with pytest.raises(InputError, match="expected text in TEXT, got none"):
        visualize.main(["m", " ", "--output", str(tmp_path / "page.html")])
    with pytest.raises(InputError, match="max_seq_length"):
        visualize.main(["m", "text", "--max-seq-length", "4"])
