import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.fields import override
from model import ConvBertForSequenceClassification
from model.training.optimizer import (
    GROWTH_STEPS,
    INITIAL_LOSS_SCALE,
    AdamWeightDecay,
    WarmupPolynomialDecay,
    create_optimizer,
)
from tests.support import original, small_models


@pytest.mark.parametrize("name", ["pretrain_demo", "finetune_10pct"])
def test_schedule_is_the_originals(name):
    golden = json.loads((original.GOLDENS / "lr_curves.json").read_text())[name]
    steps = golden["num_train_steps"]
    warmup = golden["warmup_steps"] or int(golden["warmup_proportion"] * steps)
    schedule = WarmupPolynomialDecay(golden["learning_rate"], steps, warmup, golden["power"])
    rates = [float(schedule(step)) for step in range(len(golden["lr_at_global_step"]))]
    np.testing.assert_allclose(rates, golden["lr_at_global_step"], rtol=1e-5, atol=1e-12)


def test_schedule_without_warmup_starts_at_the_full_rate():
    assert float(WarmupPolynomialDecay(0.1, 10)(0)) == pytest.approx(0.1)


def check_update(golden, step, variables, optimizer):
    """Norms of all variables, and values and moments of those the golden has."""
    norms = [np.linalg.norm(np.asarray(v, "float64")) for v in variables.values()]
    expected = dict(zip(golden["names"], golden[f"norm{step}"], strict=True))
    np.testing.assert_allclose(norms, [expected[name] for name in variables], rtol=1e-5)
    built = optimizer._trainable_variables
    moments = {id(v): pair for v, pair in zip(built, small_models.moments(optimizer), strict=True)}
    checked = 0
    for name, variable in variables.items():
        if f"p{step}/{name}" in golden:
            for kind, value in zip("pmv", (variable, *moments[id(variable)]), strict=True):
                if f"{kind}{step}/{name}" not in golden:  # the second golden has no v
                    continue
                reference = golden[f"{kind}{step}/{name}"]
                ours = np.asarray(value).ravel()[: reference.size]
                tolerance = 1e-4 if kind == "p" else 1e-3
                assert original.relative_difference(ours, reference) < tolerance, (kind, name)
                checked += 1
    return checked


def test_ten_pretraining_updates_are_the_originals():
    forward = original.load("forward_medium-small.npz")
    golden = original.load("optimizer_pretrain.npz")
    model = original.pretraining_model("medium-small", forward)
    variables = {row.tf1_name: row.variable for row in model.tensors()}
    optimizer = create_optimizer(5e-4, num_train_steps=20, num_warmup_steps=4)
    optimizer.build(model.trainable_variables)
    masked = {k: tf.constant(v) for k, v in original.masked_batch(forward).items()}
    sampled = tf.constant(forward["sampled_tokids"])

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            outputs = model.generate(masked)
            loss = model.total_loss(outputs | model.discriminate(masked, sampled))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        norm = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])
        optimizer.apply(gradients, model.trainable_variables)
        return loss, norm

    for step in range(10):
        assert optimizer.learning_rate_at(step) == pytest.approx(golden["lr"][step], rel=1e-5)
        loss, norm = update()
        assert float(loss) == pytest.approx(golden["total_loss"][step], rel=1e-3)
        assert float(norm) == pytest.approx(golden["grad_global_norm"][step], rel=1e-3)
    assert check_update(golden, 10, variables, optimizer) == 3 * 20


def test_five_layerwise_updates_are_the_originals():
    golden = original.load("optimizer_finetune.npz")
    config = original.config("medium-small", original.load("forward_medium-small.npz"))
    config = override(config, {"num_labels": 3, "hidden_dropout_prob": 0.0})
    model = ConvBertForSequenceClassification(config)
    rows = {row.tf1_name: row for row in model.convbert.tensors()}
    original.assign(rows.values())
    variables = {name: row.variable for name, row in rows.items()}
    for kind in ("kernel", "bias"):
        name = f"task_specific/mnli/dense/{kind}"
        variables[name] = getattr(model.classifier.prediction, kind)
        variables[name].assign(original.weight(name, tuple(variables[name].shape)))
    # The reference clips with a norm over un-summed rows of the embeddings' gradient, so its
    # norms are given to the update, and ours are checked beside them.
    optimizer = AdamWeightDecay(
        WarmupPolynomialDecay(3e-4, 20, 2),
        layerwise_lr_decay=0.8,
        num_hidden_layers=2,
        clip_norm=1e9,
    )
    optimizer.build(model.trainable_variables)
    scales = [optimizer.learning_rate_scale(variables[name]) for name in golden["names"]]
    inputs = {name: golden[name] for name in ("input_ids", "input_mask", "segment_ids")}
    np.testing.assert_allclose(model(inputs), golden["logits"], atol=1e-4)
    for step in range(5):
        rate = optimizer.learning_rate_at(step)
        np.testing.assert_allclose(
            rate * np.array(scales), golden["lr_per_variable"][step], rtol=1e-5
        )
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                golden["label_ids"], model(inputs), from_logits=True
            )
            loss = tf.reduce_sum(losses)
        assert float(loss) == pytest.approx(golden["total_loss"][step], rel=1e-3)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        norm = golden["grad_global_norm"][step]
        dense = [tf.convert_to_tensor(g) for g in gradients]
        assert float(tf.linalg.global_norm(dense)) == pytest.approx(norm, rel=1e-3)
        optimizer.apply([g / norm for g in dense], model.trainable_variables)
    assert check_update(golden, 5, variables, optimizer) == 2 * 14


@pytest.mark.parametrize(("key", "layers"), [("n_layers=12,decay=0.8", 12), ("n_layers=2", 2)])
def test_layerwise_rates_are_the_originals(key, layers):
    golden = json.loads((original.GOLDENS / "layer_lrs.json").read_text())[key]
    optimizer = AdamWeightDecay(layerwise_lr_decay=0.8, num_hidden_layers=layers)

    class Named:
        def __init__(self, path):
            self.path = path

    paths = {"task_specific/": "classifier/prediction/kernel"}
    for name, scale in golden.items():
        path = paths.get(name, f"convbert/{name.split('/')[-2]}/x/kernel")
        assert optimizer.learning_rate_scale(Named(path)) == pytest.approx(scale)


def test_layerwise_decay_needs_the_number_of_layers():
    optimizer = AdamWeightDecay(layerwise_lr_decay=0.8)
    with pytest.raises(ValueError, match="num_hidden_layers"):
        optimizer.learning_rate_scale(keras.Variable([1.0]))


def test_clipping_and_decay_of_one_update():
    kernel, bias = keras.Variable([[3.0]], name="kernel"), keras.Variable([4.0], name="bias")
    optimizer = AdamWeightDecay(0.1, weight_decay_rate=0.5, clip_norm=1.0)
    optimizer.apply([np.array([[3.0]], "float32"), np.array([4.0], "float32")], [kernel, bias])
    clipped = np.array([0.6, 0.8])  # (3, 4) cut to norm 1
    # first moment 0.1 g, second 0.001 g², no bias correction
    step = 0.1 * (0.1 * clipped) / (np.sqrt(0.001) * clipped + 1e-6)
    decay = 0.1 * 0.5 * 3  # of the kernel alone
    np.testing.assert_allclose(float(kernel[0, 0]), 3 - step[0] - decay, rtol=1e-5)
    np.testing.assert_allclose(float(bias[0]), 4 - step[1], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_groups_change_nothing(monkeypatch, size):
    shapes = [(4, 2), (3,), (1,), (2, 2), (5,)]

    def updated(group_size):
        monkeypatch.setattr("model.training.optimizer.GROUP_SIZE", group_size)
        random = np.random.default_rng(0)
        names = ("kernel", "kernel", "bias", "kernel", "kernel")
        variables = [
            keras.Variable(random.standard_normal(shape), name=name)
            for shape, name in zip(shapes, names, strict=True)
        ]
        optimizer = AdamWeightDecay(0.1)
        optimizer.build(variables)
        for _ in range(2):
            gradients = [tf.constant(random.standard_normal(s), "float32") for s in shapes]
            optimizer.apply([*gradients[:2], None, *gradients[3:]], variables)
        moments = [moment for pair in small_models.moments(optimizer) for moment in pair]
        assert [moment.shape for moment in moments[::2]] == shapes
        return len(optimizer.groups), [*map(np.asarray, variables), *moments]

    groups, found = updated(size)
    assert groups == {1: 5, 7: 4, 100: 2}[size]
    for array, expected in zip(found, updated(21)[1], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5)


def test_no_weight_of_the_model_counts_as_the_optimizers_own():
    weights = [keras.Variable([1.0, 2.0], name="kernel"), keras.Variable([3.0], name="bias")]
    optimizer = AdamWeightDecay(0.1, dynamic_loss_scale=True)
    optimizer.build(weights)
    optimizer.apply([tf.ones(2), tf.ones(1)], weights)
    own = [id(variable) for variable in optimizer.variables]
    # Step, rate, 2 × 2 moments, loss scale, finite steps, skipped steps.
    assert len(own) == len(set(own)) == 9
    assert not set(own) & set(map(id, weights))


def test_an_overflow_halves_the_loss_scale_and_changes_nothing_else():
    def made(**options):
        variables = [keras.Variable([1.0, -2.0], name="kernel"), keras.Variable([3.0], name="bias")]
        optimizer = AdamWeightDecay(0.1, **options)
        optimizer.build(variables)
        return optimizer, variables

    (scaled, variables), (plain, others) = made(dynamic_loss_scale=True), made()
    gradients = [tf.constant([0.3, 0.4]), tf.constant([-0.1])]

    scaled.apply([tf.constant([np.inf, 1.0]), tf.constant([1.0])])
    np.testing.assert_array_equal(variables[0], [1.0, -2.0])
    np.testing.assert_array_equal(variables[1], [3.0])
    for moments in (*scaled.first_moments, *scaled.second_moments):
        np.testing.assert_array_equal(moments, np.zeros(moments.shape))
    assert float(scaled.loss_scale) == INITIAL_LOSS_SCALE / 2
    assert int(scaled.iterations) == 1  # a step is done, even so

    scaled.apply([scaled.scale_loss(gradient) for gradient in gradients])
    plain.apply(gradients)
    for variable, other in zip(variables, others, strict=True):
        np.testing.assert_array_equal(variable, other)

    scaled.finite_steps.assign(GROWTH_STEPS - 1)
    scaled.apply([scaled.scale_loss(gradient) for gradient in gradients])
    assert float(scaled.loss_scale) == INITIAL_LOSS_SCALE
    assert int(scaled.finite_steps) == 0


@pytest.mark.parametrize("kind", [*small_models.KINDS, "pre-training"])
def test_no_variable_is_an_int32(kind):
    """TensorFlow keeps those on the host, and XLA on a GPU cannot reach them."""
    if kind == "pre-training":
        model, objective, data = small_models.pretraining_model(), {}, [small_models.batch()]
    else:
        model, data = small_models.make(kind), small_models.training_batch(kind)
        objective = {"loss": "mse"} if kind == "encoder" else model.objective("sum")
    model.compile(AdamWeightDecay(dynamic_loss_scale=True), run_eagerly=True, **objective)
    model.train_on_batch(*data)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    found = {variable.path for variable in variables if variable.dtype == "int32"}
    assert found == set() and len(variables) > 20
    model.optimizer.skipped_steps.assign(np.array(3, "int32"))  # as in older checkpoints
    assert model.optimizer.loss_scaling()["skipped_steps"] == 3


def test_keras_saves_and_loads_it():
    optimizer = create_optimizer(1e-3, 10, 2, layerwise_lr_decay=0.9, num_hidden_layers=3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.learning_rate_at(1) == optimizer.learning_rate_at(1) > 0
