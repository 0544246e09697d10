import json
import logging
import shutil
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
    ConvBertForSequenceClassification,
    ConvBertModel,
)
from model.config import Objective

HUGGINGFACE = Path(__file__).parents[2] / "goldens" / "huggingface"
INPUTS = {"input_ids": np.arange(5, 25).reshape(2, 10)}


def tiny(**overrides):
    return ConvBertConfig.from_size(
        "tiny", vocab_size=60, max_position_embeddings=32, num_hidden_layers=2, **overrides
    )


def huggingface(name):
    """The directory, our names for the inputs of the golden, and its arrays."""
    with np.load(HUGGINGFACE / f"{name}.npz") as file:
        golden = dict(file)
    ours = {"input_ids": "input_ids", "attention_mask": "input_mask"}
    ours["token_type_ids"] = "segment_ids"
    return HUGGINGFACE / name, {ours[key]: golden[key] for key in ours}, golden


@pytest.mark.parametrize("name", ["tiny_relu", "tiny_ratio4"])
def test_encoder_from_transformers(name):
    directory, inputs, golden = huggingface(name)
    model = ConvBertModel.from_pretrained(directory, mask_padding=False)
    seen = model.activations(inputs)
    np.testing.assert_allclose(seen["layers"][-1], golden["last_hidden_state"], atol=5e-5)
    for i, attention in enumerate(seen["attention"]):
        np.testing.assert_allclose(attention, golden[f"attentions_{i}"], atol=5e-5)


def test_regression_from_transformers():
    directory, inputs, golden = huggingface("tiny_regression")
    model = ConvBertForSequenceClassification.from_pretrained(directory, mask_padding=False)
    assert model.classifier.kind == "mlp"
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    logits = np.asarray(model(inputs))
    np.testing.assert_allclose(logits, golden["logits"], atol=5e-5)
    loss = np.mean((logits[:, 0] - golden["labels"]) ** 2)
    assert loss == pytest.approx(float(golden["loss"]), abs=5e-5)


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
    with pytest.raises(InputError, match='has the "linear" classifier head; asked for was "mlp"'):
        ConvBertForSequenceClassification.from_pretrained(tmp_path, classifier_head="mlp")


def test_masked_lm_round_trip(tmp_path):
    model = ConvBertForMaskedLM(tiny())
    model.save_pretrained(tmp_path)
    again = ConvBertForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(INPUTS), model(INPUTS))
    assert "generator_lm_head.weight" not in safetensors.numpy.load_file(
        tmp_path / "model.safetensors"
    )  # tied


def test_a_new_head_is_reported_and_drawn_from_the_seed(tmp_path, caplog):
    ConvBertModel(tiny()).save_pretrained(tmp_path)
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        with caplog.at_level(logging.WARNING):
            models.append(ConvBertForSequenceClassification.from_pretrained(tmp_path, num_labels=3))
    np.testing.assert_array_equal(*(model(INPUTS) for model in models))
    assert models[0].config.num_labels == 3


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    ConvBertModel(tiny()).save_pretrained(directory)
    return directory


@pytest.fixture
def broken(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_missing_files_are_named(tmp_path, broken):
    with pytest.raises(InputError, match=r"no such directory: .*nowhere"):
        ConvBertModel.from_pretrained(tmp_path / "nowhere")
    (broken / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no such file: .*model\.safetensors"):
        ConvBertModel.from_pretrained(broken)


def test_a_file_cut_in_half_is_named(broken):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        ConvBertModel.from_pretrained(broken)


def test_a_broken_config_is_named(broken):
    path = broken / "config.json"
    fields = json.loads(path.read_text())
    for change, message in (
        ({"model_type": "bert"}, '`model_type` is "bert", not "convbert"'),
        ({"hidden_size": "wide"}, "`hidden_size` must be an integer"),
    ):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(InputError, match=f"config.json: {message}"):
            ConvBertModel.from_pretrained(broken)
    path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        ConvBertModel.from_pretrained(broken)


def test_tensors_that_do_not_fit_are_listed(broken):
    path = broken / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    del arrays["encoder.layer.1.output.dense.bias"]
    arrays["encoder.layer.7.output.dense.bias"] = np.zeros(3, "float32")
    arrays["embeddings.word_embeddings.weight"] = np.zeros((50, 128), "float32")
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(InputError) as error:
        ConvBertModel.from_pretrained(broken)
    for part in (
        "shape of embeddings.word_embeddings.weight: (50, 128) in the file, (60, 128) in the model",
        "missing: encoder.layer.1.output.dense.bias (128,)",
        "unexpected: encoder.layer.7.output.dense.bias (3,)",
    ):
        assert part in str(error.value)
