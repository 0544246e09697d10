"""Texts → rows of token ids → a network's outputs, as TensorFlow operations of a graph.

The rows equal those that `ConvBertTokenizer` and `data.tasks.batching` make with NumPy.
"""

from typing import Any

import tensorflow as tf

# The network computes this many rows at a time, so that memory does not grow with the batch.
ROWS_AT_ONCE = 32


def function_of(**shapes: list[int | None] | None) -> Any:
    """A decorator for a `tf.function` of strings, by name; those without a shape are left out."""
    specs = [tf.TensorSpec(shape, tf.string, name) for name, shape in shapes.items() if shape]
    return tf.function(input_signature=specs, autograph=False)


def same_length(**texts: tf.Tensor) -> Any:
    """A context in which the graph fails if two inputs, given by name, differ in length."""
    (one, first), (other, second) = texts.items()
    message = f"`{one}` and `{other}` must have the same number of items"
    check = tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(second)[0], message)
    return tf.control_dependencies([check])


def cut(tokens: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """The first `counts` (int64 [N]) tokens of each row of `tokens` ([N, (tokens)])."""
    lengths = tokens.row_lengths()
    positions = tf.ragged.range(lengths).flat_values
    kept = tf.boolean_mask(tokens.flat_values, positions < tf.repeat(counts, lengths))
    return tf.RaggedTensor.from_row_lengths(kept, tf.minimum(counts, lengths))


def cut_pair(first: tf.RaggedTensor, second: tf.RaggedTensor, max_tokens: int):
    """`data.tokenizer.truncation.kept_lengths` applied to N pairs."""
    firsts, seconds = first.row_lengths(), second.row_lengths()
    longest = tf.maximum(max_tokens - seconds, (max_tokens + 1) // 2)
    firsts = tf.where(firsts + seconds > max_tokens, tf.minimum(firsts, longest), firsts)
    return cut(first, firsts), cut(second, tf.minimum(seconds, max_tokens - firsts))


class Network:
    """A pipeline's network, and the tokenizer that makes its rows."""

    def __init__(self, pipeline: Any):
        self.network = pipeline.network
        self.tokenizer, self.max_seq_length = pipeline.tokenizer, pipeline.max_seq_length
        # Without a mask, padding changes the outputs, so rows are padded as in training.
        self.pad_to_max = not pipeline.model.config.mask_padding

    def rows_of_texts(self, texts: tf.Tensor, text_pairs: tf.Tensor | None = None) -> dict:
        """The inputs for texts, or for pairs of texts, strings [N]; see `rows_of_tokens`."""
        tokens = self.tokenizer.tokenize(texts)
        if text_pairs is None:
            room = tf.constant(self.max_seq_length - 2, tf.int64)
            return self.rows_of_tokens(cut(tokens, tf.fill(tf.shape(texts), room)))
        with same_length(text=texts, text_pair=text_pairs):
            pairs = self.tokenizer.tokenize(tf.identity(text_pairs))
        room = tf.constant(self.max_seq_length - 3, tf.int64)
        return self.rows_of_tokens(*cut_pair(tokens, pairs, room))

    def rows_of_tokens(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None) -> dict:
        """The inputs for ids [N, (tokens)] that fit: `input_ids`, `input_mask`, `segment_ids`.

        Each is int32 [N, T].
        """
        cls, sep = (
            tf.RaggedTensor.from_uniform_row_length(tf.fill([first.nrows()], token), 1)
            for token in (self.tokenizer.cls_id, self.tokenizer.sep_id)
        )
        ids = tf.concat([cls, first, sep] + ([] if second is None else [second, sep]), axis=1)
        lengths = ids.row_lengths()
        # A row has at least two tokens; without rows there is no maximum.
        longest = tf.maximum(tf.reduce_max(lengths), 2)
        width = tf.constant(self.max_seq_length, tf.int64) if self.pad_to_max else longest
        pad_id = self.tokenizer.pad_id
        dense = ids.to_tensor(pad_id)
        missing = [[0, 0], [0, width - tf.shape(dense, tf.int64)[1]]]
        dense = tf.pad(dense, missing, constant_values=pad_id)
        mask = tf.sequence_mask(lengths, width, tf.int32)
        segments = tf.zeros_like(mask)
        if second is not None:
            segments = mask - tf.sequence_mask(first.row_lengths() + 2, width, tf.int32)
        inputs = {"input_ids": dense, "input_mask": mask, "segment_ids": segments}
        return {name: tf.ensure_shape(array, [None, None]) for name, array in inputs.items()}

    def __call__(self, inputs: dict) -> Any:
        """The network's outputs for inputs by name, [N, …]: an array, or arrays by name, [N, …]."""
        names = list(inputs)
        specs = [tf.TensorSpec([None, *inputs[n].shape[1:]], inputs[n].dtype) for n in names]

        # A function of its own, so that the graph contains the network once.
        @tf.function(input_signature=specs, autograph=False)
        def apply(*arrays):
            return self.network(dict(zip(names, arrays, strict=True)), training=False)

        num_rows = tf.shape(inputs[names[0]])[0]
        outputs = apply.get_concrete_function().structured_outputs
        flat = tf.nest.flatten(outputs)
        arrays = [
            tf.TensorArray(spec.dtype, 0, dynamic_size=True, infer_shape=False) for spec in flat
        ]

        def step(index, arrays):
            begin = index * ROWS_AT_ONCE
            found = apply(*(inputs[name][begin : begin + ROWS_AT_ONCE] for name in names))
            written = zip(arrays, tf.nest.flatten(found), strict=True)
            return index + 1, [array.write(index, value) for array, value in written]

        # There is always at least one step, even without rows, because it gives empty outputs their
        # shape.
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
