"""The embeddings of tokens, positions and segments."""

import keras
from keras import ops

from model.layers import fused
from model.layers.base import ConfiguredLayer, truncated_normal


@keras.saving.register_keras_serializable(package="convbert")
class Embeddings(ConfiguredLayer):
    """The sum of word, position and token-type embeddings, then LayerNorm and dropout.

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
                autocast=False,  # a table's gradient is summed in its own precision
            )

        self.word_embeddings = table("word_embeddings", config.vocab_size)
        self.position_embeddings = table("position_embeddings", config.max_position_embeddings)
        self.token_type_embeddings = table("token_type_embeddings", config.type_vocab_size)
        self.norm = self.layer_norm("LayerNorm", config.embedding_size)

    @property
    def output_shape(self):
        """Shown by `summary`."""
        return (None, None, self.config.embedding_size)

    def call(self, input_ids, segment_ids=None, seed=None):
        """Two int32 [B, T] → [B, T, E]; segment ids default to zeros.

        `seed`, int [2], is the seed of dropout; without it, there is no dropout.
        """
        length, longest = input_ids.shape[1], self.config.max_position_embeddings
        if length is not None and length > longest:
            raise ValueError(
                f"`input_ids` has {length} tokens per row, but `max_position_embeddings` is "
                f"{longest}: shorten the input"
            )
        positions = self.position_embeddings[: ops.shape(input_ids)[1]]
        embedded = ops.take(self.word_embeddings, input_ids, axis=0)
        # A graph for any length fails here if rows are too long; the error shows only this name.
        with keras.name_scope(f"at_most_{longest}_tokens_per_row"):
            embedded += positions
        if segment_ids is None:
            embedded += self.token_type_embeddings[0]
        else:  # for such a small table, a matmul's gradient is much cheaper than a gather's
            types = ops.one_hot(segment_ids, self.config.type_vocab_size, dtype=embedded.dtype)
            embedded += ops.matmul(types, self.token_type_embeddings)
        normal, rate = self.norm(embedded), self.config.hidden_dropout_prob
        return normal if seed is None or not rate else fused.dropout(normal, rate, seed)
