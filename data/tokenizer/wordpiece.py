"""WordPiece as a TensorFlow graph: strings in, word pieces out.

It is made of a few string kernels over whole batches, so that it is fast and runs in an exported
graph. `data.tokenizer.tokenizer` makes a tokenizer of it.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from common.errors import InputError
from data.tokenizer.vocab_file import MAX_WORD_LENGTH

# Patterns are RE2's. All of category C, unassigned included (RE2's own \p{C} leaves those out),
# but for the three control characters that count as spaces; and U+FFFD.
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
# Not all that separates words, but the commonest: with a complete class, 201 copies outgrow RE2's
# automaton, and then it is a thousand times slower.
_SURELY_IN_A_WORD = (
    rf"[^ \t\n\r{_ASCII_SYMBOLS}\x{{3000}}-\x{{3002}}\x{{4E00}}-\x{{9FFF}}\x{{FF0C}}]"
)

# Private-use characters never come out of the clean-up, so no text has words made of them.
_LONG_WORD = "\ue000"
_IMPOSSIBLE_TOKEN = "\ue001"


class Pieces(NamedTuple):
    """The word pieces of one text: int32 ids, and which characters of it `[start, end)` each is."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class WordPiece:
    """Cuts texts into the longest pieces that a vocabulary has.

    Args:
        vocab: V tokens, in the order of their ids; of a repeated one the last id counts.
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
        self._kernel = tf_text.FastWordpieceTokenizer(
            _usable_tokens(vocab, self._ids),
            unknown_token="[UNK]",
            max_bytes_per_word=2**30,  # the limit is in characters, and applied before
            token_out_type=tf.int32,
            support_detokenization=False,
        )

    def tokenize(self, texts) -> tf.RaggedTensor:
        """Cuts texts into word pieces, without special tokens.

        TensorFlow operations only: it can be part of a `tf.function` or of a `tf.data` map. The
        ids of a text depend on nothing but the text. Bytes that are not UTF-8 are dropped.

        Args:
            texts: strings `[N]`: a string tensor, or a list of `str` or UTF-8 `bytes`.

        Returns:
            int32 ids, ragged `[N, (tokens)]`.

        Raises:
            InputError: `texts` is anything else.
        """
        texts = _normalize(
            _as_string_tensor(texts), self.do_lower_case, self.strip_accents, self.max_word_length
        )
        return self._kernel.tokenize(texts)

    def tokenize_with_offsets(self, texts: Sequence[str]) -> list[Pieces]:
        """Cuts texts into the pieces of `tokenize`, and says where in the texts they come from.

        An accent that is dropped belongs to the letter before it, other characters that are
        dropped to no piece. Where the clean-up makes several characters of one, such as the letters
        of a Hangul syllable, all of them have its place.

        Args:
            texts: N strings.

        Returns:
            N `Pieces`; places are indices of Python's characters.

        Raises:
            InputError: `texts` is anything else.
        """
        texts = check_strings(texts)
        clean = _cover_long_words(
            _clean(_as_string_tensor(texts), self.do_lower_case, self.strip_accents),
            self.max_word_length,
        )
        ids, first_bytes, end_bytes = self._kernel.tokenize_with_offsets(clean)
        starts_at, ends_at = self._source_places(texts)
        clean = clean.numpy()
        is_first_byte = (np.frombuffer(b"".join(clean), np.uint8) & 0xC0) != 0x80
        char_of_byte = np.cumsum(is_first_byte) - 1
        counts = ids.row_lengths().numpy()
        text_bytes = np.repeat(np.cumsum([0, *map(len, clean)])[:-1], counts)
        text_chars = np.repeat(np.cumsum([0, *map(len, texts)])[:-1], counts)
        first = char_of_byte[first_bytes.values.numpy() + text_bytes]
        last = char_of_byte[end_bytes.values.numpy() + text_bytes - 1]
        starts = (starts_at[first] - text_chars).astype(np.int32)
        ends = (ends_at[last] - text_chars).astype(np.int32)
        splits = itertools.pairwise(ids.row_splits.numpy())
        ids = ids.values.numpy()
        return [Pieces(ids[a:b], starts[a:b], ends[a:b]) for a, b in splits]

    def _source_places(self, texts):
        """For each character of the cleaned texts, one after the other: where in the joined texts
        the one that it comes from begins, and where it ends."""
        # How many characters come of one does not depend on its neighbors.
        points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        distinct, inverse = np.unique(points, return_inverse=True)
        chars = [chr(point) for point in distinct]
        clean = _clean(_as_string_tensor(chars), self.do_lower_case, self.strip_accents)
        lengths = tf.strings.length(clean, unit="UTF8_CHAR").numpy()
        is_accent = np.array([unicodedata.category(char) == "Mn" for char in chars], bool)
        places = np.arange(len(points))
        sources = np.repeat(places, lengths[inverse])
        # A letter ends where the next character begins that is no accent of it.
        is_dropped = (is_accent & (lengths == 0))[inverse]
        next_letter = np.where(is_dropped, len(points), places)
        next_letter = np.minimum.accumulate(np.append(next_letter, len(points))[::-1])[::-1]
        text_lengths = np.array([len(text) for text in texts], np.int64)
        text_ends = np.repeat(np.cumsum(text_lengths), text_lengths)
        return sources, np.minimum(next_letter[1:], text_ends)[sources]


def separate_words(texts, do_lower_case: bool = True, strip_accents: bool = True) -> tf.Tensor:
    """Makes of texts the words that `ConvBertTokenizer` would cut into pieces.

    Args:
        texts: strings `[N]`, as `ConvBertTokenizer.tokenize` takes them.
        do_lower_case: as in `ConvBertTokenizer`.
        strip_accents: as in `ConvBertTokenizer`; ignored unless `do_lower_case`.

    Returns:
        strings `[N]`: the words with one or more spaces between them. In place of a word over the
        length limit stands a private-use character, which is in no vocabulary.
    """
    options = do_lower_case, do_lower_case and strip_accents
    texts = _normalize(_as_string_tensor(texts), *options, MAX_WORD_LENGTH)
    texts = tf.strings.regex_replace(texts, r"[\p{Z}\t\n\r]", " ")
    return tf.strings.regex_replace(texts, f"[{_SINGLES}]", r" \0 ")


def possible_tokens(tokens) -> np.ndarray:
    """Says which tokens a text can match: bool `[N]`. "don't" is none: it is split before."""
    return tf.strings.regex_full_match(tokens, _POSSIBLE_TOKEN).numpy()


def _normalize(texts, do_lower_case, strip_accents, max_word_length):
    """Cleans strings `[N]` so that splitting and looking up pieces is all that is left."""
    texts = _clean(texts, do_lower_case, strip_accents)
    return tf.cond(
        tf.reduce_any(_may_have_long_words(texts, max_word_length)),
        lambda: _replace_long_words(texts, max_word_length),
        lambda: texts,
    )


def _may_have_long_words(texts, max_word_length):
    """Finds, of strings `[N]`, all that have a word over the limit, and few others: bool `[N]`."""
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
        texts = tf_text.normalize_utf8(texts, "NFD")
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
    """Puts a word that no vocabulary has in place of each that is over the limit."""
    words = tf.strings.split(tf.strings.regex_replace(texts, _WORD_BOUNDARY, r" \0 "))
    too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > max_word_length
    words = words.with_flat_values(tf.where(too_long, _LONG_WORD, words.flat_values))
    return tf.strings.reduce_join(words, axis=-1, separator=" ")


def _cover_long_words(texts, max_word_length):
    """Puts a word of the same length that no vocabulary has in place of each over the limit."""
    is_suspect = _may_have_long_words(texts, max_word_length).numpy()
    if not is_suspect.any():
        return texts
    too_long = re.compile(rf"[^ \t\n\r]{{{max_word_length + 1},}}")
    covered = texts.numpy()
    words = tf.strings.regex_replace(texts, _WORD_BOUNDARY, " ").numpy()
    for index in np.flatnonzero(is_suspect):
        text = covered[index].decode()
        for word in too_long.finditer(words[index].decode()):
            start, end = word.span()
            text = text[:start] + _LONG_WORD * (end - start) + text[end:]
        covered[index] = text.encode()
    return tf.constant(covered, tf.string)


def _usable_tokens(vocab, ids):
    """Keeps each token that a text can match at its id, and puts fillers in place of the others.

    The others are repeated tokens but for their last line, and such as splitting would have cut
    ("don't"). With them, tensorflow-text finds other pieces than the original, or refuses.
    """
    possible = possible_tokens(vocab)
    usable = []
    for index, token in enumerate(vocab):
        keep = ids[token] == index and (possible[index] or token == "[UNK]")
        usable.append(token if keep else f"{_IMPOSSIBLE_TOKEN}{index}")
    return usable


def _as_string_tensor(texts):
    if not tf.is_tensor(texts):
        if isinstance(texts, str | bytes):
            raise InputError("`texts` must be a list of strings: write [text] for a single one")
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str | bytes):
                raise InputError(
                    f"`texts` must be strings. Received at index {index}: {type(text).__name__} "
                    f"({text!r:.50})"
                )
        texts = tf.constant(texts, tf.string, shape=[len(texts)])
    if texts.dtype != tf.string or texts.shape.rank not in (1, None):
        raise InputError(
            "`texts` must be a string tensor of shape [N]. "
            f"Received: {texts.dtype.name} of shape {texts.shape}"
        )
    return texts


def check_strings(texts: Sequence[str]) -> list[str]:
    """Returns a list of the texts.

    Raises:
        InputError: they are not strings of Python's.
    """
    if not isinstance(texts, str | bytes) and not tf.is_tensor(texts):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise InputError(
        "`texts` must be a list of `str` where special tokens in the text, or places, are asked "
        f"for. Received: {texts!r:.80}"
    )
