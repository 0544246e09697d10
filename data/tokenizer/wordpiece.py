"""WordPiece as a TensorFlow graph: strings in, token ids and offsets out.

It consists of a few string kernels over whole batches, so it is fast and runs in an exported graph.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_text.python.ops.fast_wordpiece_tokenizer import FastWordpieceTokenizer
from tensorflow_text.python.ops.normalize_ops import normalize_utf8

from common.errors import InputError
from data.tokenizer.vocab_file import MAX_WORD_LENGTH

# Patterns are RE2's. This one matches U+FFFD, and category C except three control characters that
# count as spaces. RE2's own \p{C} lacks the unassigned code points of category C.
_CONTROLS = r"[^\p{L}\p{M}\p{N}\p{P}\p{S}\p{Z}\t\n\r]|\x{FFFD}"
_ACCENTS = r"\p{Mn}+"
_ASCII_SYMBOLS = r"!-/:-@\[-`{-~"
_CJK = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{2F800}-\x{2FA1F}"
)
_SINGLES = rf"\p{{P}}{_ASCII_SYMBOLS}{_CJK}"  # each of these is a word by itself
_WORD_BOUNDARY = rf"[\p{{Z}}{_SINGLES}]"
_POSSIBLE_TOKEN = rf"[{_SINGLES}]|(?:##)?[^\p{{C}}\p{{Z}}{_SINGLES}\x{{FFFD}}]+"
# Capital letters of Unicode 14 that TensorFlow's lower-casing, of Unicode 13, leaves as they are:
# first, last, and the distance to the small letters.
_NEW_CAPITALS = (
    (0x2C2F, 0x2C2F, 0x30),
    (0xA7C0, 0xA7C0, 1),
    (0xA7D0, 0xA7D0, 1),
    (0xA7D6, 0xA7D6, 1),
    (0xA7D8, 0xA7D8, 1),
    (0x10570, 0x10595, 0x27),
)
# Capital letters that some locale (Turkish, Azerbaijani, Lithuanian) lower-cases differently, alone
# or with an accent, and what Unicode's rules make of them.
_LOCALE_LETTERS = (
    ("I", "i"),
    ("J", "j"),
    ("\u012e", "\u012f"),  # I with ogonek
    ("\u00cc", "\u00ec"),  # I with grave
    ("\u00cd", "\u00ed"),  # I with acute
    ("\u0128", "\u0129"),  # I with tilde
    ("\u0130", "i\u0307"),  # I with dot above
)
_CLASS_OF_NEW_CAPITALS = "".join(
    rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last, _ in _NEW_CAPITALS
)
_ORDINARY = rf"[^{_CLASS_OF_NEW_CAPITALS}]*"  # it matches valid UTF-8 only
# It leaves out only the most common separators of words: 201 copies of the complete class outgrow
# RE2's automaton, and matching becomes a thousand times slower.
_SURELY_IN_A_WORD = (
    rf"[^ \t\n\r{_ASCII_SYMBOLS}\x{{3000}}-\x{{3002}}\x{{4E00}}-\x{{9FFF}}\x{{FF0C}}]"
)

# Private-use characters never come out of the clean-up, so no text has words made of them.
_LONG_WORD = "\ue000"
_IMPOSSIBLE_TOKEN = "\ue001"


class Tokens(NamedTuple):
    """The tokens of one text: int32 ids, and the characters `[start, end)` that each comes from."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class WordPiece:
    """Cuts the words of texts into the longest tokens that a vocabulary has.

    Args:
        vocab: V tokens, in the order of their ids; a repeated token has its last id.
        do_lower_case: lower-case the text.
        strip_accents: decompose the text and drop its accents.
        max_word_length: a word with more characters, once cleaned, is [UNK].
    """

    def __init__(
        self,
        vocab: Sequence[str],
        do_lower_case: bool,
        strip_accents: bool,
        max_word_length: int = MAX_WORD_LENGTH,
    ):
        self.vocab = vocab
        self.do_lower_case, self.strip_accents = do_lower_case, strip_accents
        self.max_word_length = max_word_length
        self._ids = {token: index for index, token in enumerate(vocab)}
        self._kernel = FastWordpieceTokenizer(
            _usable_tokens(vocab, self._ids),
            unknown_token="[UNK]",
            max_bytes_per_word=2**30,  # the limit is in characters, and applied before
            token_out_type=tf.int32,
            support_detokenization=False,
        )
        self._offsets_graph = tf.function(  # eager, its many small operations are slow
            self.tokenize_with_ragged_offsets, [tf.TensorSpec([None], tf.string)], autograph=False
        )

    def tokenize(self, texts) -> tf.RaggedTensor:
        """Cuts texts into tokens, without special ones.

        TensorFlow operations only: it can be part of a `tf.function` or of a `tf.data` map. The
        ids of a text depend only on the text. Bytes that are not UTF-8 are dropped.

        Args:
            texts: strings `[N]`: a string tensor, or a list of `str` or UTF-8 `bytes`.

        Returns:
            int32 ids, ragged `[N, (tokens)]`.

        Raises:
            InputError: `texts` is anything else, or has half a surrogate pair.
        """
        texts = _normalize(
            _as_string_tensor(texts), self.do_lower_case, self.strip_accents, self.max_word_length
        )
        return self._kernel.tokenize(texts)

    def tokenize_with_offsets(self, texts: Sequence[str]) -> list[Tokens]:
        """Cuts texts into the tokens of `tokenize`, with their positions in Python's strings.

        Raises:
            InputError: `texts` is not a list of `str`, or has half a surrogate pair.
        """
        return split_rows(*self._offsets_graph(_as_string_tensor(check_strings(texts))))

    def tokenize_with_ragged_offsets(
        self, texts: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Cuts texts into the tokens of `tokenize`, and finds the characters that each comes from.

        An accent that is dropped belongs to the letter before it. Other dropped characters belong
        to no token. Where the clean-up makes several characters of one, such as the letters of a
        Hangul syllable, all of them have its offsets. TensorFlow operations only.

        Args:
            texts: strings `[N]`, valid UTF-8.

        Returns:
            Ids int32, and the characters `[start, end)` of each token, int64; ragged
            `[N, (tokens)]`.
        """
        options = self.do_lower_case, self.strip_accents
        clean = _cover_long_words(_clean(texts, *options), self.max_word_length)
        ids, first_bytes, end_bytes = self._kernel.tokenize_with_offsets(clean)
        starts, ends, text_starts = _source_characters(texts, options)
        # In bytes of the cleaned texts, one after the other.
        char_starts = tf.strings.unicode_decode_with_offsets(clean, "UTF-8")[1]
        text_bytes = tf.cast(tf.cumsum(tf.strings.length(clean), exclusive=True), tf.int64)
        char_starts = char_starts.flat_values + tf.gather(text_bytes, char_starts.value_rowids())
        rows = ids.value_rowids()

        def char_of(offsets):
            offsets = offsets.flat_values + tf.gather(text_bytes, rows)
            return tf.searchsorted(char_starts, offsets, side="right") - 1

        before = tf.gather(text_starts, rows)
        starts = tf.gather(starts, char_of(first_bytes)) - before
        ends = tf.gather(ends, char_of(end_bytes - 1)) - before
        return ids, ids.with_flat_values(starts), ids.with_flat_values(ends)


def split_rows(
    ids: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor
) -> list[Tokens]:
    """Makes `Tokens` from each row of three ragged tensors with the same row lengths."""
    columns = [ragged.values.numpy().astype(np.int32) for ragged in (ids, starts, ends)]
    bounds = itertools.pairwise(ids.row_splits.numpy())
    return [Tokens(*(column[a:b] for column in columns)) for a, b in bounds]


def separate_words(texts, do_lower_case: bool, strip_accents: bool) -> tf.Tensor:
    """Separates the words that a `ConvBertTokenizer` with these options would cut into tokens.

    `texts` are strings `[N]`, and so is the result: the words with one or more spaces between them.
    A private-use character, which is in no vocabulary, replaces a word over the length limit.
    """
    options = do_lower_case, do_lower_case and strip_accents
    texts = _normalize(_as_string_tensor(texts), *options, MAX_WORD_LENGTH)
    texts = tf.strings.regex_replace(texts, r"[\p{Z}\t\n\r]", " ")
    return tf.strings.regex_replace(texts, f"[{_SINGLES}]", r" \0 ")


def possible_tokens(tokens) -> np.ndarray:
    """Says which tokens a text can match: bool `[N]`. "don't" cannot: it is split before."""
    return tf.strings.regex_full_match(tokens, _POSSIBLE_TOKEN).numpy()


def _normalize(texts, do_lower_case, strip_accents, max_word_length):
    """Cleans strings `[N]`, and replaces words over the limit."""
    texts = _clean(texts, do_lower_case, strip_accents)
    return tf.cond(
        tf.reduce_any(_may_have_long_words(texts, max_word_length)),
        lambda: _replace_long_words(texts, max_word_length),
        lambda: texts,
    )


def _may_have_long_words(texts, max_word_length):
    """Finds all of strings `[N]` that have a word over the limit, and few others: bool `[N]`."""
    pattern = rf"(?s).*{_SURELY_IN_A_WORD}{{{max_word_length + 1}}}.*"
    return tf.strings.regex_full_match(texts, pattern)


def _clean(texts, do_lower_case, strip_accents):
    """Drops control characters from strings `[N]`; lower-cases and drops accents as asked."""
    # The order is the original's. A lower-case sigma depends on its neighbors, so control
    # characters must be gone before; accents come off only once NFD has taken them apart.
    texts = tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(texts, _ORDINARY)),
        lambda: texts,
        lambda: _repair(texts, do_lower_case),
    )
    texts = tf.strings.regex_replace(texts, _CONTROLS, "")
    if do_lower_case:
        texts = _lower(texts)
    if strip_accents:
        texts = normalize_utf8(texts, "NFD")
        texts = tf.strings.regex_replace(texts, _ACCENTS, "")
    return texts


def _lower(texts):
    """Lower-cases strings `[N]` by the same rules in every locale.

    `tf.strings.lower` follows the locale of the process: in Turkish "I" becomes a dotless i.
    """
    capitals, small = zip(*_LOCALE_LETTERS, strict=True)
    is_locale_independent = tf.reduce_all(tf.strings.lower(capitals, encoding="utf-8") == small)

    def replace_letters():
        replaced = texts
        for capital, letter in _LOCALE_LETTERS:
            replaced = tf.strings.regex_replace(replaced, capital, letter)
        return replaced

    texts = tf.cond(is_locale_independent, lambda: texts, replace_letters)
    return tf.strings.lower(texts, encoding="utf-8")


def _repair(texts, do_lower_case):
    """Drops bytes that are not UTF-8, and lower-cases what `tf.strings.lower` does not."""
    texts = tf.strings.unicode_decode(texts, "UTF-8", errors="ignore")
    if do_lower_case:
        points = texts.flat_values
        for first, last, distance in _NEW_CAPITALS:
            is_capital = (points >= first) & (points <= last)
            points = tf.where(is_capital, points + distance, points)
        texts = texts.with_flat_values(points)
    return tf.strings.unicode_encode(texts, "UTF-8")


def _replace_long_words(texts, max_word_length):
    """Replaces each word over the limit by a word that no vocabulary has."""
    words = tf.strings.split(tf.strings.regex_replace(texts, _WORD_BOUNDARY, r" \0 "))
    too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > max_word_length
    words = words.with_flat_values(tf.where(too_long, _LONG_WORD, words.flat_values))
    return tf.strings.reduce_join(words, axis=-1, separator=" ")


def _cover_long_words(texts, max_word_length):
    """Replaces each word over the limit by one of the same length that no vocabulary has."""

    def cover():
        chars = tf.strings.unicode_split(texts, "UTF-8")
        is_boundary = tf.strings.regex_full_match(chars.flat_values, rf"[\t\n\r]|{_WORD_BOUNDARY}")
        # Both terms grow along the texts, so their sum numbers the words.
        word = tf.cumsum(tf.cast(is_boundary, tf.int64)) + chars.value_rowids()
        lengths = tf.math.segment_sum(tf.cast(~is_boundary, tf.int64), word)
        too_long = ~is_boundary & (tf.gather(lengths, word) > max_word_length)
        covered = tf.where(too_long, _LONG_WORD, chars.flat_values)
        return tf.strings.reduce_join(chars.with_flat_values(covered), axis=-1)

    has_suspects = tf.reduce_any(_may_have_long_words(texts, max_word_length))
    return tf.cond(has_suspects, cover, lambda: texts)


def _source_characters(texts, options):
    """Traces the characters of the cleaned texts back to the texts, one after the other.

    Returns:
        For each character of the cleaned texts, the start and the end of the character that it
        comes from, including its accents if they are dropped; and the start of each text. All
        int64.
    """
    points = tf.strings.unicode_decode(texts, "UTF-8")
    # How many characters one becomes does not depend on its neighbors.
    distinct, inverse = tf.unique(points.flat_values)
    chars = tf.strings.unicode_encode(distinct[:, None], "UTF-8")
    lengths = tf.strings.length(_clean(chars, *options), unit="UTF8_CHAR")
    is_accent = tf.strings.regex_full_match(chars, r"\p{Mn}")
    size = tf.size(inverse, tf.int64)
    positions = tf.range(size)
    sources = tf.repeat(positions, tf.gather(lengths, inverse))
    # A letter ends at the next character that is not a dropped accent, or where its text ends.
    is_dropped = tf.gather(is_accent & (lengths == 0), inverse)
    letters = tf.boolean_mask(positions, ~is_dropped)
    following = tf.searchsorted(letters, positions + 1)
    ends = tf.gather(tf.concat([letters, [size]], axis=0), following)
    ends = tf.minimum(ends, tf.gather(points.row_limits(), points.value_rowids()))
    return sources, tf.gather(ends, sources), points.row_starts()


def _usable_tokens(vocab, ids):
    """Replaces tokens that no text can match at their id with fillers.

    These are all but the last of repeated tokens, and tokens that splitting would have cut
    ("don't"). If these stayed, tensorflow-text would differ from the original, or raise an error.
    """
    possible = possible_tokens(vocab)
    return [
        token
        if ids[token] == index and (possible[index] or token == "[UNK]")
        else f"{_IMPOSSIBLE_TOKEN}{index}"
        for index, token in enumerate(vocab)
    ]


def _as_string_tensor(texts):
    if not tf.is_tensor(texts):
        texts = _as_list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str | bytes):
                raise InputError(
                    f"`texts` must be strings. Received at index {index}: {type(text).__name__} "
                    f"({text!r:.50})"
                )
        try:
            texts = tf.constant(texts, tf.string, shape=[len(texts)])
        except ValueError:
            _check_unicode(texts)
            raise
    if texts.dtype != tf.string or texts.shape.rank not in (1, None):
        raise InputError(
            "`texts` must be a string tensor of shape [N]. "
            f"Received: {texts.dtype.name} of shape {texts.shape}"
        )
    return texts


def _as_list(texts):
    if isinstance(texts, str | bytes):
        raise InputError("`texts` must be a list of strings: write [text] for a single one")
    # A list made of a mapping or a table would hold the names of its columns.
    if not isinstance(texts, Mapping) and not hasattr(texts, "columns"):
        with contextlib.suppress(TypeError):
            return list(texts)
    raise InputError(f"`texts` must be a list of strings. Received: {type(texts).__name__}")


def _check_unicode(texts):
    """Raises an `InputError` that names half a surrogate pair, which UTF-8 does not have."""
    for index, text in enumerate(texts):
        try:
            if isinstance(text, str):
                text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"`texts` must be Unicode. Received at index {index}, character {error.start}: "
                f"half a surrogate pair ({text[error.start]!r})"
            ) from None


def check_strings(texts: Sequence[str]) -> list[str]:
    """Returns the texts as a list; raises an `InputError` if they are not a list of `str`."""
    if not isinstance(texts, str | bytes) and not tf.is_tensor(texts):
        texts = _as_list(texts)
        if all(isinstance(text, str) for text in texts):
            _check_unicode(texts)
            return texts
    raise InputError(
        "`texts` must be a list of `str` to parse special tokens or to return offsets. "
        f"Received: {texts!r:.80}"
    )
