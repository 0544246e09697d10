"""Mixed attention: self-attention beside span-based dynamic convolution."""

import math

import keras
from keras import ops

from model.layers import fused
from model.layers.base import ConfiguredLayer, truncated_normal
from model.layers.convolution import depthwise_convolution, dynamic_convolution
from model.layers.dense import to_tensor


@keras.saving.register_keras_serializable(package="convbert")
class MixedAttention(ConfiguredLayer):
    """Self-attention heads beside span-based dynamic convolution heads (paper, section 3.2)."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        config = self.config
        hidden, width = config.hidden_size, config.num_heads * config.head_size  # H, A
        for name in ("query", "key", "value"):
            setattr(self, name, self.dense(hidden, width, name))
        if config.conv_type == "sdconv":
            self.conv_attn_key = keras.layers.SeparableConv1D(
                width,
                config.conv_kernel_size,
                padding="same",
                depthwise_initializer=truncated_normal(1 / config.conv_kernel_size),
                pointwise_initializer=truncated_normal(config.initializer_range),
                name="conv_attn_key",
                dtype=self.dtype_policy,
            )
            self.conv_attn_key.build((None, None, hidden))
            taps = config.num_heads * config.conv_kernel_size
            self.conv_attn_kernel = self.dense(width, taps, "conv_attn_kernel")
            self.conv_attn_point = self.dense(hidden, width, "conv_attn_point")

    def call(self, hidden, scores_mask=None, conv_mask=None, seed=None):
        """Mixes the positions of each row.

        Args:
            hidden: [B, T, H].
            scores_mask: [B, 1, 1, T], added to the attention scores.
            conv_mask: [B, T, 1], 0 at positions that the convolutions must not see.
            seed: int [2], the seed of dropout; None means no dropout.

        Returns:
            [B, T, A] or [B, T, 2 A], the attention heads followed by the convolution heads; and
            {"attention": [B, N, T, T] after softmax, "conv_kernel": [B, T, N, K]}.
        """
        config = self.config
        batch, length = ops.shape(hidden)[0], ops.shape(hidden)[1]
        heads = (batch, length, config.num_heads, config.head_size)
        query, key, value, *point = self._project(hidden)  # [B, T, A] each
        scaled = query * (1.0 / math.sqrt(config.head_size))
        keys = ops.transpose(ops.reshape(key, heads), (0, 2, 3, 1))  # [B, N, D, T]
        scores = ops.matmul(ops.transpose(ops.reshape(scaled, heads), (0, 2, 1, 3)), keys)
        if scores_mask is not None:
            scores += scores_mask
        attention = ops.softmax(scores)  # [B, N, T, T]
        values = ops.transpose(ops.reshape(value, heads), (0, 2, 1, 3))
        kept, rate = attention, config.attention_probs_dropout_prob
        if seed is not None and rate:
            kept = fused.dropout(attention, rate, seed)
        contexts = [ops.transpose(ops.matmul(kept, values), (0, 2, 1, 3))]  # [B, T, N, D]
        internals = {"attention": attention}
        if config.conv_type == "sdconv":
            conv_input, (conv_values,) = hidden, point
            if conv_mask is not None:
                conv_input, conv_values = hidden * conv_mask, conv_values * conv_mask
            kernels = self.conv_attn_kernel(self._conv_key(conv_input) * query)
            taps = (batch, length, config.num_heads, config.conv_kernel_size)
            kernels = ops.softmax(ops.reshape(kernels, taps))  # [B, T, N, K]
            contexts.append(dynamic_convolution(ops.reshape(conv_values, heads), kernels))
            internals["conv_kernel"] = kernels
        width = config.num_heads * config.head_size
        contexts = [ops.reshape(context, (batch, length, width)) for context in contexts]
        return ops.concatenate(contexts, axis=-1), internals

    def _project(self, hidden) -> list:
        """[B, T, H] → query, key, value and the convolution's values, [B, T, A] each.

        This is one wide matrix product, because four narrow ones take half as long again.
        """
        layers = [self.query, self.key, self.value]
        if self.config.conv_type == "sdconv":
            layers.append(self.conv_attn_point)
        if any(layer.quantization_mode is not None for layer in layers):
            return [layer(hidden) for layer in layers]
        kernel = ops.concatenate([to_tensor(layer.kernel) for layer in layers], axis=1)
        bias = ops.concatenate([to_tensor(layer.bias) for layer in layers])
        return ops.split(ops.matmul(hidden, kernel) + bias, len(layers), axis=-1)

    def _conv_key(self, hidden):
        """The separable convolution, [B, T, H] → [B, T, A]; its pointwise part is a matmul."""
        layer = self.conv_attn_key
        mixed = depthwise_convolution(hidden, to_tensor(layer.depthwise_kernel))
        return ops.matmul(mixed, layer.pointwise_kernel[0]) + layer.bias
