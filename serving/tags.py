"""The graph of a tagger: sentences in; words, and a tag for each, out."""

import numpy as np
import tensorflow as tf

from data.tasks.tagging.entities import OUTSIDE
from pipelines import Tagger
from serving.graph import STRINGS, Network, TextGraph
from serving.rows import cut

# What `str.split` takes for spaces.
_SPACES = (
    r"[\x{09}-\x{0D}\x{1C}-\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}"
    r"\x{205F}\x{3000}]+"
)


def tag_graph(tagger: Tagger) -> TextGraph:
    """`text`, strings [B]: sentences of W words at most → what `Tagger` finds in them.

    Words are what spaces separate. Outputs: `words`, `tags` and `probabilities` [B, W], "" and 0
    behind a sentence's last word, and `num_words` [B].
    """
    network = Network(tagger, tagger.max_seq_length)
    scheme = tagger.task.file_scheme
    labels = tf.constant(tagger.labels)

    def tag(text):
        words = split_words(text)
        rows, word_rows, word_places = sentence_rows(tagger.tokenizer, words, network.rows)
        logits = tf.gather_nd(network(rows), tf.stack([word_rows, word_places], axis=1))
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

    return TextGraph(tag, {"text": STRINGS}, tagger.model)


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """`str.split` of strings [B] → [B, (words)]."""
    return tf.strings.split(tf.strings.regex_replace(texts, _SPACES, " "))


def sentence_rows(tokenizer, words: tf.RaggedTensor, rows):
    """What `data.tasks.tagging.features` makes of sentences.

    Args:
        tokenizer: a `ConvBertTokenizer`.
        words: of each sentence, [S, (words)].
        rows: a `Rows`.

    Returns:
        The network's inputs, a row for each sentence or window of one; and for each word its row
        and the place of its first token there, int64 [words].
    """
    room = rows.max_seq_length - 2
    pieces = tokenizer.tokenize(words.flat_values)
    is_missing = tf.cast(pieces.row_lengths() == 0, tf.int64)
    unknown = tf.fill([tf.reduce_sum(is_missing)], tokenizer.unk_id)
    pieces = tf.concat([pieces, tf.RaggedTensor.from_row_lengths(unknown, is_missing)], axis=1)
    pieces = cut(pieces, tf.fill([pieces.nrows()], tf.constant(room, tf.int64)))
    starts = pieces.row_splits
    begin, end, first = windows(starts, words.row_starts(), words.row_limits(), room)
    # The words from `first` to the next window's are a window's own.
    own = tf.concat([first[1:], [pieces.nrows()]], axis=0) - first
    begin, end, own = (tf.boolean_mask(array, own > 0) for array in (begin, end, own))
    places = tf.ragged.range(tf.gather(starts, begin), tf.gather(starts, end))
    ids = places.with_values(tf.gather(pieces.flat_values, places.flat_values))
    word_rows = tf.repeat(tf.range(tf.size(own, tf.int64)), own)
    word_places = 1 + starts[:-1] - tf.gather(starts, tf.gather(begin, word_rows))
    return rows.of_pieces(ids), word_rows, word_places


def windows(starts: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor, room: int):
    """The windows of sentences: `data.tasks.tagging.features._windows` for all of them at once.

    Args:
        starts: int64 [words + 1], where each word's tokens begin, and where the last one's end.
        begins, ends: int64 [S], each sentence's words.
        room: the most tokens of a window.

    Returns:
        First word, end, and first word of its own of each window, int64 [windows], sentence by
        sentence.
    """

    def place_of(tokens, side="left"):
        return tf.searchsorted(starts, tokens, side=side, out_type=tf.int64)

    def step(number, begin, first, is_open, found):
        end = tf.minimum(ends, place_of(tf.gather(starts, begin) + room, "right") - 1)
        window = tf.stack([begin, end, first, tf.cast(is_open, tf.int64)], axis=1)
        found = found.write(number, window)
        # The next one must have room for the word `end`, however long: then nothing may overlap.
        after = tf.gather(starts, tf.minimum(end + 1, tf.size(starts, tf.int64) - 1))
        least = tf.maximum(tf.gather(starts, begin) + room // 2, after - room)
        following = tf.minimum(end, place_of(least))
        middle = (tf.gather(starts, following) + tf.gather(starts, end)) // 2
        return number + 1, following, place_of(middle), is_open & (end < ends), found

    found = tf.TensorArray(tf.int64, 0, dynamic_size=True, element_shape=[None, 4])
    # At least once: nothing must have a shape, too.
    *_, found = tf.while_loop(
        lambda number, begin, first, is_open, found: (number == 0) | tf.reduce_any(is_open),
        step,
        (0, begins, begins, tf.ones_like(begins, tf.bool), found),
    )
    by_sentence = tf.transpose(found.stack(), [1, 0, 2])
    begin, end, first, is_open = tf.unstack(by_sentence, axis=2)
    return tuple(tf.boolean_mask(array, is_open > 0) for array in (begin, end, first))


def convert_tags(labels, numbers: tf.Tensor, sentences: tf.Tensor, scheme: str) -> tf.Tensor:
    """`entities.convert_tags`: tags of entities, whether they fit together or not, in a scheme.

    Args:
        labels: of entities.
        numbers: int64 [words], each word's label.
        sentences: int64 [words], each word's sentence.
        scheme: of `data.tasks.tagging.entities.SCHEMES`.

    Returns:
        Strings [words].
    """
    prefixes, _, kinds = np.array([label.partition("-") for label in labels]).T
    goes_on = (kinds[:, None] == kinds) & np.isin(prefixes, ("I", "E"))  # [before, label]
    goes_on &= np.isin(prefixes, ("B", "I"))[:, None]
    same_kind = kinds[:, None] == kinds
    pairs = tf.stack([numbers[:-1], numbers[1:]], axis=1)
    same_sentence = sentences[:-1] == sentences[1:]
    inside = tf.gather(prefixes != OUTSIDE, numbers)
    edge = tf.zeros([tf.minimum(tf.size(numbers), 1)], tf.bool)
    continues = tf.gather_nd(tf.constant(goes_on), pairs) & same_sentence
    begins = inside & ~tf.concat([edge, continues], axis=0)
    ends = inside & ~tf.concat([continues, edge], axis=0)
    if scheme == "IOB1":
        # B only where another entity of the kind ends just before.
        adjoins = tf.gather_nd(tf.constant(same_kind), pairs) & same_sentence & inside[:-1]
        is_b = begins & tf.concat([edge, adjoins], axis=0)
    else:
        is_b = begins
    prefix = tf.where(is_b, "B-", "I-")
    if scheme == "BIOES":
        prefix = tf.where(ends, tf.where(begins, "S-", "E-"), prefix)
    tags = tf.strings.join([prefix, tf.gather(tf.constant(kinds), numbers)])
    return tf.where(inside, tags, OUTSIDE)
