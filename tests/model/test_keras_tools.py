"""What Keras does with any model: every public class goes through all of it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForMultipleChoice,
    ConvBertForPreTraining,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
    JointModel,
)
from model.config import Objective
from model.masking import SpecialTokens
from model.training.optimizer import create_optimizer

ROOT = Path(__file__).parents[2]
CONFIG = ConvBertConfig(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=48,
    linear_groups=2,
    max_position_embeddings=32,
    num_labels=3,
    id2label=("a", "b", "c"),
    initializer_range=0.3,
)
MODELS = {
    "encoder": ConvBertModel,
    "pre-training": lambda config, **kwargs: ConvBertForPreTraining(
        config, Objective(generator_hidden_size=0.5), SpecialTokens(1, 2, 3), **kwargs
    ),
    "masked tokens": ConvBertForMaskedLM,
    "linear": ConvBertForSequenceClassification,
    "mlp": lambda config, **kwargs: ConvBertForSequenceClassification(config, "mlp", **kwargs),
    "tokens": ConvBertForTokenClassification,
    "question": ConvBertForQuestionAnswering,
    "joint question": lambda config, **kwargs: ConvBertForQuestionAnswering(
        config, joint_prediction=True, beam_size=2, **kwargs
    ),
    "choice": ConvBertForMultipleChoice,
}
USED = [kind for kind in MODELS if kind != "pre-training"]
DENSE_LAYERS = ("query", "key", "value", "attention_output", "intermediate", "output_dense")


def make(kind, seed=0, **fields):
    keras.utils.set_random_seed(seed)
    dtype = fields.pop("dtype", None)
    return MODELS[kind](dataclasses.replace(CONFIG, **fields), dtype=dtype)


def batch(kind):
    """Inputs with every name, and targets; two examples, the second padded."""
    random = np.random.default_rng(0)
    shape = (2, 2, 6) if kind == "choice" else (2, 12)
    mask = np.ones(shape, "int32")
    mask[1, ..., -3:] = 0
    inputs = {
        "input_ids": random.integers(5, 60, shape).astype("int32") * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(shape[-1]) > 3).astype("int32") * mask,
    }
    positions = np.array([5, 4])
    spans = {"start_logits": positions, "end_logits": positions}
    targets = {
        "encoder": np.zeros((2, 12, 32), "float32"),
        "masked tokens": np.full((2, 12), 7),
        "tokens": np.full((2, 12), 2),
        "question": spans,
        "joint question": spans | {"answerable_logits": np.zeros(2, "float32")},
        "pre-training": None,
    }
    if kind == "joint question":
        inputs["start_positions"] = positions.astype("int32")
    return inputs, targets.get(kind, np.array([1, 0]))


def usual(kind):
    """The inputs of `batch` that the model reads when it is used."""
    return {name: array for name, array in batch(kind)[0].items() if name != "start_positions"}


def compiled(model):
    """With the project's optimizer and the model's objective; test_heads.py uses graphs."""
    objective = {}
    if isinstance(model, ConvBertModel):
        objective = {"loss": "mse"}
    elif not isinstance(model, ConvBertForPreTraining):
        objective = model.objective()
    model.compile(create_optimizer(1e-2, 100), **objective, run_eagerly=True)
    return model


def outputs_of(model, inputs):
    outputs = keras.tree.flatten(model(inputs))
    return [keras.ops.convert_to_numpy(array) for array in outputs]


def assert_equal_outputs(first, second, inputs):
    for model in (first, second):  # masks are drawn, each time others
        if isinstance(model, ConvBertForPreTraining):
            model.eval_random.state.assign(keras.random.SeedGenerator(5).state)
    for array, expected in zip(outputs_of(first, inputs), outputs_of(second, inputs), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_keras_takes_it_as_any_model(kind, tmp_path):
    inputs, targets = batch(kind)
    model = make(kind)
    model.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")
    assert again.get_config() == model.get_config()
    assert_equal_outputs(again, model, usual(kind))

    symbolic = {name: keras.Input(array.shape[1:], dtype="int32") for name, array in inputs.items()}
    seen = keras.tree.map_structure(lambda output: tuple(output.shape[1:]), model(symbolic))
    eager = keras.tree.map_structure(lambda output: tuple(output.shape[1:]), model(inputs))
    assert seen == eager

    before = model.get_weights()
    compiled(model).fit(inputs, targets, verbose=0)
    assert all(np.isfinite(array).all() for array in model.get_weights())
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras")
    assert_equal_outputs(again, model, usual(kind))
    assert int(again.optimizer.iterations) == 1
    for ours, theirs in zip(again.optimizer.moments(), model.optimizer.moments(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", MODELS)
def test_mixed_precision_has_the_same_shapes_and_float32_weights(kind):
    inputs, targets = batch(kind)
    half = make(kind, dtype="mixed_bfloat16")
    single = keras.tree.map_structure(lambda output: output.shape, make(kind)(inputs))
    assert keras.tree.map_structure(lambda output: output.shape, half(inputs)) == single
    compiled(half).fit(inputs, targets, verbose=0)
    assert {v.dtype for v in half.trainable_variables} == {"float32"}


def test_mixed_precision_is_kept(tmp_path):
    half = make("tokens", dtype="mixed_bfloat16")
    half.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    assert again.dtype_policy.name == again.encoder().dtype_policy.name == "mixed_bfloat16"
    assert_equal_outputs(again, half, batch("tokens")[0])


def test_a_fresh_process_loads_any_class(tmp_path):
    model = compiled(make("joint question"))
    model.save(tmp_path / "model.keras")
    program = f"""import keras, model
loaded = keras.models.load_model({str(tmp_path / "model.keras")!r})
print(type(loaded).__name__, type(loaded.optimizer).__name__)"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["ConvBertForQuestionAnswering", "AdamWeightDecay"], done.stderr


@pytest.mark.parametrize("kind", ["joint question", "choice"])
def test_export_takes_rows_of_any_length(kind, tmp_path):
    model = make(kind)
    model.export(tmp_path / "exported", verbose=False)
    artifact = tf.saved_model.load(str(tmp_path / "exported"))
    inputs = usual(kind)
    for rows in (inputs, {name: array[:1, ..., :5] for name, array in inputs.items()}):
        expected = keras.tree.flatten(model(rows))
        for array, wanted in zip(keras.tree.flatten(artifact.serve(rows)), expected, strict=True):
            np.testing.assert_allclose(array, wanted, atol=1e-5)


def test_the_summary_shows_encoder_and_head():
    lines = []
    model = make("tokens")
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    rows = {
        "convbert (ConvBertModel)": ("(None, None, 32)", model.convbert),
        "embeddings (Embeddings)": ("(None, None, 16)", model.convbert.embeddings),
        "layer_0 (EncoderLayer)": ("(None, None, 32)", model.convbert.encoder_layers[0]),
        "classifier (ClassificationHead)": ("(None, None, 3)", model.classifier),
    }
    for name, (shape, layer) in rows.items():
        (row,) = (line for line in text.splitlines() if name in line)
        assert shape in row
        assert f"{layer.count_params():,}" in row


@pytest.mark.parametrize(("kind", "groups"), [("linear", 2), ("linear", 1), ("encoder", 2)])
def test_lora_trains_updates_and_head_alone(kind, groups, tmp_path):
    inputs, targets = batch(kind)
    model, plain = make(kind, linear_groups=groups), make(kind, linear_groups=groups)
    model.enable_lora(2, alpha=4)
    assert_equal_outputs(model, plain, inputs)
    names = [variable.name for variable in model.trainable_variables]
    assert names.count("lora_kernel_a") == names.count("lora_kernel_b") == len(DENSE_LAYERS)
    head = [] if kind == "encoder" else ["kernel", "bias"]
    assert sorted(name for name in names if not name.startswith("lora")) == sorted(head)
    frozen = [v for v in model.encoder().variables if not v.name.startswith("lora")]
    before = [np.array(variable) for variable in frozen]
    compiled(model).fit(inputs, targets, epochs=3, verbose=0)
    for variable, array in zip(frozen, before, strict=True):
        if "seed_generator" not in variable.path:
            np.testing.assert_array_equal(variable, array)
    for layer in model.encoder().encoder_layers[0].dense_layers().values():
        assert np.abs(layer.lora_kernel_b).max() > 0, layer.path

    model.save_pretrained(tmp_path / "saved")
    model.save(tmp_path / "model.keras")
    trained = outputs_of(model, inputs)
    assert np.abs(trained[0] - outputs_of(plain, inputs)[0]).max() > 1e-4
    for again in (
        type(model).from_pretrained(tmp_path / "saved"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        np.testing.assert_array_equal(outputs_of(again, inputs)[0], trained[0])
        assert getattr(again, "optimizer", None) is None
        again.enable_lora(2)


def test_lora_merges_in_float32(tmp_path):
    model = make("linear", dtype="mixed_bfloat16")
    model.enable_lora(2, alpha=4)
    random = np.random.default_rng(0)
    layers = model.encoder().encoder_layers[0].dense_layers()
    expected = {}
    for name, layer in layers.items():
        a, b = (random.normal(size=v.shape) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
        layer.lora_kernel_a.assign(a)
        layer.lora_kernel_b.assign(b)
        kernel = next(np.array(v) for v in layer.weights if v.name == "kernel")
        expected[name] = kernel + 2 * (a @ b)
    model.save_pretrained(tmp_path)
    again = ConvBertForSequenceClassification.from_pretrained(tmp_path)
    for name, layer in again.encoder().encoder_layers[0].dense_layers().items():
        np.testing.assert_allclose(layer.kernel, expected[name], atol=1e-5)


@pytest.mark.parametrize(("kind", "groups"), [("tokens", 2), ("question", 1)])
def test_int8_stays_near_and_is_kept(kind, groups, tmp_path):
    inputs, _ = batch(kind)
    model, exact = make(kind, linear_groups=groups), make(kind, linear_groups=groups)
    model.quantize("int8")
    for name, layer in model.encoder().encoder_layers[0].dense_layers().items():
        (kernel,) = (v for v in layer.weights if v.name == "kernel")
        assert (name, kernel.dtype) == (name, "int8")
    for array, expected in zip(outputs_of(model, inputs), outputs_of(exact, inputs), strict=True):
        difference = np.abs(array - expected)
        assert 0 < difference.max() < 0.05 * np.abs(expected[expected > -1000]).max()
    model.save(tmp_path / "int8.keras")
    again = keras.models.load_model(tmp_path / "int8.keras")
    assert_equal_outputs(again, model, inputs)
    again.compile(optimizer=None, jit_compile=False)
    graph = keras.tree.flatten(again.predict(inputs, verbose=0))
    for array, expected in zip(graph, outputs_of(model, inputs), strict=True):
        np.testing.assert_allclose(array, expected, atol=2e-2)


def test_an_int8_model_can_be_exported(tmp_path):
    inputs, _ = batch("linear")
    model = make("linear", linear_groups=1)
    model.quantize("int8")
    model.export(tmp_path / "exported", verbose=False)
    artifact = tf.saved_model.load(str(tmp_path / "exported"))
    served = keras.tree.flatten(artifact.serve(inputs))
    for array, expected in zip(served, outputs_of(model, inputs), strict=True):
        np.testing.assert_allclose(array, expected, atol=2e-2)


def test_int8_kernels_with_inputs_in_floats_are_kept(tmp_path):
    inputs, _ = batch("linear")
    model = make("linear", linear_groups=1)
    exact = outputs_of(model, inputs)[0]
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=config)
    model.save(tmp_path / "int8.keras")
    again = keras.models.load_model(tmp_path / "int8.keras")
    assert_equal_outputs(again, model, inputs)
    assert 0 < np.abs(outputs_of(again, inputs)[0] - exact).max() < 0.02 * np.abs(exact).max()


def test_what_does_not_work_says_so(tmp_path):
    model = make("linear")
    for call, message in (
        (lambda: model.quantize("int4"), 'must be "int8"'),
        (lambda: model.quantize("int8", filters="layer_0"), "takes no `filters`"),
        (lambda: model.enable_lora(0), "`rank` must be a positive integer"),
        (lambda: make("linear", dtype="int8_from_float32"), "`dtype` cannot be int8_from_float32"),
        (
            lambda: make("pre-training").quantize("int8"),
            "ConvBertForPreTraining cannot be quantized",
        ),
        (lambda: make("pre-training").export(tmp_path), "cannot be exported"),
        (lambda: JointModel({"a": model}).save(tmp_path / "a.keras"), "save each of its heads"),
        (lambda: compiled(make("linear")).enable_lora(2), "enable_lora before compile"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    model.enable_lora(2)
    with pytest.raises(InputError, match="already has low-rank updates"):
        model.enable_lora(2)
    with pytest.raises(InputError, match="merge the low-rank updates"):
        model.quantize("int8")
    model = make("linear")
    model.quantize("int8")
    with pytest.raises(InputError, match=r"layer_0/.*query is quantized \(int8\)"):
        model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="enable_lora before quantize"):
        model.enable_lora(2)
