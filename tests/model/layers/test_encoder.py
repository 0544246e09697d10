"""The layers of an encoder share one trace, and compute what each does alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import ConvBertModel
from model.layers.encoder import EncoderLayer
from model.training.optimizer import create_optimizer
from tests.support.small_models import NO_DROPOUT, batch, network, pretraining_model

IN_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs"
)


@pytest.fixture
def calls(monkeypatch):
    """The names of the layers that are called."""
    names, call = [], EncoderLayer.call

    def note(self, *args, **kwargs):
        names.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(EncoderLayer, "call", note)
    return names


def gradients(model, inputs):
    """Outputs, and the gradients of all trainable weights."""
    with tf.GradientTape() as tape:
        outputs = model(inputs)
        loss = tf.reduce_sum(tf.square(outputs))
    return [outputs, *tape.gradient(loss, [v.value for v in model.trainable_variables])]


@IN_TENSORFLOW
def test_shared_layers_compute_what_each_does_alone(calls):
    keras.utils.set_random_seed(1)
    model = ConvBertModel(network(num_hidden_layers=3, **NO_DROPOUT))
    inputs = batch()
    alone = gradients(model, inputs)
    assert calls == ["layer_0", "layer_1", "layer_2"]
    calls.clear()
    shared = tf.function(lambda: gradients(model, inputs), jit_compile=False)()
    assert calls == ["layer_0"]
    results = ([tf.convert_to_tensor(array).numpy() for array in each] for each in (shared, alone))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


@IN_TENSORFLOW
def test_a_training_step_traces_one_layer_of_each_network(calls):
    model = pretraining_model(num_hidden_layers=3)
    model.compile(create_optimizer(1e-3, 10))
    model.train_on_batch(batch())
    assert calls == ["layer_0", "layer_0"]


def products(function) -> int:
    """The matrix products that the results of a function in a graph need."""
    nodes = {node.name: node for node in function.node_def}
    found, todo = set(), [*function.ret.values(), *function.control_ret.values()]
    while todo:
        name = todo.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in found:
            found.add(name)
            todo += nodes[name].input
    return sum("MatMul" in nodes[name].op for name in found)


@IN_TENSORFLOW
def test_the_gradient_of_what_is_frozen_is_not_computed():
    counts = {}
    for kind in ("trained", "frozen"):
        model = ConvBertModel(network(num_hidden_layers=2, **NO_DROPOUT))
        for layer in model.encoder_layers:
            layer.trainable = kind == "trained"
        graph = tf.function(lambda m=model: gradients(m, batch()), jit_compile=False)
        library = graph.get_concrete_function().graph.as_graph_def().library
        backward = (f for f in library.function if "__backward" in f.signature.name)
        counts[kind] = max(map(products, backward))
    # of the projections, the convolution's two, the output's and both groups' two
    assert counts["frozen"] == counts["trained"] - 8


@IN_TENSORFLOW
def test_a_layer_that_changes_is_traced_again(calls):
    model = ConvBertModel(network(num_hidden_layers=2, **NO_DROPOUT))
    before = model.predict_on_batch(batch())
    calls.clear()
    model.enable_lora(2)
    model.predict_function = None
    np.testing.assert_allclose(model.predict_on_batch(batch()), before, atol=1e-6)
    kernel = model.encoder_layers[1].intermediate.lora_kernel_b
    kernel.assign(np.ones(kernel.shape))
    assert np.abs(model.predict_on_batch(batch()) - before).max() > 1e-3
    assert set(calls) == {"layer_0"}
