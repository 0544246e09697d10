"""BERT's WordPiece tokenizer as a TensorFlow graph: text in, token ids out.

The same ids as the original's Python tokenizer (its `model/tokenization.py`, which is BERT's with
words of up to 200 characters), so that its checkpoints and vocabularies mean the same here; but
made of a few string kernels over whole batches, so that it is fast and runs in an exported graph.
"""

import hashlib
import itertools
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from absl import logging

import files
import hub
from data.tokenizer_config import CONFIG_FILE, stated_options
from errors import InputError

VOCAB_FILE = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]
MAX_TOKEN_BYTES = 256  # tensorflow-text's limit

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
# Finds all that may hold a word over the limit. Only the commonest boundaries are in it: 201
# copies of the complete class outgrow RE2's automaton, and then it is a thousand times slower.
_MAYBE_LONG_WORD = (
    rf"(?s).*[^ \t\n\r{_ASCII_SYMBOLS}\x{{3000}}-\x{{3002}}\x{{4E00}}-\x{{9FFF}}\x{{FF0C}}]"
    rf"{{{MAX_WORD_LENGTH + 1}}}.*"
)
_TOO_LONG_WORD = re.compile(rf"[^ \t\n\r]{{{MAX_WORD_LENGTH + 1},}}")
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
_CLASS_OF_NEW_CAPITALS = "".join(
    rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last, _ in _NEW_CAPITALS
)
_ORDINARY = rf"[^{_CLASS_OF_NEW_CAPITALS}]*"  # it matches valid UTF-8 only

# Private-use characters never come out of the clean-up, so no text has words made of them.
_LONG_WORD = "\ue000"
_IMPOSSIBLE_TOKEN = "\ue001"


def load_vocabulary(vocab_file: str | os.PathLike) -> list[str]:
    """Reads a vocabulary: one token a line, its id the line's number from 0.

    Lines are stripped, as the original does; blank ones keep their number. Where a token is
    repeated, the last line gives its id, and a warning says so.

    Args:
        vocab_file: path of a UTF-8 text file.

    Returns:
        list of the V tokens, in the order of their ids.

    Raises:
        InputError: there is no such file, it is not UTF-8 text with a token a line, or a special
            token is missing.
    """
    try:
        with open(vocab_file, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the vocabulary {vocab_file}: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()
    tokens = []
    for number, line in enumerate(lines, start=1):
        try:
            tokens.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{vocab_file}, line {number}: not UTF-8 ({line!r:.80}); a vocabulary is a UTF-8 "
                "text file with one token a line"
            ) from error
        if len(tokens[-1].encode()) > MAX_TOKEN_BYTES:
            raise InputError(
                f"{vocab_file}, line {number}: a token of over {MAX_TOKEN_BYTES} bytes "
                f"({tokens[-1]!r:.80}); a vocabulary is a text file with one token a line"
            )
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise InputError(
            f"{vocab_file} has no {', '.join(missing)} among its {len(tokens)} tokens; a BERT "
            f"vocabulary has one token a line, {', '.join(SPECIAL_TOKENS)} among them"
        )
    crlf = sum(line.endswith(b"\r") for line in lines)
    repeated = len(tokens) - len(set(tokens))
    if crlf or repeated:
        logging.warning(
            "%s: %d of %d lines end in CRLF (read as LF), %d lines repeat a token (the last wins)",
            vocab_file,
            crlf,
            len(tokens),
            repeated,
        )
    return tokens


class Pieces(NamedTuple):
    """The word pieces of one text: int32 ids, and which characters of it `[start, end)` each is."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class ConvBertTokenizer:
    """Turns text into WordPiece ids, exactly as the original ConvBERT does.

    Text is cleaned of control characters, lower-cased and freed of accents as asked, split at
    spaces, punctuation and CJK characters, and each word cut into the longest pieces that the
    vocabulary has. Special tokens written in a text ("[MASK]") are ordinary text. Code points
    that Unicode 14 leaves unassigned, and a capital sigma beside characters that came with
    Unicode 14, follow TensorFlow's tables rather than Python's.

    Args:
        vocab_file: path of the vocabulary, one token a line.
        do_lower_case: lower-case the text; if false, it is taken as it is (a cased vocabulary).
        strip_accents: decompose the text and drop its accents; only with `do_lower_case`.

    Attributes:
        vocab: list of the V tokens; `vocab_size` is V.
        vocab_sha256: hash of the tokens as loaded, whatever the file's line ends.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.

    Raises:
        InputError: the vocabulary cannot be used; see `load_vocabulary`.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike,
        do_lower_case: bool = True,
        strip_accents: bool = True,
    ):
        self.vocab = load_vocabulary(vocab_file)
        self.vocab_size = len(self.vocab)
        self.vocab_sha256 = hashlib.sha256("\n".join(self.vocab).encode()).hexdigest()
        self.do_lower_case = do_lower_case
        self.strip_accents = do_lower_case and strip_accents
        self._ids = {token: index for index, token in enumerate(self.vocab)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self._ids[token] for token in SPECIAL_TOKENS
        )
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            _usable_tokens(self.vocab, self._ids),
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
        texts = _normalize(_as_string_tensor(texts), self.do_lower_case, self.strip_accents)
        return self._wordpiece.tokenize(texts)

    def tokenize_with_offsets(self, texts: Iterable[str]) -> list[Pieces]:
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
        texts = list(texts)
        clean = _cover_long_words(
            _clean(_as_string_tensor(texts), self.do_lower_case, self.strip_accents)
        )
        ids, first_bytes, end_bytes = self._wordpiece.tokenize_with_offsets(clean)
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
        # How many characters come of one does not depend on its neighbours.
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

    def __call__(
        self, texts, text_pairs=None, max_length: int | None = None, padding: str = "longest"
    ) -> dict[str, np.ndarray]:
        """Makes a batch for a model: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` with pairs.

        Args:
            texts: B strings.
            text_pairs: the B second segments, or None.
            max_length: most tokens a row may have, special ones counted; what is too long loses
                tokens at its end, a pair one by one where it is longer (where equal, the second).
            padding: "longest" pads to the longest row, "max_length" to `max_length`.

        Returns:
            dict of `input_ids`, `input_mask` (1 = token) and `segment_ids` (1 = second segment
            and its `[SEP]`), int32 `[B, T]`.

        Raises:
            InputError: texts that are not strings, unequal numbers of them, a `max_length` that
                leaves no room for the special tokens, or an unknown padding.
        """
        num_special = 2 if text_pairs is None else 3
        if padding not in ("longest", "max_length"):
            raise InputError(f'`padding` must be "longest" or "max_length". Received: {padding!r}')
        if max_length is None and padding == "max_length":
            raise InputError('`padding="max_length"` needs a `max_length`')
        if max_length is not None and max_length < num_special:
            raise InputError(
                f"`max_length` must leave room for {num_special} special tokens. "
                f"Received: max_length={max_length}"
            )
        firsts = _rows(self.tokenize(texts))
        seconds = [None] * len(firsts) if text_pairs is None else _rows(self.tokenize(text_pairs))
        if len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} `texts`, but {len(seconds)} `text_pairs`")

        rows = []
        room = None if max_length is None else max_length - num_special
        for pair in zip(firsts, seconds, strict=True):
            first, second = truncate_pair(*pair, room)
            segments = [[self.cls_id], first, [self.sep_id]]
            if second is not None:
                segments += [second, [self.sep_id]]
            rows.append((np.concatenate(segments), len(first) + 2))
        longest = max((len(ids) for ids, _ in rows), default=0)
        shape = (len(rows), max_length if padding == "max_length" else longest)
        batch = {
            "input_ids": np.full(shape, self.pad_id, np.int32),
            "input_mask": np.zeros(shape, np.int32),
            "segment_ids": np.zeros(shape, np.int32),
        }
        for index, (ids, first_end) in enumerate(rows):
            batch["input_ids"][index, : len(ids)] = ids
            batch["input_mask"][index, : len(ids)] = 1
            batch["segment_ids"][index, first_end : len(ids)] = 1
        return batch

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Looks up the tokens of a sequence of ids.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise InputError(f"id {index} is not in the vocabulary of {self.vocab_size} tokens")
        return [self.vocab[index] for index in ids]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Looks up the ids of a sequence of tokens; one that is not in the vocabulary is [UNK]."""
        return [self._ids.get(token, self.unk_id) for token in tokens]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Writes one sequence of ids as text, spaced as Hugging Face's BERT tokenizer does.

        Pieces are joined to words, words by spaces; a `.`, `,`, `?` or `!` follows without one.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        text = ""
        for token in self.convert_ids_to_tokens(ids):
            if skip_special_tokens and token in SPECIAL_TOKENS:
                continue
            if text and token.startswith("##"):
                text += token[2:]
            elif text and token not in (".", ",", "?", "!"):
                text += " " + token
            else:
                text += token
        return text

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
    ) -> "ConvBertTokenizer":
        """Loads the tokenizer of a model, this project's or Hugging Face's, here or on the hub.

        Args:
            name_or_directory: a directory with vocab.txt and, unless all is as in BERT uncased,
                tokenizer_config.json; or a name of the Hugging Face hub.
            revision: a branch, tag or commit on the hub; None is its main branch.
            cache_dir: where downloads are kept; None is huggingface_hub's cache.
            local_files_only: download nothing, and use what was downloaded before.

        Raises:
            InputError: there is no such directory or name, a file is missing or broken, or asks for
                what this tokenizer cannot do.
        """
        directory = pathlib.Path(
            hub.resolve(name_or_directory, revision, cache_dir, local_files_only, weights=False)
        )
        stated = stated_options(directory / CONFIG_FILE)
        lower = stated.get("do_lower_case", True)
        strip = stated.get("strip_accents", lower)  # as Hugging Face's tokenizers
        return cls(directory / VOCAB_FILE, do_lower_case=lower, strip_accents=strip)

    def save_pretrained(self, directory: str | os.PathLike, model_max_length: int = 512) -> None:
        """Writes vocab.txt and tokenizer_config.json, as Hugging Face's BERT tokenizers read them.

        Args:
            directory: made if it is not there.
            model_max_length: the most tokens the model takes; recorded for Hugging Face only.
        """
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "ConvBertTokenizer",
            "do_lower_case": self.do_lower_case,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": True,
            "model_max_length": model_max_length,
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
        }
        files.write_text(directory / VOCAB_FILE, "".join(token + "\n" for token in self.vocab))
        files.write_text(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def truncate_pair(first, second, max_tokens: int | None):
    """Cuts a pair as the original does: the longer loses its last token until both fit.

    Args:
        first: sequence of token ids.
        second: another, or None.
        max_tokens: the most tokens that both may have together; None leaves them alone.

    Returns:
        (first, second); where both are equally long, the second is cut.
    """
    if max_tokens is None:
        return first, second
    if second is None:
        return first[:max_tokens], None
    if len(first) + len(second) > max_tokens:
        first = first[: max(max_tokens - len(second), (max_tokens + 1) // 2)]
        second = second[: max_tokens - len(first)]
    return first, second


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
    texts = _normalize(_as_string_tensor(texts), do_lower_case, do_lower_case and strip_accents)
    texts = tf.strings.regex_replace(texts, r"[\p{Z}\t\n\r]", " ")
    return tf.strings.regex_replace(texts, f"[{_SINGLES}]", r" \0 ")


def possible_tokens(tokens) -> np.ndarray:
    """Says which tokens a text can match: bool `[N]`. "don't" is none: it is split before."""
    return tf.strings.regex_full_match(tokens, _POSSIBLE_TOKEN).numpy()


def _normalize(texts, do_lower_case, strip_accents):
    """Cleans strings `[N]` so that splitting and looking up pieces is all that is left."""
    texts = _clean(texts, do_lower_case, strip_accents)
    return tf.cond(
        tf.reduce_any(tf.strings.regex_full_match(texts, _MAYBE_LONG_WORD)),
        lambda: _replace_long_words(texts),
        lambda: texts,
    )


def _clean(texts, do_lower_case, strip_accents):
    """Drops control characters from strings `[N]`; lower-cases and drops accents as asked."""
    # The order is the original's. A lower-case sigma depends on its neighbours, so control
    # characters must be gone before; accents come off only once NFD has taken them apart.
    texts = tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(texts, _ORDINARY)),
        lambda: texts,
        lambda: _repair(texts, do_lower_case),
    )
    texts = tf.strings.regex_replace(texts, _CONTROLS, "")
    if do_lower_case:
        texts = tf.strings.lower(texts, encoding="utf-8")
    if strip_accents:
        texts = tf_text.normalize_utf8(texts, "NFD")
        texts = tf.strings.regex_replace(texts, _ACCENTS, "")
    return texts


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


def _replace_long_words(texts):
    """Puts a word that no vocabulary has in place of each that is over the limit."""
    words = tf.strings.split(tf.strings.regex_replace(texts, _WORD_BOUNDARY, r" \0 "))
    too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > MAX_WORD_LENGTH
    words = words.with_flat_values(tf.where(too_long, _LONG_WORD, words.flat_values))
    return tf.strings.reduce_join(words, axis=-1, separator=" ")


def _cover_long_words(texts):
    """Puts a word of the same length that no vocabulary has in place of each over the limit."""
    is_suspect = tf.strings.regex_full_match(texts, _MAYBE_LONG_WORD).numpy()
    if not is_suspect.any():
        return texts
    covered = texts.numpy()
    words = tf.strings.regex_replace(texts, _WORD_BOUNDARY, " ").numpy()
    for index in np.flatnonzero(is_suspect):
        text = covered[index].decode()
        for word in _TOO_LONG_WORD.finditer(words[index].decode()):
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


def _rows(ragged):
    """Splits ragged ids into one array a row."""
    splits = ragged.row_splits.numpy()
    ids = ragged.values.numpy()
    return [ids[start:end] for start, end in itertools.pairwise(splits)]
