"""A network's predictions, compiled apart from its training."""

import os
from typing import Any

import keras
from typing_extensions import override

from common import console
from model import adaptation
from model.backends import backend


class Predictor(keras.Model):
    """A network's function for predictions; it does not change how the network itself is compiled.

    `jit_compile` tells whether XLA compiles the function, once for each shape of a batch. None
    means only on backends that always compile.
    """

    def __init__(self, network: Any, jit_compile: bool | None = None):
        super().__init__()
        self.network, self.config = network, network.config
        self.token_outputs = getattr(network, "token_outputs", ("logits",))
        self.state = adaptation.state(network.encoder())
        self.process = os.getpid()
        if jit_compile is None:
            jit_compile = backend.ALWAYS_COMPILES
        # Devices can only share a batch whose rows are a multiple of their number.
        self.compiled_shapes: set[tuple[int, ...]] = set()
        self.few_shapes = jit_compile or keras.distribution.distribution() is not None
        self.built = True  # as the network is; on JAX, Keras would run it to find out
        self.compile(optimizer=None, jit_compile=jit_compile)

    def call(self, inputs):
        """The network's outputs, without dropout."""
        return self.network(inputs, training=False)

    @override
    def predict_on_batch(self, inputs):
        if self.jit_compile:
            console.say_compiling(inputs["input_ids"].shape, self.compiled_shapes)
        return super().predict_on_batch(inputs)

    def make_predict_function(self, *args, **kwargs):
        """As in Keras, without TensorFlow's warning if batches differ in length."""
        super().make_predict_function(*args, **kwargs)
        if hasattr(self.predict_function, "_omit_frequent_tracing_warning"):
            self.predict_function._omit_frequent_tracing_warning = True
        return self.predict_function


class TokenPredictor(keras.Model):
    """A masked language model's head: vectors [1, M, H] → probabilities float32 [1, M, tokens].

    It is compiled, once for each M, only on backends that always compile.
    """

    def __init__(self, network: Any, num_tokens: int):
        super().__init__()
        self.network, self.num_tokens = network, num_tokens
        self.built = True
        compiles = backend.ALWAYS_COMPILES
        self.compile(optimizer=None, jit_compile=compiles, run_eagerly=not compiles)

    def call(self, hidden):
        """The probabilities of the vocabulary's tokens, even if the table has more rows."""
        return keras.ops.softmax(self.network.predict_tokens(hidden)[..., : self.num_tokens])
