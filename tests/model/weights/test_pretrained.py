import json
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from common.errors import InputError
from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForSequenceClassification,
    ConvBertModel,
)
from tests.support.huggingface import HUGGINGFACE, load
from tests.support.small_models import batch, make, pretraining_model

INPUTS = batch()


@pytest.mark.parametrize("name", ["tiny_relu", "tiny_ratio4"])
def test_encoder_from_transformers(name):
    inputs, golden = load(name)
    model = ConvBertModel.from_pretrained(HUGGINGFACE / name, mask_padding=False)
    seen = model.activations(inputs)
    np.testing.assert_allclose(seen["layers"][-1], golden["last_hidden_state"], atol=5e-5)
    for i, attention in enumerate(seen["attention"]):
        np.testing.assert_allclose(attention, golden[f"attentions_{i}"], atol=5e-5)


@pytest.mark.parametrize("fields", [{"linear_groups": 1}, {"conv_type": "noconv", "head_ratio": 1}])
def test_names_in_the_originals_checkpoints_are_one_to_one(fields):
    heads = [make(kind, **fields) for kind in ("joint question", "one label")]
    for network in (pretraining_model(**fields), *heads):
        rows = network.tensors()
        assert len({row.tf1_name for row in rows}) == len(network.trainable_variables)
        assert {id(row.variable) for row in rows} == {id(v) for v in network.trainable_variables}


def test_the_other_kind_of_head_is_an_error(tmp_path):
    make("one label").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r'"linear".* "mlp"'):
        ConvBertForSequenceClassification.from_pretrained(tmp_path, classifier_head="mlp")


def test_an_encoder_from_a_model_with_a_head(tmp_path):
    model = make("masked tokens")
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(
        ConvBertModel.from_pretrained(tmp_path)(INPUTS), model.convbert(INPUTS)
    )
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert "generator_lm_head.weight" not in tensors  # tied


def test_a_new_head_is_reported_and_drawn_from_the_seed(tmp_path, warnings):
    make("encoder").save_pretrained(tmp_path)
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        models.append(ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=3))
    np.testing.assert_array_equal(*(model(INPUTS) for model in models))
    assert "classifier.weight (3, 32)" in warnings[0]


def test_pretraining_saves_both_networks(tmp_path):
    model = pretraining_model()
    paths = model.save_pretrained(tmp_path)
    assert [Path(path).name for path in paths] == ["discriminator", "generator"]
    discriminator = ConvBertModel.from_pretrained(paths[0])
    np.testing.assert_array_equal(discriminator(INPUTS), model.discriminator(INPUTS))
    head = safetensors.numpy.load_file(Path(paths[0]) / "model.safetensors")
    np.testing.assert_array_equal(
        head["discriminator_predictions.dense_prediction.weight"].T,
        model.discriminator_head.prediction.kernel,
    )
    generator = ConvBertForMaskedLM.from_pretrained(paths[1])
    np.testing.assert_array_equal(generator(INPUTS), model.generator(INPUTS))


def test_the_small_generator_says_that_transformers_cannot_hold_it(tmp_path):
    config = ConvBertConfig.from_size("small", vocab_size=60, num_hidden_layers=1)
    ConvBertForMaskedLM(config.generator(0.25)).save_pretrained(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())["transformers_note"]
    assert "these tensors have 64" in note
    again = ConvBertForMaskedLM.from_pretrained(tmp_path)
    assert again.config.head_size == 64
