import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import ConvBertConfig, ConvBertForPreTraining, ConvBertModel
from model.config import MODEL_SIZES, Objective
from tests.support import original

COUNTS = {  # of the encoder, and of the whole graph
    size: (counts["electra_scope"], counts["pretraining_total"])
    for size, counts in json.loads((original.GOLDENS / "param_counts.json").read_text()).items()
}
COUNTS["tiny"] = (4_480_072, 4_673_639)


def tiny(**overrides):
    return ConvBertConfig.from_size("tiny", vocab_size=100, max_position_embeddings=64, **overrides)


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_parameter_counts_are_the_originals(size):
    objective = Objective(generator_hidden_size=MODEL_SIZES[size].generator_hidden_size)
    model = ConvBertForPreTraining(ConvBertConfig.from_size(size), objective)
    total = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert (model.discriminator.count_params(), total) == COUNTS[size]


@pytest.fixture(scope="module", params=["small", "medium-small", "base"])
def golden_run(request):
    """The original's arrays, and ours from the same weights and batch."""
    golden = original.load(f"forward_{request.param}.npz")
    model = original.pretraining_model(request.param, golden)
    variables = {row.tf1_name: row.variable for row in model.tensors()}
    masked = original.masked_batch(golden)
    with tf.GradientTape() as tape:
        outputs = model.generate(masked)
        outputs |= model.discriminate(masked, golden["sampled_tokids"])
        outputs["total_loss"] = model.total_loss(outputs)
    gradients = tape.gradient(outputs["total_loss"], [v.value for v in variables.values()])
    norms = [float(tf.norm(tf.convert_to_tensor(gradient))) for gradient in gradients]
    outputs["grad_norms"] = dict(zip(variables, norms, strict=True))
    inputs = {name: golden[name] for name in ("input_mask", "segment_ids")}
    outputs["gen"] = model.generator.convbert.activations(
        inputs | {"input_ids": golden["masked_input_ids"]}
    )
    outputs["disc"] = model.discriminator.activations(
        inputs | {"input_ids": golden["fake_input_ids"]}
    )
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    return golden, outputs, shapes


def test_variables_are_the_originals(golden_run):
    golden, _, shapes = golden_run
    expected = {name: tuple(shape) for name, shape in json.loads(str(golden["variables"]))}
    assert shapes == expected


def test_forward_pass_is_the_originals(golden_run):
    golden, outputs, _ = golden_run
    ours = {name: outputs[name] for name in ("mlm_logits", "mlm_loss", "total_loss")}
    ours |= {"disc_logits": outputs["rtd_logits"], "disc_loss": outputs["rtd_loss"]}
    for prefix in ("gen", "disc"):
        seen = outputs[prefix]
        ours[f"{prefix}_embeddings_ln"] = seen["embeddings"]
        ours[f"{prefix}_embedding_output"] = seen["projected"]
        ours[f"{prefix}_layers"] = np.stack(seen["layers"])
        ours[f"{prefix}_attn_maps"] = np.stack(seen["attention"])
        for i in range(len(seen["layers"])):
            ours[f"{prefix}_layer{i}_context"] = seen["context"][i]
            ours[f"{prefix}_layer{i}_conv_kernel"] = seen["conv_kernel"][i]
    differences = {k: original.relative_difference(v, golden[k]) for k, v in ours.items()}
    assert {name: value for name, value in differences.items() if value > 1e-4} == {}
    assert (np.asarray(outputs["is_replaced"]) == golden["is_fake"]).all()
    assert (np.asarray(outputs["mlm_predictions"]) == golden["mlm_preds"]).all()


def test_gradients_are_the_originals(golden_run):
    golden, outputs, _ = golden_run
    expected = dict(zip(golden["grad_names"], golden["grad_norms"], strict=True))
    wrong = {}
    for name, norm in outputs["grad_norms"].items():
        if name.endswith("attention/self/key/bias"):  # zero in exact arithmetic
            if norm >= 1e-5:
                wrong[name] = norm
        elif abs(norm - expected[name]) > 1e-4 * expected[name]:
            wrong[name] = (norm, expected[name])
    assert wrong == {}


@pytest.mark.parametrize("conv_type", ["sdconv", "noconv"])
def test_padding_and_batch_change_nothing(conv_type):
    keras.utils.set_random_seed(1)
    ratio = {} if conv_type == "sdconv" else {"head_ratio": 1}
    model = ConvBertModel(tiny(conv_type=conv_type, initializer_range=0.1, **ratio))
    random = np.random.default_rng(1)
    lengths = (13, 32, 5)
    batch = {
        "input_ids": random.integers(5, 100, (3, 32)),
        "input_mask": (np.arange(32) < np.array(lengths)[:, None]).astype("int32"),
        "segment_ids": random.integers(0, 2, (3, 32)),
    }
    together = np.asarray(model(batch))
    for row, length in enumerate(lengths):
        for width in (length, length + 1, length + 9):
            alone = {name: value[row : row + 1, :width] for name, value in batch.items()}
            alone = {
                name: np.pad(value, ((0, 0), (0, width - value.shape[1])))
                for name, value in alone.items()
            }
            difference = np.asarray(model(alone))[0, :length] - together[row, :length]
            assert np.abs(difference).max() < 1e-5


def test_without_mask_padding_the_output_leaks_as_the_originals_does():
    keras.utils.set_random_seed(1)
    model = ConvBertModel(tiny(mask_padding=False))
    ids = np.full((1, 12), 7)
    ids[:, 8:] = 0
    mask = (np.arange(12) < 8).astype("int32")[None]
    padded = np.asarray(model({"input_ids": ids, "input_mask": mask}))[:, :8]
    alone = np.asarray(model({"input_ids": ids[:, :8]}))
    assert np.abs(padded - alone).max() > 1e-3


def test_missing_mask_and_segments_are_ones_and_zeros():
    model = ConvBertModel(tiny())
    ids = np.arange(5, 25).reshape(2, 10)
    full = {
        "input_ids": ids,
        "input_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    np.testing.assert_allclose(model({"input_ids": ids}), model(full), atol=1e-6)


def test_dropout_acts_in_training_only():
    model = ConvBertModel(tiny())
    inputs = {"input_ids": np.full((1, 8), 9)}
    np.testing.assert_array_equal(model(inputs), model(inputs))
    first, second = (np.asarray(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_mask": np.ones((1, 4))}, "Expected `input_ids`"),
        ({"input_ids": np.ones((1, 4)), "attention_mask": np.ones((1, 4))}, "attention_mask"),
        (np.ones((1, 4)), "Expected a dict"),
        ({"input_ids": np.ones((1, 65))}, r"`input_ids` has 65 .*`max_position_embeddings` is 64"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        ConvBertModel(tiny())(inputs)


def test_mixed_precision_stays_near_float32():
    keras.utils.set_random_seed(2)
    model = ConvBertModel(tiny())
    inputs = {"input_ids": np.arange(5, 37)[None], "input_mask": np.ones((1, 32))}
    half = ConvBertModel(tiny(), dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    difference = np.asarray(half(inputs), "float32") - np.asarray(model(inputs))
    assert 0 < np.abs(difference).max() < 0.2
