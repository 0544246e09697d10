"""What Keras does with any model: every public class goes through all of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import InputError
from model import ConvBertForPreTraining, ConvBertModel, JointModel
from model.training.optimizer import create_optimizer
from tests.support import small_models
from tests.support.processes import run_python
from tests.support.small_models import batch, inputs_of, make, pretraining_model, training_batch

KINDS = [kind for kind in small_models.KINDS if kind not in ("several labels", "regression")]
DENSE_LAYERS = ("query", "key", "value", "attention_output", "intermediate", "output_dense")


def make_any(kind, dtype=None):
    """A model of any kind, or one for pre-training; its inputs and targets."""
    if kind == "pre-training":
        model = pretraining_model(5, hidden_size=32, embedding_size=16, options={"dtype": dtype})
        return model, batch(), None
    return make(kind, dtype=dtype), *training_batch(kind)


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


@pytest.mark.parametrize("kind", [*KINDS, "pre-training"])
def test_keras_takes_it_as_any_model(kind, tmp_path):
    model, inputs, targets = make_any(kind)
    used = {name: array for name, array in inputs.items() if name != "start_positions"}
    model.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")
    assert again.get_config() == model.get_config()
    assert_equal_outputs(again, model, used)

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
    del used["input_mask"]  # inputs that were present in training may be missing
    assert_equal_outputs(again, model, used)
    assert int(again.optimizer.iterations) == 1
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", [*KINDS, "pre-training"])
def test_mixed_precision_has_the_same_shapes_and_float32_weights(kind, tmp_path):
    half, inputs, targets = make_any(kind, dtype="mixed_bfloat16")
    single = keras.tree.map_structure(lambda output: output.shape, make_any(kind)[0](inputs))
    assert keras.tree.map_structure(lambda output: output.shape, half(inputs)) == single
    compiled(half).fit(inputs, targets, verbose=0)
    assert {v.dtype for v in half.trainable_variables} == {"float32"}
    if kind == "tokens":
        half.save(tmp_path / "half.keras")
        again = keras.models.load_model(tmp_path / "half.keras")
        assert again.dtype_policy.name == again.encoder().dtype_policy.name == "mixed_bfloat16"
        assert_equal_outputs(again, half, inputs)


def test_a_fresh_process_loads_any_class(tmp_path):
    model = compiled(make("joint question"))
    model.save(tmp_path / "model.keras")
    program = f"""from common import lean_imports
lean_imports.install()
import keras, model
loaded = keras.models.load_model({str(tmp_path / "model.keras")!r})
print(type(loaded).__name__, type(loaded.optimizer).__name__)"""
    found = run_python("-c", program).stdout.split()
    assert found == ["ConvBertForQuestionAnswering", "AdamWeightDecay"]


@pytest.mark.parametrize(("kind", "int8"), [("joint question", False), ("choice", True)])
def test_export_takes_rows_of_any_length(kind, int8, tmp_path):
    model = make(kind, linear_groups=1)
    if int8:
        model.quantize("int8")
    model.export(tmp_path / "exported", verbose=False)
    artifact = tf.saved_model.load(str(tmp_path / "exported"))
    inputs = inputs_of(kind)
    for rows in (inputs, {name: array[:1, ..., :5] for name, array in inputs.items()}):
        expected = keras.tree.flatten(model(rows))
        for array, wanted in zip(keras.tree.flatten(artifact.serve(rows)), expected, strict=True):
            np.testing.assert_allclose(array, wanted, atol=2e-2 if int8 else 1e-5)


def test_the_summary_shows_encoder_and_head():
    lines = []
    model = make("tokens")
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    rows = {
        "convbert (ConvBertModel)": ("(None, None, 32)", model.convbert),
        "embeddings (Embeddings)": ("(None, None, 16)", model.convbert.embeddings),
        "layer_0 (EncoderLayer)": ("(None, None, 32)", model.convbert.encoder_layers[0]),
        "classifier (ClassificationHead)": ("(None, None, 5)", model.classifier),
    }
    for name, (shape, layer) in rows.items():
        (row,) = (line for line in text.splitlines() if name in line)
        assert shape in row
        assert f"{layer.count_params():,}" in row


@pytest.mark.parametrize(("kind", "groups"), [("one label", 2), ("one label", 1), ("encoder", 2)])
def test_lora_trains_updates_and_head_alone(kind, groups, tmp_path):
    inputs, targets = training_batch(kind)
    model, plain = (make(kind, linear_groups=groups) for _ in range(2))
    model.enable_lora(2, alpha=4)
    assert_equal_outputs(model, plain, inputs)
    names = [variable.name for variable in model.trainable_variables]
    assert names.count("lora_kernel_a") == names.count("lora_kernel_b") == len(DENSE_LAYERS)
    head = [] if kind == "encoder" else ["kernel", "bias"]
    assert [name for name in names if not name.startswith("lora")] == head
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


@pytest.mark.parametrize("groups", [2, 1])
def test_lora_goes_on_after_weights_are_loaded(groups, tmp_path):
    inputs, targets = training_batch("one label")

    def new():
        model = make("one label", linear_groups=groups)
        model.enable_lora(2, alpha=4)
        return compiled(model)

    model = new()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    model.fit(inputs, targets, epochs=2, verbose=0, callbacks=[backup])
    model.save_weights(tmp_path / "saved.weights.h5")
    restored, loaded = new(), new()
    restored.fit(inputs, targets, epochs=2, verbose=0, callbacks=[backup])  # nothing is left to do
    loaded.load_weights(tmp_path / "saved.weights.h5")
    for again in (restored, loaded):
        for array, expected in zip(
            outputs_of(again, inputs), outputs_of(model, inputs), strict=True
        ):
            np.testing.assert_allclose(array, expected, atol=1e-6)
        again.fit(inputs, targets, epochs=4, verbose=0)
        for layer in again.encoder().encoder_layers[0].dense_layers().values():
            assert np.abs(layer.lora_kernel_b).max() > 0, layer.path  # trained again


def test_lora_merges_in_float32(tmp_path):
    model = make("one label", dtype="mixed_bfloat16")
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
    again = type(model).from_pretrained(tmp_path)
    for name, layer in again.encoder().encoder_layers[0].dense_layers().items():
        np.testing.assert_allclose(layer.kernel, expected[name], atol=1e-5)


@pytest.mark.parametrize(("kind", "groups"), [("tokens", 2), ("question", 1)])
def test_int8_stays_near_and_is_kept(kind, groups, tmp_path):
    inputs = batch()
    model, exact = (make(kind, linear_groups=groups) for _ in range(2))
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


def test_int8_kernels_with_inputs_in_floats_are_kept(tmp_path):
    model = make("one label", linear_groups=1)
    exact = np.array(model(batch()))
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=config)
    model.save(tmp_path / "int8.keras")
    again = keras.models.load_model(tmp_path / "int8.keras")
    assert_equal_outputs(again, model, batch())
    assert 0 < np.abs(again(batch()) - exact).max() < 0.02 * np.abs(exact).max()


def test_what_does_not_work_says_so(tmp_path):
    model = make("mlp")
    for call, message in (
        (lambda: model.quantize("int4"), 'must be "int8"'),
        (lambda: model.quantize("int8", filters="layer_0"), "takes no `filters`"),
        (lambda: model.enable_lora(0), "`rank` must be a positive integer"),
        (lambda: model.enable_lora(10_000), "`rank` must be at most 32"),
        (lambda: make("mlp", dtype="int8_from_float32"), "`dtype` cannot be int8_from_float32"),
        (
            lambda: pretraining_model().quantize("int8"),
            "ConvBertForPreTraining cannot be quantized",
        ),
        (lambda: pretraining_model().export(tmp_path), "cannot be exported"),
        (lambda: JointModel({"a": model}).save(tmp_path / "a.keras"), "save each of its heads"),
        (lambda: compiled(make("mlp")).enable_lora(2), "enable_lora before compile"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    model.enable_lora(2)
    with pytest.raises(InputError, match="already has low-rank updates"):
        model.enable_lora(2)
    with pytest.raises(InputError, match="merge the low-rank updates"):
        model.quantize("int8")
    model = make("mlp")
    model.quantize("int8")
    with pytest.raises(InputError, match=r"layer_0/.*query is quantized \(int8\)"):
        model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="enable_lora before quantize"):
        model.enable_lora(2)
    compiled(model)
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(InputError, match="a quantized model cannot be trained"):
            train(*training_batch("mlp"))


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("encoder", {"input_ids": (6,)}),
        ("encoder", {"input_ids": (2, 3, 6)}),
        ("one label", {"input_ids": (2, 6), "input_mask": (2, 5)}),
        ("tokens", {"input_ids": (2, 6), "segment_ids": (3, 6)}),
        ("masked tokens", {"input_ids": (2, 6), "input_mask": (6,)}),
        ("choice", {"input_ids": (2, 6)}),
        ("pre-training", {"input_ids": (6,)}),
    ],
)
def test_arrays_of_other_axes(kind, shapes):
    arrays = {name: np.ones(shape, "int32") for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"Expected arrays \[B, .*Received"):
        make_any(kind)[0](arrays)
