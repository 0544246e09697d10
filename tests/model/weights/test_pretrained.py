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
    ConvBertForPreTraining,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertModel,
)
from model.config import Objective
from tests.support.huggingface import HUGGINGFACE, load

INPUTS = {"input_ids": np.arange(5, 25).reshape(2, 10)}


def tiny(**overrides):
    return ConvBertConfig.from_size(
        "tiny", vocab_size=60, max_position_embeddings=32, num_hidden_layers=2, **overrides
    )


@pytest.mark.parametrize("name", ["tiny_relu", "tiny_ratio4"])
def test_encoder_from_transformers(name):
    inputs, golden = load(name)
    model = ConvBertModel.from_pretrained(HUGGINGFACE / name, mask_padding=False)
    seen = model.activations(inputs)
    np.testing.assert_allclose(seen["layers"][-1], golden["last_hidden_state"], atol=5e-5)
    for i, attention in enumerate(seen["attention"]):
        np.testing.assert_allclose(attention, golden[f"attentions_{i}"], atol=5e-5)


def test_regression_from_transformers():
    model = ConvBertForSequenceClassification.from_pretrained(HUGGINGFACE / "tiny_regression")
    assert model.classifier.kind == "mlp"
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


@pytest.mark.parametrize(
    "objective", [{}, {"untied_generator": False}, {"uniform_generator": True}]
)
@pytest.mark.parametrize("fields", [{"linear_groups": 1}, {"conv_type": "noconv", "head_ratio": 1}])
def test_names_in_the_originals_checkpoints_are_one_to_one(fields, objective):
    config = tiny(**fields)
    model = ConvBertForPreTraining(config, Objective(generator_hidden_size=0.5, **objective))
    encoder = model.discriminator
    answers = ConvBertForQuestionAnswering(config, joint_prediction=True, convbert=encoder)
    for network in (model, answers, ConvBertForSequenceClassification(config, convbert=encoder)):
        rows = network.tensors()
        assert len({row.tf1_name for row in rows}) == len(network.trainable_variables)
        assert {id(row.variable) for row in rows} == {id(v) for v in network.trainable_variables}
    for _, rows, _ in model.saved_models().values():
        assert len({row.hf_name for row in rows}) == len({id(row.variable) for row in rows})


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_classifier_round_trip(tmp_path, head):
    config = tiny(num_labels=3, id2label=("a", "b", "c"), linear_groups=2)
    model = ConvBertForSequenceClassification(config, classifier_head=head)
    model.save_pretrained(tmp_path)
    again = ConvBertForSequenceClassification.from_pretrained(tmp_path)
    assert (again.config, again.classifier.kind) == (config, head)
    np.testing.assert_array_equal(again(INPUTS), model(INPUTS))
    encoder = ConvBertModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(encoder(INPUTS), model.convbert(INPUTS))


def test_the_other_kind_of_head_is_an_error(tmp_path):
    ConvBertForSequenceClassification(tiny()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r'"linear".* "mlp"'):
        ConvBertForSequenceClassification.from_pretrained(tmp_path, classifier_head="mlp")


def test_masked_lm_round_trip(tmp_path):
    model = ConvBertForMaskedLM(tiny())
    model.save_pretrained(tmp_path)
    again = ConvBertForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(INPUTS), model(INPUTS))
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert "generator_lm_head.weight" not in tensors  # tied


def test_a_new_head_is_reported_and_drawn_from_the_seed(tmp_path, warnings):
    ConvBertModel(tiny()).save_pretrained(tmp_path)
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        models.append(ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=3))
    np.testing.assert_array_equal(*(model(INPUTS) for model in models))
    assert "classifier.weight (3, 128)" in warnings[0]


def test_pretraining_saves_both_networks(tmp_path):
    model = ConvBertForPreTraining(tiny(), Objective(generator_hidden_size=0.5))
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
