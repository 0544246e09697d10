"""A layer of the encoder, and how all of them share one trace."""

import functools

import keras
from keras import ops

from model.backends import backend
from model.layers import fused
from model.layers.attention import MixedAttention
from model.layers.base import ConfiguredLayer, biased_activation
from model.layers.dense import split_bias, to_tensor

NUM_DROPOUTS = 3  # in a layer, each with its own seed


class SharedTrace:
    """Calls layers of one configuration; in a graph, they share the traces of the first layer.

    This saves time: TensorFlow takes half a second to trace a layer and its gradient.
    """

    def __init__(self, first: "EncoderLayer"):
        self._first = first
        self._traced = {}

    def __call__(self, layer: "EncoderLayer", hidden, masks: dict, keep: bool = False):
        """Returns `layer(hidden, **masks)`; without `keep`, the second result is empty."""
        if not (fused.shares_traces() and backend.is_tracing(hidden)):
            hidden, seen = layer(hidden, **masks)
            return hidden, seen if keep else {}
        variables = layer.variables
        key = (keep, *(variable.trainable for variable in variables))
        if key not in self._traced:
            self._traced[key] = backend.traced_once(functools.partial(self._call_first, keep))
        return self._traced[key]([variable.value for variable in variables], hidden, masks)

    def _call_first(self, keep, values, hidden, masks):
        """The first layer's result with the values of another layer's variables."""
        variables = self._first.variables
        # A shared trace computes the gradients of all arguments, unless it takes them as constants.
        values = [
            value if variable.trainable else ops.stop_gradient(value)
            for variable, value in zip(variables, values, strict=True)
        ]
        masks = {name: ops.stop_gradient(mask) for name, mask in masks.items()}
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            hidden, seen = self._first(hidden, **masks)
        return hidden, seen if keep else {}


@keras.saving.register_keras_serializable(package="convbert")
class EncoderLayer(ConfiguredLayer):
    """Mixed attention and a feed-forward block, each with dropout, residual and LayerNorm."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        config = self.config
        hidden, intermediate = config.hidden_size, config.intermediate_size
        branches = 2 if config.conv_type == "sdconv" else 1
        mixed = branches * config.num_heads * config.head_size
        self.attention = MixedAttention(config, name="attention", dtype=self.dtype_policy)
        self.attention.build((None, None, hidden))
        self.attention_output = self.dense(mixed, hidden, "attention_output")
        self.attention_norm = self.layer_norm("attention_norm", hidden)
        groups = config.linear_groups
        self.intermediate = self.dense(hidden, intermediate, "intermediate", groups)
        self.activation = biased_activation(config.hidden_act)
        self.output_dense = self.dense(intermediate, hidden, "output_dense", groups)
        self.output_norm = self.layer_norm("output_norm", hidden)

    @property
    def output_shape(self):
        """Shown by `summary`."""
        return (None, None, self.config.hidden_size)

    def dense_layers(self) -> dict[str, keras.layers.Layer]:
        """The dense layers that every transformer has, by name."""
        attention = {name: getattr(self.attention, name) for name in ("query", "key", "value")}
        names = ("attention_output", "intermediate", "output_dense")
        return attention | {name: getattr(self, name) for name in names}

    def call(self, hidden, scores_mask=None, conv_mask=None, seed=None):
        """[B, T, H] → [B, T, H], and both results of `MixedAttention` in a dict.

        Its first result is called "context". The masks are those of `MixedAttention`. `seed`,
        int [2], is the seed of `NUM_DROPOUTS` dropouts; without it, there is no dropout.
        """
        seeds = [None if seed is None else fused.seed_of(seed, i) for i in range(NUM_DROPOUTS)]
        rate = 0.0 if seed is None else self.config.hidden_dropout_prob
        context, seen = self.attention(hidden, scores_mask, conv_mask, seeds[0])
        mixed, bias = split_bias(self.attention_output, context)
        hidden = self.attention_norm(fused.add_dropped(hidden, mixed, bias, rate, seeds[1]))
        outputs, bias = self._feed_forward(hidden)
        hidden = self.output_norm(fused.add_dropped(hidden, outputs, bias, rate, seeds[2]))
        return hidden, seen | {"context": context}

    def _feed_forward(self, hidden):
        """[B, T, H] → [B, T, H], and the bias [H] that is still to be added.

        Both layers have the same G groups, so each group is a feed-forward network by itself, and
        the activations between the layers are never concatenated.
        """
        first, second, groups = self.intermediate, self.output_dense, self.config.linear_groups
        if groups == 1:
            return split_bias(second, self.activation(*split_bias(first, hidden)))
        if fused.is_whole():
            return self._grouped_products(hidden)
        parts = zip(
            ops.split(hidden, groups, axis=-1),
            ops.unstack(to_tensor(first.kernel)),
            ops.split(to_tensor(first.bias), groups),
            strict=True,
        )
        wide = [self.activation(ops.matmul(part, kernel), bias) for part, kernel, bias in parts]
        return second.multiply(wide), to_tensor(second.bias)

    def _grouped_products(self, hidden):
        """Computes `_feed_forward` for several groups, with matrix products batched over groups.

        XLA then needs only one kernel for all groups. It fuses the transposes with the operations
        before and after.
        """
        first, second = self.intermediate, self.output_dense
        shape, groups = ops.shape(hidden), self.config.linear_groups
        parts = ops.reshape(hidden, (-1, groups, shape[-1] // groups))
        parts = ops.transpose(parts, (1, 0, 2))  # [G, B · T, H / G]
        bias = ops.reshape(to_tensor(first.bias), (groups, 1, -1))
        wide = self.activation(ops.matmul(parts, to_tensor(first.kernel)), bias)
        outputs = ops.transpose(ops.matmul(wide, to_tensor(second.kernel)), (1, 0, 2))
        return ops.reshape(outputs, shape), to_tensor(second.bias)
