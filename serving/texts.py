"""Graphs that say one thing of each text: classes, scores, vectors, choices, or words for masks."""

import tensorflow as tf

from common.fields import require
from data.tasks.classification.decoding import MULTI_LABEL, REGRESSION
from pipelines import FeatureExtractor, FillMask, MultipleChoice, TextClassifier
from pipelines.fill_mask import MASK
from serving.graph import STRINGS, Network, TextGraph
from serving.rows import run


def classifier_graph(classifier: TextClassifier, pairs: bool) -> TextGraph:
    """`text`, and with `pairs` `text_pair`, strings [B] → what `TextClassifier` predicts.

    Outputs: `label` [B] and `probabilities` [B, labels]; where a text may have several labels,
    `labels` [B, most], "" behind the last, and `num_labels` [B]; or `score` [B].
    """
    network = Network(classifier, classifier.max_seq_length)

    def classify(text, text_pair=None):
        logits = network(network.rows.of_texts(text, text_pair))
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

    return TextGraph(classify, _texts(pairs), classifier.model)


def feature_graph(extractor: FeatureExtractor, pairs: bool) -> TextGraph:
    """`text`, and with `pairs` `text_pair`, strings [B] → `vector` [B, H]."""
    network = Network(extractor, extractor.max_seq_length)

    def encode(text, text_pair=None):
        return {"vector": network(network.rows.of_texts(text, text_pair))}

    return TextGraph(encode, _texts(pairs), extractor.model)


def _texts(pairs):
    return {"text": STRINGS} | ({"text_pair": STRINGS} if pairs else {})


def choice_graph(chooser: MultipleChoice) -> TextGraph:
    """`context` [B] and `choices` [B, C], strings → `choice` int32 [B] and `probabilities` [B, C].

    Where choices have names, these are `label` [B].
    """
    network = Network(chooser, chooser.max_seq_length)
    count = len(chooser.labels) if chooser.labels else None

    def choose(context, choices):
        shape = tf.shape(choices)
        pairs = tf.repeat(context, shape[1]), tf.reshape(choices, [-1])
        rows = network.rows.of_texts(*pairs)
        logits = network(
            {
                name: tf.reshape(array, [shape[0], shape[1], tf.shape(array)[1]])
                for name, array in rows.items()
            }
        )
        best = tf.argmax(logits, axis=1, output_type=tf.int32)
        found = {"choice": best, "probabilities": tf.nn.softmax(logits)}
        return found | ({"label": tf.gather(chooser.labels, best)} if chooser.labels else {})

    inputs = {"context": STRINGS, "choices": tf.TensorSpec([None, count], tf.string)}
    return TextGraph(choose, inputs, chooser.model)


def mask_graph(filler: FillMask, top_k: int) -> TextGraph:
    """`text`, strings [B], with M [MASK] at most → the likeliest tokens for each.

    Outputs: `tokens` and `probabilities` [B, M, top_k], "" and 0 behind a text's last mask, and
    `num_masks` [B]. A `top_k` that the vocabulary has not is an `InputError`.
    """
    tokenizer, network = filler.tokenizer, Network(filler, filler.max_seq_length)
    require(1 <= top_k <= tokenizer.vocab_size, "--top-k",
            f"from 1 to the vocabulary's {tokenizer.vocab_size}", top_k)  # fmt: skip
    room = filler.max_seq_length - 2
    vocabulary = tf.constant(tokenizer.vocab)

    def fill(text):
        parts = tf.strings.split(text, MASK)
        pieces = tokenizer.tokenize(parts.flat_values)
        masks = tf.fill([pieces.nrows(), 1], tokenizer.mask_id)
        ids = parts.with_values(tf.concat([pieces, masks], axis=1)).merge_dims(1, 2)
        ids = ids[:, :-1]  # a mask follows each part but the last
        num_masks = parts.row_lengths() - 1
        text_of, places = _places(ids, tokenizer.mask_id)
        # A text that is too long has a row for each mask: the tokens around it.
        lengths = ids.row_lengths()
        is_long = lengths > room
        rows_of = tf.where(is_long, num_masks, 1)
        text_of_row = tf.repeat(tf.range(ids.nrows()), rows_of)
        number = tf.ragged.range(num_masks).flat_values  # of each mask, in its text
        row = tf.gather(tf.cumsum(rows_of, exclusive=True), text_of)
        row += tf.where(tf.gather(is_long, text_of), number, 0)
        begins = tf.clip_by_value(places - room // 2, 0, tf.gather(lengths, text_of) - room)
        begins = tf.where(tf.gather(is_long, text_of), begins, 0)
        firsts = tf.math.unsorted_segment_max(begins, row, tf.reduce_sum(rows_of))
        firsts = tf.maximum(firsts, 0)  # of a row without a mask
        counts = tf.minimum(tf.gather(lengths, text_of_row) - firsts, room)
        starts = tf.gather(ids.row_starts(), text_of_row) + firsts
        windows = tf.ragged.range(starts, starts + counts)
        windows = windows.with_values(tf.gather(ids.flat_values, windows.flat_values))
        hidden = run(
            lambda batch: filler.model.convbert(batch, training=False),
            network.rows.of_pieces(windows),
        )
        vectors = tf.gather_nd(hidden, tf.stack([row, places - begins + 1], axis=1))
        logits = filler.model.predict_tokens(vectors[None])[0]
        best, tokens = tf.math.top_k(tf.nn.softmax(logits), top_k)

        def by_text(values, missing):
            ragged = tf.RaggedTensor.from_row_lengths(values, num_masks)
            return ragged.to_tensor(missing, shape=[None, None, top_k])

        return {
            "tokens": by_text(tf.gather(vocabulary, tokens), ""),
            "probabilities": by_text(best, 0.0),
            "num_masks": tf.cast(num_masks, tf.int32),
        }

    return TextGraph(fill, {"text": STRINGS}, filler.model)


def _places(ids, wanted):
    """Of each token `wanted` the row and the place in it, int64 each, in order."""
    where = tf.where(ids.flat_values == wanted)[:, 0]
    rows = tf.gather(ids.value_rowids(), where)
    return rows, where - tf.gather(ids.row_starts(), rows)
