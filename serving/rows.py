"""Texts → rows of token ids → a network's outputs, as operations of a graph.

The same rows as `ConvBertTokenizer.__call__` and `data.tasks.batching` make with NumPy.
"""

from typing import Any

import tensorflow as tf

# So many rows go through the network together: of more, one part after the other, so that a batch
# of any size takes the memory of a small one.
ROWS_AT_ONCE = 32


def cut(pieces: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """The first pieces of each row.

    Args:
        pieces: `[N, (tokens)]`.
        counts: int64 `[N]`; more than there are is all.
    """
    lengths = pieces.row_lengths()
    places = tf.ragged.range(lengths).flat_values
    kept = tf.boolean_mask(pieces.flat_values, places < tf.repeat(counts, lengths))
    return tf.RaggedTensor.from_row_lengths(kept, tf.minimum(counts, lengths))


def cut_pair(first: tf.RaggedTensor, second: tf.RaggedTensor, max_tokens: int):
    """`data.tokenizer.truncation.truncate_pair` of N pairs."""
    firsts, seconds = first.row_lengths(), second.row_lengths()
    longest = tf.maximum(max_tokens - seconds, (max_tokens + 1) // 2)
    firsts = tf.where(firsts + seconds > max_tokens, tf.minimum(firsts, longest), firsts)
    return cut(first, firsts), cut(second, tf.minimum(seconds, max_tokens - firsts))


class Rows:
    """What reads texts, and gives them to a network.

    Args:
        tokenizer: a `ConvBertTokenizer`.
        max_seq_length: the most tokens of a row.
        pad_to_max: whether every row is padded to these, since padding changes the outputs.
    """

    def __init__(self, tokenizer: Any, max_seq_length: int, pad_to_max: bool):
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length
        self.pad_to_max = pad_to_max

    def of_texts(self, texts: tf.Tensor, text_pairs: tf.Tensor | None = None) -> dict:
        """The inputs for texts, or pairs, strings `[N]`: see `of_pieces`."""
        pieces = self.tokenizer.tokenize(texts)
        if text_pairs is None:
            return self.of_pieces(cut(pieces, tf.fill(tf.shape(texts), self._room(2))))
        pairs = self.tokenizer.tokenize(text_pairs)
        return self.of_pieces(*cut_pair(pieces, pairs, self._room(3)))

    def of_pieces(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None) -> dict:
        """The inputs for ids `[N, (tokens)]` that are short enough.

        Returns:
            `input_ids`, `input_mask` and `segment_ids`, int32 `[N, T]`.
        """
        num_rows = first.nrows()
        parts = [self._column(self.tokenizer.cls_id, num_rows), first]
        parts.append(self._column(self.tokenizer.sep_id, num_rows))
        if second is not None:
            parts += [second, self._column(self.tokenizer.sep_id, num_rows)]
        ids = tf.concat(parts, axis=1)
        lengths = ids.row_lengths()
        # Two tokens are the least that a row can have; without rows there is no longest.
        longest = tf.maximum(tf.reduce_max(lengths), 2)
        width = tf.constant(self.max_seq_length, tf.int64) if self.pad_to_max else longest
        dense = ids.to_tensor()
        dense = tf.pad(dense, [[0, 0], [0, width - tf.shape(dense, tf.int64)[1]]])
        mask = tf.sequence_mask(lengths, width, tf.int32)
        segments = tf.zeros_like(mask)
        if second is not None:
            segments = mask - tf.sequence_mask(first.row_lengths() + 2, width, tf.int32)
        # What no operation says of the shapes: the network is traced for any.
        inputs = {"input_ids": dense, "input_mask": mask, "segment_ids": segments}
        return {name: tf.ensure_shape(array, [None, None]) for name, array in inputs.items()}

    def _room(self, num_special):
        return tf.constant(self.max_seq_length - num_special, tf.int64)

    @staticmethod
    def _column(token, num_rows):
        """A ragged `[N, (1)]` of one token."""
        tokens = tf.fill([num_rows], tf.constant(token, tf.int32))
        return tf.RaggedTensor.from_uniform_row_length(tokens, 1, nrows=num_rows)


def run(network: Any, inputs: dict) -> Any:
    """A network's outputs for any number of rows.

    Args:
        network: from inputs `[n, …]` to an array, or arrays by name, `[n, …]`.
        inputs: arrays by name, `[N, …]`.
    """
    names = list(inputs)
    specs = [tf.TensorSpec([None, *inputs[name].shape[1:]], inputs[name].dtype) for name in names]

    # A function of its own: the graph has it once.
    @tf.function(input_signature=specs, autograph=False)
    def apply(*arrays):
        return network(dict(zip(names, arrays, strict=True)))

    num_rows = tf.shape(inputs[names[0]])[0]
    outputs = apply.get_concrete_function().structured_outputs
    flat = tf.nest.flatten(outputs)
    arrays = [tf.TensorArray(spec.dtype, 0, dynamic_size=True, infer_shape=False) for spec in flat]

    def step(index, arrays):
        begin = index * ROWS_AT_ONCE
        found = apply(*(inputs[name][begin : begin + ROWS_AT_ONCE] for name in names))
        found = tf.nest.flatten(found)
        return index + 1, [a.write(index, v) for a, v in zip(arrays, found, strict=True)]

    # Even without rows one step is taken: it says what shape nothing has.
    _, arrays = tf.while_loop(
        lambda index, _: (index == 0) | (index * ROWS_AT_ONCE < num_rows),
        step,
        (0, arrays),
        parallel_iterations=1,
    )
    whole = [
        tf.ensure_shape(array.concat(), [None, *spec.shape[1:]])
        for array, spec in zip(arrays, flat, strict=True)
    ]
    return tf.nest.pack_sequence_as(outputs, whole)
