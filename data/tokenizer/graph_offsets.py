"""`WordPiece.tokenize_with_offsets` as operations of a graph."""

import tensorflow as tf

from data.tokenizer import wordpiece as parts  # of which this is a part, in a file of its own
from data.tokenizer.wordpiece import WordPiece

_BOUNDARY = rf"[\t\n\r]|{parts._WORD_BOUNDARY}"


def tokenize_with_places(
    tokenizer: WordPiece, texts: tf.Tensor
) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
    """Cuts texts into pieces, and says where in the texts they come from.

    Args:
        tokenizer: whose pieces.
        texts: strings `[N]`, UTF-8.

    Returns:
        Ids int32, and the characters `[start, end)` of each piece, int64; ragged `[N, (tokens)]`.
    """
    options = tokenizer.do_lower_case, tokenizer.strip_accents
    clean = _cover_long_words(parts._clean(texts, *options), tokenizer.max_word_length)
    ids, first_bytes, end_bytes = tokenizer._kernel.tokenize_with_offsets(clean)
    sources, ends_of_letters, text_starts = _source_places(texts, options)
    char_starts = tf.strings.unicode_decode_with_offsets(clean, "UTF-8")[1]  # in bytes
    text_bytes = tf.cumsum(tf.strings.length(clean), exclusive=True)
    text_bytes = tf.cast(text_bytes, tf.int64)
    char_starts = char_starts.flat_values + tf.gather(text_bytes, char_starts.value_rowids())
    rows = ids.value_rowids()

    def char_of(offsets):
        places = offsets.flat_values + tf.gather(text_bytes, rows)
        return tf.searchsorted(char_starts, places, side="right") - 1

    before = tf.gather(text_starts, rows)
    starts = tf.gather(sources, char_of(first_bytes)) - before
    ends = tf.gather(ends_of_letters, tf.gather(sources, char_of(end_bytes - 1))) - before
    return ids, ids.with_flat_values(starts), ids.with_flat_values(ends)


def _source_places(texts, options):
    """See `WordPiece._source_places`.

    Returns:
        Of each character of the cleaned texts, one after the other, the number of the one it comes
        from; of each of these where it ends, with the accents on it that are dropped; and where
        each text begins among them. All int64.
    """
    points = tf.strings.unicode_decode(texts, "UTF-8")
    distinct, inverse = tf.unique(points.flat_values)
    chars = tf.strings.unicode_encode(distinct[:, None], "UTF-8")
    lengths = tf.strings.length(parts._clean(chars, *options), unit="UTF8_CHAR")
    is_accent = tf.strings.regex_full_match(chars, r"\p{Mn}")
    places = tf.range(tf.size(inverse, tf.int64))
    sources = tf.repeat(places, tf.gather(lengths, inverse))
    # A letter ends where the next character begins that is no accent of it.
    is_dropped = tf.gather(is_accent & (lengths == 0), inverse)
    letters = tf.boolean_mask(places, ~is_dropped)
    number = tf.searchsorted(letters, places + 1)
    next_letter = tf.gather(tf.concat([letters, [tf.size(inverse, tf.int64)]], axis=0), number)
    text_ends = tf.gather(points.row_limits(), points.value_rowids())
    return sources, tf.minimum(next_letter, text_ends), points.row_starts()


def _cover_long_words(texts, max_word_length):
    """`data.tokenizer.wordpiece._cover_long_words` in a graph."""
    is_suspect = parts._may_have_long_words(texts, max_word_length)

    def cover():
        chars = tf.strings.unicode_split(texts, "UTF-8")
        is_boundary = tf.strings.regex_full_match(chars.flat_values, _BOUNDARY)
        # Both grow along the texts, so their sum is another number in every other word.
        word = tf.cumsum(tf.cast(is_boundary, tf.int64)) + chars.value_rowids()
        lengths = tf.math.segment_sum(tf.cast(~is_boundary, tf.int64), word)
        too_long = ~is_boundary & (tf.gather(lengths, word) > max_word_length)
        covered = tf.where(too_long, parts._LONG_WORD, chars.flat_values)
        return tf.strings.reduce_join(chars.with_flat_values(covered), axis=-1)

    return tf.cond(tf.reduce_any(is_suspect), cover, lambda: texts)
