"""The graph of a tagger: sentences in; words and their tags out."""

from typing import Any

import numpy as np
import tensorflow as tf

from data.tasks.tagging.entities import OUTSIDE
from pipelines import Tagger
from serving.rows import Network, cut, function_of

# The characters that `str.split` splits at.
_SPACES = (
    r"[\x{09}-\x{0D}\x{1C}-\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}"
    r"\x{205F}\x{3000}]+"
)


def tag_graph(tagger: Tagger, _: Any) -> Any:
    """`text`, strings [B]: sentences of up to W words, separated by spaces → their tags.

    Outputs: `words`, `tags` and `probabilities` [B, W], padded with "" and 0, and `num_words` [B].
    """
    network = Network(tagger)
    scheme = tagger.task.file_scheme
    labels = tf.constant(tagger.labels)

    @function_of(text=[None])
    def tag(text):
        words = split_words(text)
        rows, word_rows, word_positions = sentence_rows(network, words)
        logits = tf.gather_nd(network(rows), tf.stack([word_rows, word_positions], axis=1))
        best = tf.argmax(logits, axis=1)
        if scheme:
            tags = convert_tags(tagger.labels, best, words.value_rowids(), scheme)
        else:
            tags = tf.gather(labels, best)
        shares = tf.reduce_max(tf.nn.softmax(logits), axis=1)
        return {
            "words": words.to_tensor(""),
            "tags": words.with_values(tags).to_tensor(""),
            "probabilities": words.with_values(shares).to_tensor(0.0),
            "num_words": tf.cast(words.row_lengths(), tf.int32),
        }

    return tag


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """`str.split` of strings [B] → [B, (words)]."""
    return tf.strings.split(tf.strings.regex_replace(texts, _SPACES, " "))


def sentence_rows(network: Network, words: tf.RaggedTensor):
    """The rows that `data.tasks.tagging.features` makes of sentences, words [S, (words)].

    Returns:
        The network's inputs, a row per sentence or window of a long sentence; and for each word,
        its row and the position of its first token there, int64 [words].
    """
    tokenizer, room = network.tokenizer, network.max_seq_length - 2
    tokens = tokenizer.tokenize(words.flat_values)
    is_missing = tf.cast(tokens.row_lengths() == 0, tf.int64)
    unknown = tf.fill([tf.reduce_sum(is_missing)], tokenizer.unk_id)
    tokens = tf.concat([tokens, tf.RaggedTensor.from_row_lengths(unknown, is_missing)], axis=1)
    tokens = cut(tokens, tf.fill([tokens.nrows()], tf.constant(room, tf.int64)))
    starts = tokens.row_splits
    begin, end, first = sentence_windows(starts, words.row_starts(), words.row_limits(), room)
    # A window owns the words from its own `first` to the `first` of the next window.
    own = tf.concat([first[1:], [tokens.nrows()]], axis=0) - first
    begin, end, own = (tf.boolean_mask(array, own > 0) for array in (begin, end, own))
    positions = tf.ragged.range(tf.gather(starts, begin), tf.gather(starts, end))
    ids = positions.with_values(tf.gather(tokens.flat_values, positions.flat_values))
    word_rows = tf.repeat(tf.range(tf.size(own, tf.int64)), own)
    word_positions = 1 + starts[:-1] - tf.gather(starts, tf.gather(begin, word_rows))
    return network.rows_of_tokens(ids), word_rows, word_positions


def sentence_windows(starts: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor, room: int):
    """The windows of `data.tasks.tagging.features`, of at most `room` tokens, for all sentences.

    `starts` [words + 1] has the first token of each word, and the end of the last word. `begins`
    and `ends` [S] have the first word and the end of each sentence. Returns the first word, the
    end, and the first owned word of each window, [windows], in the order of the sentences. All
    arrays are int64.
    """

    def word_at(tokens, side="left"):
        return tf.searchsorted(starts, tokens, side=side, out_type=tf.int64)

    def step(number, begin, first, is_open, found):
        end = tf.minimum(ends, word_at(tf.gather(starts, begin) + room, "right") - 1)
        window = tf.stack([begin, end, first, tf.cast(is_open, tf.int64)], axis=1)
        found = found.write(number, window)
        # The next window must have room for the word `end`, even without any overlap.
        after = tf.gather(starts, tf.minimum(end + 1, tf.size(starts, tf.int64) - 1))
        least = tf.maximum(tf.gather(starts, begin) + room // 2, after - room)
        following = tf.minimum(end, word_at(least))
        middle = (tf.gather(starts, following) + tf.gather(starts, end)) // 2
        return number + 1, following, word_at(middle), is_open & (end < ends), found

    found = tf.TensorArray(tf.int64, 0, dynamic_size=True, element_shape=[None, 4])
    # There is always at least one step, even without sentences, because it gives an empty result
    # its shape.
    *_, found = tf.while_loop(
        lambda number, begin, first, is_open, found: (number == 0) | tf.reduce_any(is_open),
        step,
        (0, begins, begins, tf.ones_like(begins, tf.bool), found),
    )
    by_sentence = tf.transpose(found.stack(), [1, 0, 2])
    begin, end, first, is_open = tf.unstack(by_sentence, axis=2)
    return tuple(tf.boolean_mask(array, is_open > 0) for array in (begin, end, first))


def convert_tags(labels, numbers: tf.Tensor, sentences: tf.Tensor, scheme: str) -> tf.Tensor:
    """`entities.convert_tags` in a graph: any sequence of labels → valid tags, strings [words].

    `labels` are the model's labels, which are tags of entities. `numbers` and `sentences`,
    int64 [words], are each word's label and sentence. `scheme` is one of `entities.SCHEMES`.
    """
    prefixes, _, types = np.array([label.partition("-") for label in labels]).T
    same_type = types[:, None] == types  # [label before, label]
    continues = same_type & np.isin(prefixes, ("I", "E")) & np.isin(prefixes, ("B", "I"))[:, None]
    pairs = tf.stack([numbers[:-1], numbers[1:]], axis=1)
    same_sentence = sentences[:-1] == sentences[1:]
    inside = tf.gather(prefixes != OUTSIDE, numbers)
    edge = tf.zeros([tf.minimum(tf.size(numbers), 1)], tf.bool)
    is_continued = tf.gather_nd(tf.constant(continues), pairs) & same_sentence
    begins = inside & ~tf.concat([edge, is_continued], axis=0)
    ends = inside & ~tf.concat([is_continued, edge], axis=0)
    is_b = begins
    if scheme == "IOB1":  # B- only directly after another entity of the same type
        adjoins = tf.gather_nd(tf.constant(same_type), pairs) & same_sentence & inside[:-1]
        is_b &= tf.concat([edge, adjoins], axis=0)
    prefix = tf.where(is_b, "B-", "I-")
    if scheme == "BIOES":
        prefix = tf.where(ends, tf.where(begins, "S-", "E-"), prefix)
    tags = tf.strings.join([prefix, tf.gather(tf.constant(types), numbers)])
    return tf.where(inside, tags, OUTSIDE)
