"""The layers of heads: for masked tokens, replaced tokens, classes, and answers as spans."""

import keras
from keras import ops

from model.config import ConvBertConfig
from model.layers import fused
from model.layers.base import MASK_BIAS, ConfiguredLayer, activation
from model.layers.dense import to_tensor

NO_TOKEN = -1e9  # the logit of the entries that pad a vocabulary


@keras.saving.register_keras_serializable(package="convbert")
class MaskedLMHead(ConfiguredLayer):
    """ELECTRA's generator head: dense(E) + activation → LayerNorm → tied word embeddings.

    The word embeddings are an argument of the call, so that they belong to the encoder alone.
    """

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, P, H]."""
        config = self.config
        self.transform = self.dense(config.hidden_size, config.embedding_size, "dense")
        self.activation = activation(config.hidden_act)
        self.norm = self.layer_norm("LayerNorm", config.embedding_size)
        self.output_bias = self.add_weight(
            name="output_bias", shape=(config.vocab_size,), initializer="zeros", autocast=False
        )

    def compute_output_shape(self, input_shape):
        """[B, P, V]."""
        return (*input_shape[:-1], self.config.vocab_size)

    def call(self, hidden, word_embeddings, multiple: int = 1):
        """[B, P, H] and [V, E] → float32 logits [B, P, V].

        V is rounded up to a multiple of `multiple`, with tokens that cannot be predicted. Tensor
        cores need such a multiple; XLA would otherwise copy the logits and their gradient.
        """
        transformed = self.norm(self.activation(self.transform(hidden)))
        table = ops.cast(word_embeddings, transformed.dtype)
        bias = ops.cast(self.output_bias, "float32")
        if spare := -self.config.vocab_size % multiple:
            table = ops.pad(table, ((0, spare), (0, 0)))
            bias = ops.pad(bias, (0, spare), constant_values=NO_TOKEN)
        return ops.cast(ops.matmul(transformed, ops.transpose(table)), "float32") + bias


@keras.saving.register_keras_serializable(package="convbert")
class DiscriminatorHead(ConfiguredLayer):
    """ELECTRA's replaced-token head: dense(H) + activation → dense(1)."""

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, T, H]."""
        hidden = self.config.hidden_size
        self.transform = self.dense(hidden, hidden, "dense")
        self.activation = activation(self.config.hidden_act)
        # In half precision, the gradient of its bias would overflow: it is a sum over all tokens.
        dtype = self.dtype_policy.variable_dtype
        self.prediction = keras.layers.Dense(1, name="dense_prediction", dtype=dtype)
        self.prediction.build((None, None, hidden))

    def compute_output_shape(self, input_shape):
        """[B, T]."""
        return input_shape[:-1]

    def call(self, hidden):
        """[B, T, H] → float32 logits [B, T]; positive where a token looks replaced."""
        logits = self.prediction(self.activation(self.transform(hidden)))
        return ops.cast(ops.squeeze(logits, axis=-1), "float32")


@keras.saving.register_keras_serializable(package="convbert")
class ClassificationHead(ConfiguredLayer):
    """Classifies vectors: the vector of [CLS], or every token's.

    Args:
        config: a `ConvBertConfig`.
        kind: "linear" is the original's (dropout → dense), "mlp" Hugging Face's (dropout →
            dense(H) + activation → dropout → dense).
        units: number of outputs; None means `config.num_labels`.
    """

    def __init__(
        self, config: ConvBertConfig, kind: str = "linear", units: int | None = None, **kwargs
    ):
        super().__init__(config, **kwargs)
        self.kind = kind
        self.units = units or self.config.num_labels

    def build(self, input_shape=None):
        """Creates the variables for inputs [B, H] or [B, T, H]."""
        config = self.config
        rate = config.classifier_dropout
        rate = config.hidden_dropout_prob if rate is None else rate
        self.dropouts = [
            keras.layers.Dropout(rate, dtype=self.dtype_policy)
            for _ in range(2 if self.kind == "mlp" else 1)
        ]
        if self.kind == "mlp":
            self.transform = self.dense(config.hidden_size, config.hidden_size, "dense")
            self.activation = activation(config.hidden_act)
        dtype = self.dtype_policy.variable_dtype  # float32 in mixed precision
        self.prediction = keras.layers.Dense(self.units, name="prediction", dtype=dtype)
        self.prediction.build((None, config.hidden_size))

    def compute_output_shape(self, input_shape):
        """[B, units] or [B, T, units]."""
        return (*input_shape[:-1], self.units)

    def call(self, vectors, training=False):
        """[B, H] or [B, T, H] → float32 logits [B, units] or [B, T, units]."""
        vectors = self.dropouts[0](vectors, training=training)
        if self.kind == "mlp":
            vectors = self.activation(self.transform(vectors))
            vectors = self.dropouts[1](vectors, training=training)
        return ops.cast(self.prediction(vectors), "float32")

    def get_config(self):
        """The constructor's arguments."""
        return super().get_config() | {"kind": self.kind, "units": self.units}


@keras.saving.register_keras_serializable(package="convbert")
class JointSpanHead(ConfiguredLayer):
    """The original's question-answering head: an answer's start, its end, and whether it exists.

    The end is predicted from the start's vector together with each token's own. Only tokens of the
    text (segment 1), and [CLS] for "no answer", can be a start or an end.

    Source: `get_prediction_module` of the release's finetune/qa/qa_tasks.py.
    """

    WIDTH = 512  # width of the hidden layers, for every size of encoder
    SPAN_MASK_BIAS = -1000.0  # added to the logits of all other tokens, as in the original

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
        for name, (inputs, units) in shapes.items():
            layer = keras.layers.Dense(units, name=name, dtype=self.dtype_policy)
            layer.build((None, None, inputs))
            setattr(self, name, layer)
        self.activation = activation("gelu")

    def call(self, hidden, input_mask, segment_ids, start_positions=None):
        """Scores the answers.

        Args:
            hidden: [B, T, H].
            input_mask: int32 [B, T]; None means that all positions are tokens.
            segment_ids: int32 [B, T].
            start_positions: int32 [B], the true starts; only in training.

        Returns:
            Float32 arrays. With `start_positions`: "start_logits" and "end_logits" [B, T], and
            "answerable_logits" [B], positive if there is no answer. Without it: the likeliest
            starts and, for each, its likeliest ends, where S is the beam size: "start_log_probs"
            and "start_indices" (int32) [B, S], "end_log_probs" and "end_indices" (int32) [B, S, S],
            and "answerable_logits" [B]. Entries beyond the allowed tokens have index 0 and
            log-probability `MASK_BIAS`.
        """
        allowed = ops.equal(segment_ids, 1)
        if input_mask is not None:
            allowed = ops.logical_and(allowed, ops.equal(input_mask, 1))
        allowed = ops.logical_or(allowed, ops.equal(ops.arange(ops.shape(hidden)[1]), 0))  # [CLS]
        start_logits = self._mask(allowed, self._logits(self.start, hidden))
        outputs = {"answerable_logits": self._answerable(hidden, start_logits)}
        if start_positions is not None:
            end_logits = self._end_logits(hidden, ops.expand_dims(start_positions, -1))[:, 0]
            outputs |= {"start_logits": start_logits, "end_logits": self._mask(allowed, end_logits)}
            return outputs
        start_log_probs, starts = self._likeliest(start_logits, allowed)
        allowed = ops.expand_dims(allowed, 1)
        end_logits = self._mask(allowed, self._end_logits(hidden, starts))
        end_log_probs, ends = self._likeliest(end_logits, allowed)
        is_start = ops.expand_dims(start_log_probs > MASK_BIAS, -1)
        return outputs | {
            "start_log_probs": start_log_probs,
            "start_indices": starts,
            "end_log_probs": ops.where(is_start, end_log_probs, MASK_BIAS),
            "end_indices": ops.where(is_start, ends, 0),
        }

    def _logits(self, layer, vectors):
        """Applies a dense layer with one output: […, C] → float32 […]."""
        return ops.cast(ops.squeeze(layer(vectors), axis=-1), "float32")

    def _mask(self, allowed, logits):
        """Masks disallowed positions."""
        return ops.where(allowed, logits, logits + self.SPAN_MASK_BIAS)

    def _end_logits(self, hidden, starts):
        """[B, T, H] and positions int32 [B, S] → [B, S, T]: logits of the ends for each start.

        The hidden layer's kernel is applied to starts and tokens separately. The starts are
        processed one by one, so that S times T hidden vectors per row need not fit in memory.
        """
        start_kernel, token_kernel = ops.split(to_tensor(self.end_hidden.kernel), 2)
        is_start = ops.one_hot(starts, ops.shape(hidden)[1], dtype=hidden.dtype)  # [B, S, T]
        vectors = ops.matmul(ops.matmul(is_start, hidden), start_kernel)  # [B, S, WIDTH]
        tokens = ops.matmul(hidden, token_kernel) + to_tensor(self.end_hidden.bias)  # [B, T, WIDTH]

        def logits_of(vector):  # [B, WIDTH]
            return self._logits(self.end, self.activation(ops.expand_dims(vector, 1) + tokens))

        vectors = ops.transpose(vectors, (1, 0, 2))  # [S, B, WIDTH]
        logits = fused.map_rows(logits_of, vectors, starts.shape[1])  # [S, B, T]
        return ops.transpose(logits, (1, 0, 2))

    def _answerable(self, hidden, start_logits):
        """[B, T, H] and [B, T] → [B], from [CLS] and the expected vector of the start."""
        weights = ops.cast(ops.softmax(start_logits), hidden.dtype)
        mean = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), hidden), axis=1)
        vectors = ops.concatenate([hidden[:, 0], mean], axis=-1)
        return self._logits(self.answerable, self.activation(self.answerable_hidden(vectors)))

    def _likeliest(self, logits, allowed):
        """[…, T] → the S highest log-probabilities, and their allowed positions: […, S] each."""
        log_probs = ops.where(allowed, ops.log_softmax(logits), MASK_BIAS)
        size = self.config.beam_size
        padding = [(0, 0)] * (len(logits.shape) - 1) + [(0, size)]  # T may be less than S
        log_probs = ops.pad(log_probs, padding, constant_values=MASK_BIAS)
        best, indices = ops.top_k(log_probs, size)
        indices = ops.where(best > MASK_BIAS, ops.cast(indices, "int32"), 0)
        return best, indices
