"""The layers of ConvBERT (Jiang et al. 2020, arXiv:2008.02496): mixed attention and its parts.

Axes: B batch, T tokens, H hidden size, N heads of each kind, D head size, A = N·D, K kernel size,
E embedding size, V vocabulary. Variables have the shapes of the original release.
"""

import dataclasses
import math

import keras
from keras import ops

from model.config import ConvBertConfig, as_config
from model.layers import fused

MASKED_SCORE = -10000.0  # added to the score of a padded key, as BERT does


def truncated_normal(stddev: float) -> keras.initializers.Initializer:
    """BERT's initializer for tables and for most kernels."""
    return keras.initializers.TruncatedNormal(stddev=stddev)


@keras.saving.register_keras_serializable(package="convbert")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, with a cheaper gradient."""

    def call(self, inputs):
        """[…, C] → the same."""
        outputs = fused.layer_norm(inputs, _tensor(self.gamma), _tensor(self.beta), self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


@keras.saving.register_keras_serializable(package="convbert")
class Dropout(keras.layers.Dropout):
    """Keras's Dropout, with fewer operations."""

    def call(self, inputs, training=False):
        """Of any shape → the same."""
        if not training or not self.rate:
            return inputs
        return fused.dropout(inputs, self.rate, self.seed_generator)

    def add(self, residual, inputs, bias, training=False):
        """`residual + dropout(inputs + bias)`: [B, T, C], [B, T, C] and [C] → [B, T, C]."""
        rate = self.rate if training else 0.0
        generator = self.seed_generator if rate else None
        return fused.add_dropped(residual, inputs, bias, rate, generator)


def layer_norm(config: ConvBertConfig, name: str, dtype=None) -> LayerNorm:
    """LayerNorm over the last axis with the configuration's epsilon."""
    return LayerNorm(epsilon=config.layer_norm_eps, name=name, dtype=dtype)


def activation(name: str):
    """A `hidden_act` as a function; "gelu" is the exact erf form, "gelu_new" the tanh one."""
    if name in ("gelu", "gelu_new"):
        return lambda x: fused.plain_gelu(x, approximate=name == "gelu_new")
    return keras.activations.get(name)


def biased_activation(name: str):
    """A `hidden_act` as a function of inputs [B, T, C] and a bias [C] that is added before."""
    if name in ("gelu", "gelu_new"):
        return lambda x, bias: fused.gelu(x, bias, approximate=name == "gelu_new")
    function = activation(name)
    return lambda x, bias: function(x + bias)


def dynamic_convolution(values, kernels):
    """Weights each position's window of K values by that position's own kernel.

    The kernels become a banded `[T, T + K - 1]` matrix per head, and the convolution one batched
    matrix product, so that no unfolded `[B, T, N·D, K]` tensor is ever made. To shift row t by t
    places, T zeros are put behind each row of K, the rows are laid end to end, and the line is
    cut into rows that are one shorter than they were.

    Args:
        values: [B, T, N, D].
        kernels: [B, T, N, K]; tap k of position t weighs position t + k - K // 2, and positions
            outside the sequence count as zero.

    Returns:
        [B, N, T, D].
    """
    num_heads, kernel_size = kernels.shape[2:]
    batch, length = ops.shape(values)[0], ops.shape(values)[1]
    kernels = ops.transpose(kernels, (0, 2, 1, 3))  # [B, N, T, K]
    zeros = ops.zeros((batch, num_heads, length, length), dtype=kernels.dtype)
    line = ops.reshape(
        ops.concatenate([kernels, zeros], axis=-1),
        (batch, num_heads, length * (length + kernel_size)),
    )
    width = length + kernel_size - 1
    # ops.slice: its gradient is a pad, several times cheaper in TensorFlow than that of `line[…]`
    cut = ops.slice(line, (0, 0, 0), (batch, num_heads, length * width))
    banded = ops.reshape(cut, (batch, num_heads, length, width))
    reach = kernel_size // 2
    values = ops.transpose(values, (0, 2, 1, 3))  # [B, N, T, D]
    padded = ops.pad(values, ((0, 0), (0, 0), (reach, reach), (0, 0)))
    return ops.matmul(banded, padded)


@keras.saving.register_keras_serializable(package="convbert")
class GroupedDense(keras.layers.Layer):
    """A dense layer in G contiguous channel groups (the paper's grouped linear, section 3.3).

    Variables: kernel [G, in / G, out / G], bias [out]. Like Keras's Dense it can be given low-rank
    updates, and its kernel be quantized.
    """

    def __init__(self, units: int, groups: int, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.groups = groups
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.lora_enabled = False

    def build(self, input_shape):
        """Creates the variables for inputs whose last axis is `input_shape[-1]` wide."""
        shape = (self.groups, input_shape[-1] // self.groups, self.units // self.groups)
        self._kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    @property
    def kernel(self):
        """What inputs are multiplied by, [G, in / G, out / G]."""
        if self.quantization_mode is not None:
            return ops.cast(
                ops.cast(self._kernel, "float32") / self.kernel_scale, self.compute_dtype
            )
        return merged_kernel(self, self.compute_dtype) if self.lora_enabled else self._kernel

    def enable_lora(self, rank: int, lora_alpha: float | None = None):
        """Keras's `Dense.enable_lora`, with an update of that rank for every group."""
        groups, inputs, outputs = self._kernel.shape
        self._tracker.unlock()  # as Keras's own layers do, for variables after `build`
        self.lora_kernel_a = self.add_weight(
            name="lora_kernel_a",
            shape=(groups, inputs, rank),
            initializer=keras.initializers.RandomUniform(  # Keras's, of one group's fan-in
                -math.sqrt(6 / inputs), math.sqrt(6 / inputs)
            ),
        )
        self.lora_kernel_b = self.add_weight(
            name="lora_kernel_b", shape=(groups, rank, outputs), initializer="zeros"
        )
        self._tracker.lock()
        self._kernel.trainable = False
        self.lora_enabled, self.lora_rank = True, rank
        self.lora_alpha = rank if lora_alpha is None else lora_alpha

    def quantize(self, mode=None, type_check=True, config=None):
        """Makes the kernel int8, with a scale for each output; inputs keep their precision."""
        if mode != "int8":
            raise self._quantization_mode_error(mode)
        values, scale = keras.quantizers.abs_max_quantize(self._kernel, axis=1, to_numpy=True)
        shape = self._kernel.shape
        del self._kernel
        self._kernel = self.add_weight(
            name="kernel", shape=shape, initializer="zeros", dtype="int8", trainable=False
        )
        self.kernel_scale = self.add_weight(
            name="kernel_scale", shape=scale.shape, trainable=False, autocast=False
        )
        self._kernel.assign(values)
        self.kernel_scale.assign(scale)
        self._is_quantized = True
        self.dtype_policy = keras.dtype_policies.get(f"int8_from_{self.dtype_policy.name}")

    def quantized_call(self, inputs):
        """Keras calls it in place of `call`."""
        return self.call(inputs)

    def save_own_variables(self, store):
        """Writes the variables as Keras's Dense does: a low-rank update as part of the kernel."""
        super().save_own_variables(store)
        if self.lora_enabled:
            for key in list(store.keys()):
                del store[key]
            store["0"], store["1"] = merged_kernel(self), self.bias.value

    def call(self, inputs):
        """[B, T, in] → [B, T, out]."""
        return self.products(ops.split(inputs, self.groups, axis=-1)) + self.bias

    def products(self, inputs: list):
        """G times [B, T, in / G] → [B, T, out], without the bias.

        A matrix product a group: a batched product needs transposed copies of inputs and outputs.
        """
        kernels = ops.unstack(_tensor(self.kernel))
        return ops.concatenate(
            [ops.matmul(*pair) for pair in zip(inputs, kernels, strict=True)], axis=-1
        )

    def compute_output_shape(self, input_shape):
        """[B, T, out]."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """Arguments of the constructor."""
        return super().get_config() | {
            "units": self.units,
            "groups": self.groups,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def merged_kernel(layer, dtype="float32"):
    """The kernel of a Dense or GroupedDense layer with its low-rank update, if it has one."""
    (kernel,) = (variable for variable in layer.weights if variable.name == "kernel")
    if not layer.lora_enabled:
        return kernel
    update = ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
    return ops.cast(kernel + (layer.lora_alpha / layer.lora_rank) * update, dtype)


def product(layer, inputs) -> tuple:
    """What a dense layer makes of inputs […, in]: [..., out], and a bias still to be added.

    The bias is the business of a function that fuses it with what comes next. A quantized layer of
    Keras multiplies in integers, and adds its own: then zeros are left.
    """
    if isinstance(layer, keras.layers.Dense) and layer.quantization_mode is not None:
        return layer(inputs), ops.zeros((layer.units,), dtype=layer.compute_dtype)
    return ops.matmul(inputs, layer.kernel), _tensor(layer.bias)


class ConfiguredLayer(keras.layers.Layer):
    """A layer that one `ConvBertConfig` describes in full."""

    def __init__(self, config: ConvBertConfig | dict, **kwargs):
        super().__init__(**kwargs)
        self.config = as_config(config)

    def dense(self, units: int, name: str, activation=None) -> keras.layers.Dense:
        """A dense layer with BERT's initializer and this layer's precision."""
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=truncated_normal(self.config.initializer_range),
            name=name,
            dtype=self.dtype_policy,
        )

    def feed_forward_dense(self, units: int, name: str) -> keras.layers.Layer:
        """A dense layer of the feed-forward part: grouped where the configuration says so."""
        if self.config.linear_groups == 1:
            return self.dense(units, name)
        return GroupedDense(
            units,
            self.config.linear_groups,
            kernel_initializer=truncated_normal(self.config.initializer_range),
            name=name,
            dtype=self.dtype_policy,
        )

    def get_config(self):
        """Arguments of the constructor."""
        return super().get_config() | {"config": dataclasses.asdict(self.config)}


@keras.saving.register_keras_serializable(package="convbert")
class Embeddings(ConfiguredLayer):
    """Word, position and token-type embeddings, summed, normalized, dropped out.

    Variables: word_embeddings [V, E], position_embeddings [positions, E],
    token_type_embeddings [types, E], LayerNorm.
    """

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        config = self.config

        def table(name, rows):
            return self.add_weight(
                name=name,
                shape=(rows, config.embedding_size),
                initializer=truncated_normal(config.initializer_range),
            )

        self.word_embeddings = table("word_embeddings", config.vocab_size)
        self.position_embeddings = table("position_embeddings", config.max_position_embeddings)
        self.token_type_embeddings = table("token_type_embeddings", config.type_vocab_size)
        self.norm = layer_norm(config, "LayerNorm", self.dtype_policy)
        self.norm.build((None, None, config.embedding_size))
        self.dropout = Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy)

    @property
    def output_shape(self):
        """For `summary`."""
        return (None, None, self.config.embedding_size)

    def call(self, input_ids, segment_ids=None, training=False):
        """Int32 [B, T] twice → [B, T, E]; missing segment ids are zeros."""
        length = input_ids.shape[1]
        if length is not None and length > self.config.max_position_embeddings:
            raise ValueError(
                f"`input_ids` has {length} tokens a row, but `max_position_embeddings` is "
                f"{self.config.max_position_embeddings}: shorten the input"
            )
        positions = self.position_embeddings[: ops.shape(input_ids)[1]]
        embedded = ops.take(self.word_embeddings, input_ids, axis=0) + positions
        if segment_ids is None:
            embedded += self.token_type_embeddings[0]
        else:  # a product with so small a table has a far cheaper gradient than a gather
            types = ops.one_hot(segment_ids, self.config.type_vocab_size, dtype=embedded.dtype)
            embedded += ops.matmul(types, self.token_type_embeddings)
        return self.dropout(self.norm(embedded), training=training)


@keras.saving.register_keras_serializable(package="convbert")
class MixedAttention(ConfiguredLayer):
    """Self-attention heads beside span-based dynamic convolution heads (paper, section 3.2)."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        config = self.config
        width = config.num_heads * config.head_size  # A
        hidden, narrow = (None, None, config.hidden_size), (None, None, width)
        for name in ("query", "key", "value"):
            layer = self.dense(width, name)
            layer.build(hidden)
            setattr(self, name, layer)
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
            self.conv_attn_key.build(hidden)
            self.conv_attn_kernel = self.dense(
                config.num_heads * config.conv_kernel_size, "conv_attn_kernel"
            )
            self.conv_attn_kernel.build(narrow)
            self.conv_attn_point = self.dense(width, "conv_attn_point")
            self.conv_attn_point.build(hidden)
        self.dropout = Dropout(config.attention_probs_dropout_prob, dtype=self.dtype_policy)

    def call(self, hidden, scores_mask=None, conv_mask=None, training=False, internals=False):
        """Mixes the positions of each row.

        Args:
            hidden: [B, T, H].
            scores_mask: [B, 1, 1, T], added to the attention scores.
            conv_mask: [B, T, 1], 0 where the convolutions must see nothing.
            internals: also return what happened inside.

        Returns:
            [B, T, A] or [B, T, 2 A]: attention heads, then convolution heads; with `internals`
            also {"attention": [B, N, T, T] after softmax, "conv_kernel": [B, T, N, K]}.
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
        contexts = [ops.matmul(self.dropout(attention, training=training), values)]
        seen = {"attention": attention}
        if config.conv_type == "sdconv":
            conv_input, (conv_values,) = hidden, point
            if conv_mask is not None:
                conv_input, conv_values = hidden * conv_mask, conv_values * conv_mask
            kernels = self.conv_attn_kernel(self._conv_key(conv_input) * query)
            taps = (batch, length, config.num_heads, config.conv_kernel_size)
            kernels = ops.softmax(ops.reshape(kernels, taps))  # [B, T, N, K]
            contexts.append(dynamic_convolution(ops.reshape(conv_values, heads), kernels))
            seen["conv_kernel"] = kernels
        context = ops.concatenate(contexts, axis=1)  # [B, N or 2 N, T, D]
        width = len(contexts) * config.num_heads * config.head_size
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (batch, length, width))
        return (context, seen) if internals else context

    def _project(self, hidden) -> list:
        """[B, T, H] → query, key, value and the convolution's values, [B, T, A] each.

        One product for all: four narrow ones take half as long again.
        """
        layers = [self.query, self.key, self.value]
        if self.config.conv_type == "sdconv":
            layers.append(self.conv_attn_point)
        if any(layer.quantization_mode is not None for layer in layers):
            return [layer(hidden) for layer in layers]
        kernel = ops.concatenate([_tensor(layer.kernel) for layer in layers], axis=1)
        bias = ops.concatenate([_tensor(layer.bias) for layer in layers])
        return ops.split(ops.matmul(hidden, kernel) + bias, len(layers), axis=-1)

    def _conv_key(self, hidden):
        """The separable convolution, [B, T, H] → [B, T, A], its pointwise part as a product."""
        layer = self.conv_attn_key
        mixed = ops.depthwise_conv(hidden, layer.depthwise_kernel, padding="same")
        return ops.matmul(mixed, layer.pointwise_kernel[0]) + layer.bias


@keras.saving.register_keras_serializable(package="convbert")
class EncoderLayer(ConfiguredLayer):
    """Mixed attention and feed-forward part, each with dropout, residual and LayerNorm."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        config = self.config
        branches = 2 if config.conv_type == "sdconv" else 1
        widths = {
            "hidden": (None, None, config.hidden_size),
            "mixed": (None, None, branches * config.num_heads * config.head_size),
            "intermediate": (None, None, config.intermediate_size),
        }
        self.attention = MixedAttention(config, name="attention", dtype=self.dtype_policy)
        self.attention.build(widths["hidden"])
        self.attention_output = self.dense(config.hidden_size, "attention_output")
        self.attention_output.build(widths["mixed"])
        self.attention_norm = layer_norm(config, "attention_norm", self.dtype_policy)
        self.attention_norm.build(widths["hidden"])
        self.intermediate = self.feed_forward_dense(config.intermediate_size, "intermediate")
        self.intermediate.build(widths["hidden"])
        self.activation = biased_activation(config.hidden_act)
        self.output_dense = self.feed_forward_dense(config.hidden_size, "output_dense")
        self.output_dense.build(widths["intermediate"])
        self.output_norm = layer_norm(config, "output_norm", self.dtype_policy)
        self.output_norm.build(widths["hidden"])
        self.dropouts = [
            Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy) for _ in range(2)
        ]

    @property
    def output_shape(self):
        """For `summary`."""
        return (None, None, self.config.hidden_size)

    def dense_layers(self) -> dict[str, keras.layers.Layer]:
        """By name, the dense layers that every transformer has."""
        attention = {name: getattr(self.attention, name) for name in ("query", "key", "value")}
        names = ("attention_output", "intermediate", "output_dense")
        return attention | {name: getattr(self, name) for name in names}

    def call(self, hidden, scores_mask=None, conv_mask=None, training=False, internals=False):
        """[B, T, H] → [B, T, H]; the masks and `internals` are `MixedAttention`'s."""
        context, seen = self.attention(
            hidden,
            scores_mask=scores_mask,
            conv_mask=conv_mask,
            training=training,
            internals=True,
        )
        mixed, bias = product(self.attention_output, context)
        mixed = self.dropouts[0].add(hidden, mixed, bias, training)
        hidden = self.attention_norm(mixed)
        narrow, bias = self._feed_forward(hidden)
        hidden = self.output_norm(self.dropouts[1].add(hidden, narrow, bias, training))
        return (hidden, seen | {"context": context}) if internals else hidden

    def _feed_forward(self, hidden):
        """[B, T, H] → [B, T, H], and the bias [H] that is still to be added.

        Both layers have the same G groups, so each group is a feed-forward network of its own, and
        what is between them is never put together.
        """
        first, second, groups = self.intermediate, self.output_dense, self.config.linear_groups
        if groups == 1:
            return product(second, self.activation(*product(first, hidden)))
        parts = zip(
            ops.split(hidden, groups, axis=-1),
            ops.unstack(_tensor(first.kernel)),
            ops.split(_tensor(first.bias), groups),
            strict=True,
        )
        wide = [self.activation(ops.matmul(part, kernel), bias) for part, kernel, bias in parts]
        return second.products(wide), _tensor(second.bias)


def _tensor(variable):
    """A variable's value, in the precision that the layer being called computes in."""
    return ops.convert_to_tensor(variable)


@keras.saving.register_keras_serializable(package="convbert")
class MaskedLMHead(ConfiguredLayer):
    """ELECTRA's generator head: dense(E) + activation → LayerNorm → tied word embeddings.

    The word embeddings are an argument of the call, so that they are nobody's but the encoder's.
    """

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, P, H]."""
        config = self.config
        self.transform = self.dense(config.embedding_size, "dense")
        self.transform.build((None, None, config.hidden_size))
        self.activation = activation(config.hidden_act)
        self.norm = layer_norm(config, "LayerNorm", self.dtype_policy)
        self.norm.build((None, None, config.embedding_size))
        self.output_bias = self.add_weight(
            name="output_bias", shape=(config.vocab_size,), initializer="zeros"
        )

    def compute_output_shape(self, input_shape):
        """[B, P, V]."""
        return (*input_shape[:-1], self.config.vocab_size)

    def call(self, hidden, word_embeddings):
        """[B, P, H] and [V, E] → float32 logits [B, P, V]."""
        transformed = self.norm(self.activation(self.transform(hidden)))
        table = ops.cast(word_embeddings, transformed.dtype)
        logits = ops.matmul(transformed, ops.transpose(table)) + self.output_bias
        return ops.cast(logits, "float32")


@keras.saving.register_keras_serializable(package="convbert")
class DiscriminatorHead(ConfiguredLayer):
    """ELECTRA's replaced-token head: dense(H) + activation → dense(1)."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        hidden = (None, None, self.config.hidden_size)
        self.transform = self.dense(self.config.hidden_size, "dense")
        self.transform.build(hidden)
        self.activation = activation(self.config.hidden_act)
        self.prediction = keras.layers.Dense(1, name="dense_prediction", dtype=self.dtype_policy)
        self.prediction.build(hidden)

    def compute_output_shape(self, input_shape):
        """[B, T]."""
        return input_shape[:-1]

    def call(self, hidden):
        """[B, T, H] → float32 logits [B, T]; positive where a token looks replaced."""
        logits = self.prediction(self.activation(self.transform(hidden)))
        return ops.cast(ops.squeeze(logits, axis=-1), "float32")


@keras.saving.register_keras_serializable(package="convbert")
class ClassificationHead(ConfiguredLayer):
    """A classifier of vectors: that of [CLS], or each token's.

    Args:
        kind: "linear" is the original's (dropout → dense), "mlp" Hugging Face's (dropout →
            dense(H) + activation → dropout → dense).
        units: number of outputs; None is `config.num_labels`.
    """

    def __init__(
        self, config: ConvBertConfig, kind: str = "linear", units: int | None = None, **kwargs
    ):
        super().__init__(config, **kwargs)
        self.kind = kind
        self.units = units or self.config.num_labels

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, H]."""
        config = self.config
        rate = config.classifier_dropout
        rate = config.hidden_dropout_prob if rate is None else rate
        self.dropouts = [
            Dropout(rate, dtype=self.dtype_policy) for _ in range(2 if self.kind == "mlp" else 1)
        ]
        if self.kind == "mlp":
            self.transform = self.dense(config.hidden_size, "dense")
            self.transform.build((None, config.hidden_size))
            self.activation = activation(config.hidden_act)
        self.prediction = keras.layers.Dense(self.units, name="prediction", dtype=self.dtype_policy)
        self.prediction.build((None, config.hidden_size))

    def compute_output_shape(self, input_shape):
        """[B, units], or with T between the two."""
        return (*input_shape[:-1], self.units)

    def call(self, vectors, training=False):
        """[B, H] → float32 logits [B, units], or with T between the two."""
        vectors = self.dropouts[0](vectors, training=training)
        if self.kind == "mlp":
            vectors = self.activation(self.transform(vectors))
            vectors = self.dropouts[1](vectors, training=training)
        return ops.cast(self.prediction(vectors), "float32")

    def get_config(self):
        """Arguments of the constructor."""
        return super().get_config() | {"kind": self.kind, "units": self.units}


@keras.saving.register_keras_serializable(package="convbert")
class JointSpanHead(ConfiguredLayer):
    """The original's question-answering head: an answer's start, its end, and whether it exists.

    The end is predicted from the vector of the start beside each token's own. Only the text's
    tokens (segment 1), and [CLS] for "no answer", can be start or end.

    Source: `get_prediction_module` of the release's finetune/qa/qa_tasks.py.
    """

    WIDTH = 512  # of the hidden layers, whatever the encoder's
    OUTSIDE = -1000.0  # added to the logits of all other tokens

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        width = self.config.hidden_size
        shapes = {  # in the order of the original's variables
            "start": (width, 1),
            "end_hidden": (2 * width, self.WIDTH),
            "end": (self.WIDTH, 1),
            "answerable_hidden": (2 * width, self.WIDTH),
            "answerable": (self.WIDTH, 1),
        }
        for name, (given, units) in shapes.items():
            layer = keras.layers.Dense(units, name=name, dtype=self.dtype_policy)
            layer.build((None, None, given))
            setattr(self, name, layer)
        self.activation = activation("gelu")

    def call(self, hidden, input_mask, segment_ids, start_positions=None):
        """What the vectors say of an answer.

        Args:
            hidden: [B, T, H].
            input_mask: int32 [B, T], or None: all are tokens.
            segment_ids: int32 [B, T].
            start_positions: int32 [B], the true starts, in training alone.

        Returns:
            All of float32. With `start_positions` {"start_logits": [B, T], "end_logits": [B, T],
            "answerable_logits": [B]}, the last positive where there is no answer. Without, S being
            the beam size, {"start_log_probs": [B, S], "start_indices": int32 [B, S],
            "end_log_probs": [B, S, S], "end_indices": int32 [B, S, S], "answerable_logits": [B]}:
            the likeliest starts, and for each its likeliest ends. Places for which there are too
            few tokens have the index 0 and the log-probability `MASKED_SCORE`.
        """
        allowed = ops.equal(segment_ids, 1)
        if input_mask is not None:
            allowed = ops.logical_and(allowed, ops.equal(input_mask, 1))
        allowed = ops.logical_or(allowed, ops.equal(ops.arange(ops.shape(hidden)[1]), 0))  # [CLS]
        start_logits = self._only(allowed, self._logits(self.start, hidden))
        outputs = {"answerable_logits": self._answerable(hidden, start_logits)}
        if start_positions is not None:
            end_logits = self._end_logits(hidden, ops.expand_dims(start_positions, -1))[:, 0]
            outputs |= {"start_logits": start_logits, "end_logits": self._only(allowed, end_logits)}
            return outputs
        start_log_probs, starts = self._likeliest(start_logits, allowed)
        allowed = ops.expand_dims(allowed, 1)
        end_logits = self._only(allowed, self._end_logits(hidden, starts))
        end_log_probs, ends = self._likeliest(end_logits, allowed)
        is_start = ops.expand_dims(start_log_probs > MASKED_SCORE, -1)
        return outputs | {
            "start_log_probs": start_log_probs,
            "start_indices": starts,
            "end_log_probs": ops.where(is_start, end_log_probs, MASKED_SCORE),
            "end_indices": ops.where(is_start, ends, 0),
        }

    def _logits(self, layer, vectors):
        """A dense layer with one output: […, C] → float32 […]."""
        return ops.cast(ops.squeeze(layer(vectors), axis=-1), "float32")

    def _only(self, allowed, logits):
        """Leaves what is not allowed no probability."""
        return ops.where(allowed, logits, logits + self.OUTSIDE)

    def _end_logits(self, hidden, starts):
        """[B, T, H] and positions int32 [B, S] → [B, S, T]: logits of the ends for each start.

        The hidden layer's kernel is applied to the start's vector and to each token's apart, and
        one start is done after the other: S times T hidden vectors a row need not be in memory.
        """
        of_start, of_token = ops.split(_tensor(self.end_hidden.kernel), 2)
        places = ops.one_hot(starts, ops.shape(hidden)[1], dtype=hidden.dtype)  # [B, S, T]
        vectors = ops.matmul(ops.matmul(places, hidden), of_start)  # [B, S, WIDTH]
        tokens = ops.matmul(hidden, of_token) + _tensor(self.end_hidden.bias)  # [B, T, WIDTH]

        def logits_of(vector):  # [B, WIDTH]
            return self._logits(self.end, self.activation(ops.expand_dims(vector, 1) + tokens))

        vectors = ops.transpose(vectors, (1, 0, 2))  # [S, B, WIDTH]
        logits = fused.map_rows(logits_of, vectors, starts.shape[1])  # [S, B, T]
        return ops.transpose(logits, (1, 0, 2))

    def _answerable(self, hidden, start_logits):
        """[B, T, H] and [B, T] → [B], from [CLS] and the mean vector of a start."""
        weights = ops.cast(ops.softmax(start_logits), hidden.dtype)
        mean = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), hidden), axis=1)
        vectors = ops.concatenate([hidden[:, 0], mean], axis=-1)
        return self._logits(self.answerable, self.activation(self.answerable_hidden(vectors)))

    def _likeliest(self, logits, allowed):
        """[…, T] → the S highest log-probabilities of what is allowed, and where: […, S] each."""
        log_probs = ops.where(allowed, ops.log_softmax(logits), MASKED_SCORE)
        size = self.config.beam_size
        more = [(0, 0)] * (len(logits.shape) - 1) + [(0, size)]  # there may be fewer tokens than S
        log_probs = ops.pad(log_probs, more, constant_values=MASKED_SCORE)
        best, indices = ops.top_k(log_probs, size)
        indices = ops.where(best > MASKED_SCORE, ops.cast(indices, "int32"), 0)
        return best, indices
