"""Graphs with one result per text: classes, scores, vectors, choices, or tokens for masks."""

from typing import Any

import tensorflow as tf

from common.fields import require
from data.tasks.classification.decoding import MULTI_LABEL, REGRESSION
from pipelines import FeatureExtractor, FillMask, MultipleChoice, TextClassifier
from pipelines.fill_mask import MASK
from serving.rows import Network, function_of, same_length


def classifier_graph(classifier: TextClassifier, options: Any) -> Any:
    """`text`, and with `options.pairs` `text_pair`, strings [B] → `TextClassifier`'s predictions.

    Outputs: `label` [B] and `probabilities` [B, labels]. If a text can have several labels:
    `labels` [B, most], padded with "", `num_labels` [B] and `probabilities`. For a regressor:
    `score` [B].
    """
    network = Network(classifier)

    @function_of(text=[None], text_pair=[None] if options.pairs else None)
    def classify(text, text_pair=None):
        logits = network(network.rows_of_texts(text, text_pair))
        if classifier.problem_type == REGRESSION:
            low, high = classifier.score_range or (0.0, 1.0)
            score = low + logits[:, 0] * (high - low)
            bounded = classifier.score_range is not None
            return {"score": tf.clip_by_value(score, low, high) if bounded else score}
        names = tf.constant(classifier.labels)
        if classifier.problem_type != MULTI_LABEL:
            label = tf.gather(names, tf.argmax(logits, axis=1))
            return {"label": label, "probabilities": tf.nn.softmax(logits)}
        has_label = logits > 0
        every = tf.broadcast_to(names, tf.shape(logits))
        return {
            "labels": tf.ragged.boolean_mask(every, has_label).to_tensor(""),
            "num_labels": tf.reduce_sum(tf.cast(has_label, tf.int32), axis=1),
            "probabilities": tf.sigmoid(logits),
        }

    return classify


def feature_graph(extractor: FeatureExtractor, options: Any) -> Any:
    """`text`, and with `options.pairs` `text_pair`, strings [B] → `vector` [B, H]."""
    network = Network(extractor)

    @function_of(text=[None], text_pair=[None] if options.pairs else None)
    def encode(text, text_pair=None):
        return {"vector": network(network.rows_of_texts(text, text_pair))}

    return encode


def choice_graph(chooser: MultipleChoice, _: Any) -> Any:
    """`context` [B] and `choices` [B, C], strings → `choice` int32 [B] and `probabilities` [B, C].

    If the choices have names, the best choice's name is `label` [B].
    """
    network = Network(chooser)
    count = len(chooser.labels) if chooser.labels else None

    @function_of(context=[None], choices=[None, count])
    def choose(context, choices):
        num_rows, num_choices = tf.unstack(tf.shape(choices))
        with same_length(context=context, choices=choices):
            contexts = tf.repeat(context, num_choices)
        rows = network.rows_of_texts(contexts, tf.reshape(choices, [-1]))
        shape = [num_rows, num_choices, tf.shape(rows["input_ids"])[1]]
        logits = network({name: tf.reshape(array, shape) for name, array in rows.items()})
        best = tf.argmax(logits, axis=1, output_type=tf.int32)
        found = {"choice": best, "probabilities": tf.nn.softmax(logits)}
        return found | ({"label": tf.gather(chooser.labels, best)} if chooser.labels else {})

    return choose


def mask_graph(filler: FillMask, options: Any) -> Any:
    """`text`, strings [B], with up to M [MASK] → the likeliest tokens for each.

    Outputs: `tokens` and `probabilities` [B, M, top_k], padded with "" and 0, and `num_masks` [B].
    """
    tokenizer, top_k = filler.tokenizer, options.top_k
    network = Network(filler)
    expected = f"from 1 to the vocabulary's {tokenizer.vocab_size} tokens"
    require(1 <= top_k <= tokenizer.vocab_size, "--top-k", expected, top_k)
    room = filler.max_seq_length - 2
    vocabulary = tf.constant(tokenizer.vocab)

    @function_of(text=[None])
    def fill(text):
        parts = tf.strings.split(text, MASK)
        tokens = tokenizer.tokenize(parts.flat_values)
        masks = tf.fill([tokens.nrows(), 1], tokenizer.mask_id)
        ids = parts.with_values(tf.concat([tokens, masks], axis=1)).merge_dims(1, 2)
        ids = ids[:, :-1]  # every part but the last is followed by a mask
        num_masks = parts.row_lengths() - 1
        where = tf.where(ids.flat_values == tokenizer.mask_id)[:, 0]
        text_of = tf.gather(ids.value_rowids(), where)  # the text of each mask
        positions = where - tf.gather(ids.row_starts(), text_of)
        # A text has one row; a long one has a row per mask, with the tokens around it.
        lengths = ids.row_lengths()
        is_long = lengths > room
        row_counts = tf.where(is_long, num_masks, 1)
        text_of_row = tf.repeat(tf.range(ids.nrows()), row_counts)
        number = tf.ragged.range(num_masks).flat_values  # of each mask in its text
        row = tf.gather(tf.cumsum(row_counts, exclusive=True), text_of)
        row += tf.where(tf.gather(is_long, text_of), number, 0)
        begins = tf.clip_by_value(positions - room // 2, 0, tf.gather(lengths, text_of) - room)
        begins = tf.where(tf.gather(is_long, text_of), begins, 0)
        firsts = tf.math.unsorted_segment_max(begins, row, tf.reduce_sum(row_counts))
        firsts = tf.maximum(firsts, 0)  # for rows without a mask
        counts = tf.minimum(tf.gather(lengths, text_of_row) - firsts, room)
        starts = tf.gather(ids.row_starts(), text_of_row) + firsts
        windows = tf.ragged.range(starts, starts + counts)
        windows = windows.with_values(tf.gather(ids.flat_values, windows.flat_values))
        hidden = network(network.rows_of_tokens(windows))
        vectors = tf.gather_nd(hidden, tf.stack([row, positions - begins + 1], axis=1))
        logits = filler.model.predict_tokens(vectors[None])[0, :, : tokenizer.vocab_size]
        best, found = tf.math.top_k(tf.nn.softmax(logits), top_k)

        def by_text(values, missing):
            ragged = tf.RaggedTensor.from_row_lengths(values, num_masks)
            return ragged.to_tensor(missing, shape=[None, None, top_k])

        return {
            "tokens": by_text(tf.gather(vocabulary, found), ""),
            "probabilities": by_text(best, 0.0),
            "num_masks": tf.cast(num_masks, tf.int32),
        }

    return fill
