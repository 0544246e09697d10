"""The fused operations give what Keras's plain ones give, values and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.layers import fused
from tests.support.small_models import NO_DROPOUT, batch, pretraining_model

B, T, C = 3, 5, 8


def numbers(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype("float32") * 2


def with_gradients(function, arguments, upstream, mode="graph", dtype="float32"):
    """Values and gradients of `function`.

    They are computed in eager mode, in a graph that knows the shapes, or in a step that XLA
    compiles as a whole.
    """

    def run(*arguments):
        with fused.whole_step(mode == "whole"), tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        return value, *tape.gradient(value, arguments, tf.cast(upstream, value.dtype))

    run = run if mode == "eager" else tf.function(run, jit_compile=mode == "whole")
    results = run(*(tf.cast(array, dtype) for array in arguments))
    return [np.array(array, "float32") for array in results]


CASES = {
    "gelu": (fused.gelu, [(B, T, C), (C,)]),
    "gelu_new": (lambda x, b: fused.gelu(x, b, approximate=True), [(B, T, C), (C,)]),
    "layer_norm": (lambda x, g, b: fused.layer_norm(x, g, b, 1e-6), [(B, T, C), (C,), (C,)]),
    "add": (lambda r, x, b: fused.add_dropped(r, x, b, 0.0, None), [(B, T, C), (B, T, C), (C,)]),
    "cross_entropy": (
        lambda x: fused.cross_entropy(x, tf.constant(np.arange(B * T).reshape(B, T) % C)),
        [(B, T, C)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    function, shapes = CASES[name]
    arguments = [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    upstream = numbers(*function(*map(tf.constant, arguments)).shape, seed=9)
    plain = with_gradients(function, arguments, upstream, "eager")
    for mode in ("graph", "whole"):
        for ours, theirs in zip(
            with_gradients(function, arguments, upstream, mode), plain, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
    if name == "cross_entropy":  # logits are float32 in every precision
        return
    for mode in ("graph", "whole"):
        half = with_gradients(function, arguments, upstream, mode, "bfloat16")
        for ours, theirs in zip(half, plain, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())


def test_the_gradient_of_a_bias_is_summed_in_float32():
    # In bfloat16, 1 + 1 + … ends at 256.
    x, bias = np.ones((40, 128, 4), "float32"), np.zeros(4, "float32")
    _, _, gradient = with_gradients(
        lambda x, b: fused.add_dropped(x, x, b, 0.0, None), [x, bias], x, dtype="bfloat16"
    )
    np.testing.assert_array_equal(gradient, np.full(4, 40 * 128))


def test_layer_norm_needs_no_shapes():
    def gradients(x, gamma, beta, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            value = fused.layer_norm(x, gamma, beta, 1e-6)
        return value, *tape.gradient(value, [x, gamma, beta], upstream)

    arguments = [
        numbers(*shape, seed=i) for i, shape in enumerate([(B, T, C), (C,), (C,), (B, T, C)])
    ]
    specs = [tf.TensorSpec(shape) for shape in ((None, None, C), (C,), (C,), (None, None, C))]
    graph = tf.function(gradients, input_signature=specs, jit_compile=False)
    plain = gradients(*map(tf.constant, arguments))
    for ours, theirs in zip(graph(*arguments), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
    kinds = [op.type for op in graph.get_concrete_function().graph.get_operations()]
    assert kinds.count("BiasAddGrad") == 2  # the short gradient's


@pytest.mark.parametrize("mode", ["eager", "graph", "whole"])
@pytest.mark.parametrize("function", ["dropout", "add_dropped"])
def test_dropout(function, mode):
    rate, seed = 0.25, tf.constant([3, 7], tf.int64)
    x, bias = np.ones((8, 64, 32), "float32"), np.ones(32, "float32")
    calls = {
        "dropout": lambda x, seed=seed: fused.dropout(x, rate, seed),
        "add_dropped": lambda x, seed=seed: fused.add_dropped(
            5 * x, x, tf.constant(bias), rate, seed
        ),
    }
    call = calls[function]
    value, gradient = with_gradients(call, [x], tf.ones(x.shape), mode)
    kept = gradient > (0 if function == "dropout" else 5)
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    assert set(np.unique(gradient[kept])) == {np.float32(1 / 0.75 + gradient.min())}
    if function == "dropout":
        np.testing.assert_array_equal(value, gradient)  # what the forward pass keeps
    else:
        np.testing.assert_allclose(value, np.where(kept, 5 + 2 / 0.75, 5), rtol=1e-6)
    # Another seed draws again; and each place is kept about as often as any other.
    for other in (fused.seed_of(seed, 1), tf.add(seed, [0, 1])):
        again, _ = with_gradients(
            lambda x, other=other: call(x, other),
            [x],
            tf.ones(x.shape),
            mode,
        )
        assert (again != value).mean() > 0.3
    assert np.abs(kept.mean(axis=(0, 1)) - (1 - rate)).max() < 0.1


def test_adam():
    arrays = [numbers(50, seed=seed) for seed in range(3)]
    arrays.insert(2, np.square(numbers(50, seed=5)))
    rates = (0.5, tf.constant(0.1), 0.9, 0.999, 1e-6, 0.01)
    compiled = tf.function(lambda *arrays: fused.adam(*arrays, rates))(*map(tf.constant, arrays))
    gradient, first, second, values = arrays
    first = 0.9 * first + 0.1 * 0.5 * gradient
    second = 0.999 * second + 0.001 * np.square(0.5 * gradient)
    update = 0.1 * (first / (np.sqrt(second) + 1e-6) + 0.01 * values)
    for ours, theirs in zip(compiled, (first, second, values - update), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-8)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")
def test_where_it_applies():
    seen = {}

    def note(name, *arrays):
        seen[name] = fused.applies(*arrays)
        return tf.zeros(())

    x = tf.zeros((2, 3))
    note("eager", x)
    tf.function(lambda x: note("graph", x))(x)
    tf.function(lambda x: note("bfloat16", tf.cast(x, tf.bfloat16)))(x)
    tf.function(lambda x: note("float16", tf.cast(x, tf.float16)))(x)
    with fused.whole_step(True):
        tf.function(lambda x: note("whole", x))(x)
    dynamic = [tf.TensorSpec([None, 3], tf.float32)]
    tf.function(lambda x: note("dynamic", x), input_signature=dynamic)(x)
    assert [name for name in seen if seen[name]] == ["graph", "bfloat16"] and len(seen) == 6


@pytest.mark.parametrize("groups", [1, 2])
def test_a_step_in_a_graph_is_the_step_in_eager_mode(groups):
    found = []
    for run_eagerly in (True, False):
        model = pretraining_model(num_hidden_layers=2, linear_groups=groups, **NO_DROPOUT)

        def step(inputs, model=model):
            with tf.GradientTape() as tape:
                loss = model(inputs, training=True)["loss"]
            return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

        run = step if run_eagerly else tf.function(step)
        loss, gradients = run({name: tf.constant(array) for name, array in batch().items()})
        gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
        found.append((float(loss), gradients))
    (eager, eager_gradients), (graph, graph_gradients) = found
    assert graph == pytest.approx(eager, rel=1e-6)
    largest = max(np.abs(gradient).max() for gradient in eager_gradients)
    for ours, theirs in zip(graph_gradients, eager_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)


def test_graphs_for_other_programs_have_plain_operations():
    def compute(x, bias, gamma, beta):
        wide = fused.gelu(x, bias) + fused.plain_gelu(x) + fused.gelu(x, bias, approximate=True)
        normal = fused.layer_norm(fused.add_dropped(x, wide, bias, 0.0, None), gamma, beta, 1e-6)
        return fused.map_rows(lambda row: 2 * row, normal, B)

    shapes = (B, T, C), (C,), (C,), (C,)
    arguments = [tf.constant(numbers(*shape, seed=seed)) for seed, shape in enumerate(shapes)]
    function = tf.function(compute)
    with fused.exporting(loops=False):
        graph = function.get_concrete_function(*arguments).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Erf" in kinds and not kinds & {"Erfc", "IdentityN", "While", "StatelessWhile"}
    assert not {kind for kind in kinds if "Call" in kind}
    np.testing.assert_allclose(function(*arguments), compute(*arguments), rtol=0, atol=1e-5)
    with fused.exporting():
        graph = tf.function(compute).get_concrete_function(*arguments).graph
    assert {"StatelessWhile", "While"} & {operation.type for operation in graph.get_operations()}
