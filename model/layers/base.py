"""Parts of the other layers: initial weights, LayerNorm, activations and configured layers."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import keras
from keras import ops

from model.config import ConvBertConfig, as_config
from model.layers import fused
from model.layers.dense import Dense, GroupedDense, to_tensor

MASK_BIAS = -10000.0  # added to the scores of masked positions, as in BERT

_draws_weights = contextvars.ContextVar("draws_weights", default=True)


@contextlib.contextmanager
def drawn_weights(drawn: bool) -> Iterator[None]:
    """Inside, weights are created as zeros unless `drawn`.

    Random draws take time, which is wasted on weights that are then loaded from a file.
    """
    token = _draws_weights.set(drawn)
    try:
        yield
    finally:
        _draws_weights.reset(token)


def truncated_normal(stddev: float) -> keras.initializers.Initializer:
    """BERT's initializer for embeddings and most kernels; see `drawn_weights`."""
    # Created in any case: it takes a seed, and later layers must get the same seeds either way.
    initializer = keras.initializers.TruncatedNormal(stddev=stddev)
    return initializer if _draws_weights.get() else keras.initializers.Zeros()


@keras.saving.register_keras_serializable(package="convbert")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, with a cheaper gradient."""

    def call(self, inputs):
        """[…, C] → […, C]."""
        gamma, beta = to_tensor(self.gamma), to_tensor(self.beta)
        outputs = fused.layer_norm(inputs, gamma, beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


def activation(name: str):
    """A `hidden_act` as a function; "gelu" is the exact erf form, "gelu_new" the tanh form."""
    if name in ("gelu", "gelu_new"):
        return lambda x: fused.plain_gelu(x, approximate=name == "gelu_new")
    return keras.activations.get(name)


def biased_activation(name: str):
    """A `hidden_act` as a function of inputs [B, T, C] and a bias [C], added first."""
    if name in ("gelu", "gelu_new"):
        return lambda x, bias: fused.gelu(x, bias, approximate=name == "gelu_new")
    return lambda x, bias: keras.activations.get(name)(x + bias)


class ConfiguredLayer(keras.layers.Layer):
    """A layer that is fully described by a `ConvBertConfig`."""

    def __init__(self, config: ConvBertConfig | dict, **kwargs):
        super().__init__(**kwargs)
        self.config = as_config(config)

    def layer_norm(self, name: str, width: int) -> LayerNorm:
        """A LayerNorm over a last axis of `width`, with the configuration's epsilon."""
        layer = LayerNorm(epsilon=self.config.layer_norm_eps, name=name, dtype=self.dtype_policy)
        layer.build((None, None, width))
        return layer

    def dense(self, inputs: int, units: int, name: str, groups: int = 1) -> keras.layers.Layer:
        """A dense layer from `inputs` to `units` features, with BERT's initializer."""
        initializer = truncated_normal(self.config.initializer_range)
        options = {"kernel_initializer": initializer, "name": name, "dtype": self.dtype_policy}
        layer = GroupedDense(units, groups, **options) if groups > 1 else Dense(units, **options)
        layer.build((None, None, inputs))
        return layer

    def get_config(self):
        """The constructor's arguments."""
        return super().get_config() | {"config": dataclasses.asdict(self.config)}
