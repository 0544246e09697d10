"""BERT's WordPiece tokenizer: text in, token ids and batches for a model out.

The ids equal those of the original's Python tokenizer (its `model/tokenization.py`, which is BERT's
with words of up to 200 characters). The methods have the names of transformers' BERT tokenizers.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from common import hub
from common.errors import InputError
from common.fields import require, require_one_of
from data.tokenizer import saved_files
from data.tokenizer.truncation import STRATEGIES, kept_lengths
from data.tokenizer.vocab_file import (
    MAX_WORD_LENGTH,
    SPECIAL_TOKENS,
    VOCAB_FILE,
    check_tokens,
    load_vocabulary,
    warn_of_capitals,
)
from data.tokenizer.wordpiece import Tokens, WordPiece, check_strings, split_rows

_SPECIAL_TOKEN = re.compile(f"({'|'.join(map(re.escape, SPECIAL_TOKENS))})")
# In this order, as in transformers.
_CLEAN_UPS = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


class ConvBertTokenizer(WordPiece):
    """Turns text into WordPiece ids, exactly as the original ConvBERT does.

    Text is cleaned of control characters and, if asked, lower-cased and stripped of accents. It is
    split at spaces, punctuation and CJK characters, and each word is cut into the longest tokens
    that the vocabulary has. Special tokens written in a text ("[MASK]") are ordinary text, unless
    a method is told to parse them. Code points that Unicode 14 leaves unassigned, and a capital
    sigma beside characters new in Unicode 14, follow TensorFlow's tables rather than Python's.

    Args:
        vocab_file: path of the vocabulary, one token a line; or the list of its tokens.
        do_lower_case: lower-case the text; if false, it is taken as it is (a cased vocabulary).
        strip_accents: decompose the text and drop its accents; only with `do_lower_case`.
        max_word_length: words with more characters are [UNK]; at most 200, as in the original.
        model_max_length: the most tokens the model takes; recorded for pipelines and transformers.
        clean_up_tokenization_spaces: `decode` takes spaces out of "don ' t" and "it ' s".

    Attributes:
        vocab: list of the V tokens; `vocab_size` is V, and so is `len(tokenizer)`.
        vocab_sha256: hash of the tokens as loaded, whatever the file's line ends.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens; `pad_token_id` and so
            on are the same.
        pad_token, unk_token, cls_token, sep_token, mask_token: the special tokens themselves.
        all_special_tokens, all_special_ids: all five.

    Raises:
        InputError: the vocabulary cannot be used, see `load_vocabulary`; or `max_word_length` is
            not from 1 to 200.
    """

    pad_token, unk_token, cls_token, sep_token, mask_token = SPECIAL_TOKENS
    all_special_tokens = SPECIAL_TOKENS

    def __init__(
        self,
        vocab_file: str | os.PathLike | Sequence[str],
        do_lower_case: bool = True,
        strip_accents: bool = True,
        max_word_length: int = MAX_WORD_LENGTH,
        model_max_length: int = 512,
        clean_up_tokenization_spaces: bool = False,
    ):
        if isinstance(vocab_file, str | os.PathLike):
            vocab = load_vocabulary(vocab_file)
        else:
            vocab = list(vocab_file)
            check_tokens(vocab, "the list of tokens")
        if do_lower_case:
            warn_of_capitals(vocab)
        is_length = 1 <= max_word_length <= MAX_WORD_LENGTH
        require(is_length, "max_word_length", f"from 1 to {MAX_WORD_LENGTH}", max_word_length)
        super().__init__(vocab, do_lower_case, do_lower_case and strip_accents, max_word_length)
        self.vocab_size = len(vocab)
        self.vocab_sha256 = hashlib.sha256("\n".join(vocab).encode()).hexdigest()
        self.model_max_length = model_max_length
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.all_special_ids = [self._ids[token] for token in SPECIAL_TOKENS]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.all_special_ids
        self.pad_token_id, self.unk_token_id, self.cls_token_id, *_ = self.all_special_ids
        self.sep_token_id, self.mask_token_id = self.sep_id, self.mask_id
        self._cls, self._sep = _one_token(self.cls_id), _one_token(self.sep_id)

    def __len__(self):
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of each token; where a token is repeated, its last."""
        return dict(self._ids)

    def __call__(
        self,
        texts,
        text_pairs=None,
        max_length: int | None = None,
        padding: str | bool = "longest",
        truncation: str | bool = "electra",
        *,
        add_special_tokens: bool = True,
        parse_special_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
    ) -> dict[str, np.ndarray | list]:
        """Makes a batch for a model: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` with pairs.

        Args:
            texts: B strings.
            text_pairs: the B second segments, or None.
            max_length: most tokens a row may have, including special ones; texts that are too long
                lose tokens at their ends.
            padding: "longest" (or True) pads to the longest row, "max_length" to `max_length`;
                False pads nothing, and returns lists of lists.
            truncation: how pairs over `max_length` are cut: "electra" (or True), "longest_first",
                "only_first" or "only_second", see `truncation.kept_lengths`; False cuts none.
            add_special_tokens: put [CLS] and [SEP] around the texts.
            parse_special_tokens: read special tokens in a text ("[MASK]") as these tokens, not as
                text; transformers' `split_special_tokens=False`, its default.
            return_offsets_mapping, return_special_tokens_mask: return these, too.

        Returns:
            dict of `input_ids`, `input_mask` (1 = token) and `segment_ids` (1 = second segment
            and its `[SEP]`), int32 `[B, T]`, which is what models take. If asked for, also
            `offset_mapping` `[B, T, 2]`: the characters `[start, end)` of its text that a token
            comes from, (0, 0) for added tokens and padding; and `special_tokens_mask` `[B, T]`: 1
            for added tokens and padding.

        Raises:
            InputError: an argument is impossible, `texts` and `text_pairs` differ in number, or a
                pair cannot be cut enough.
        """
        num_special = add_special_tokens * self.num_special_tokens_to_add(text_pairs is not None)
        _check_layout(padding, truncation, max_length, num_special)
        options = (parse_special_tokens, return_offsets_mapping)
        firsts = self._tokens(texts, *options)
        seconds = [None] * len(firsts) if text_pairs is None else self._tokens(text_pairs, *options)
        if len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} `texts`, but {len(seconds)} `text_pairs`")
        room = None if max_length is None or truncation is False else max_length - num_special
        strategy = "electra" if truncation is True else truncation
        padding_values = {"input_ids": self.pad_id, "input_mask": 0, "segment_ids": 0}
        if return_offsets_mapping:
            padding_values["offset_mapping"] = 0
        if return_special_tokens_mask:
            padding_values["special_tokens_mask"] = 1
        with_extras = return_offsets_mapping or return_special_tokens_mask
        rows = [
            self._row(*_truncate(*pair, room, strategy), add_special_tokens, with_extras)
            for pair in zip(firsts, seconds, strict=True)
        ]
        if padding is False:
            return {name: [row[name].tolist() for row in rows] for name in padding_values}
        length = max((len(row["input_ids"]) for row in rows), default=0)
        length = max(length, max_length) if padding == "max_length" else length
        return {name: _pad(rows, name, length, value) for name, value in padding_values.items()}

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        add_special_tokens: bool = True,
        *,
        max_length: int | None = None,
        truncation: str | bool = "electra",
        parse_special_tokens: bool = False,
    ) -> list[int]:
        """Returns the ids of one text, or pair of texts; see `__call__` for the arguments."""
        batch = self(
            [text],
            None if text_pair is None else [text_pair],
            max_length,
            padding=False,
            truncation=truncation,
            add_special_tokens=add_special_tokens,
            parse_special_tokens=parse_special_tokens,
        )
        return batch["input_ids"][0]

    def build_inputs_with_special_tokens(
        self, ids0: Iterable[int], ids1: Iterable[int] | None = None
    ) -> list[int]:
        """Returns `[CLS] ids0 [SEP]`, or `[CLS] ids0 [SEP] ids1 [SEP]`."""
        second = [] if ids1 is None else [*ids1, self.sep_id]
        return [self.cls_id, *ids0, self.sep_id, *second]

    def create_token_type_ids_from_sequences(
        self, ids0: Sequence[int], ids1: Sequence[int] | None = None
    ) -> list[int]:
        """Returns the segments of `build_inputs_with_special_tokens`: 1 from `ids1` on."""
        return [0] * (len(ids0) + 2) + [1] * (0 if ids1 is None else len(ids1) + 1)

    def get_special_tokens_mask(
        self,
        ids0: Sequence[int],
        ids1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Marks with 1 the tokens that `build_inputs_with_special_tokens` adds; others are 0.

        With `already_has_special_tokens`, `ids0` is a whole row: its special tokens are 1,
        including [MASK] and [UNK].

        Raises:
            InputError: `ids1` is given in addition to a whole row.
        """
        if already_has_special_tokens:
            if ids1 is not None:
                raise InputError("`ids1` must be None where `ids0` already has special tokens")
            return [int(index in self.all_special_ids) for index in ids0]
        return [1, *[0] * len(ids0), 1, *([] if ids1 is None else [*[0] * len(ids1), 1])]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Returns how many special tokens a row has, of a text or of a pair."""
        return 3 if pair else 2

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Looks up the tokens of a sequence of ids, or the token of one id.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        if not isinstance(ids, int | np.integer):
            return [self.convert_ids_to_tokens(int(index)) for index in ids]
        if not 0 <= ids < self.vocab_size:
            raise InputError(f"id {ids} is not in the vocabulary of {self.vocab_size} tokens")
        return self.vocab[ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Looks up the ids of tokens, or of one token; those not in the vocabulary are [UNK]."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_id)
        return [self._ids.get(token, self.unk_id) for token in tokens]

    def decode(
        self,
        ids: Iterable[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Writes one sequence of ids as text, spaced as Hugging Face's BERT tokenizer does.

        Words are separated by spaces; a `.`, `,`, `?` or `!` follows without one.

        Args:
            ids: T ids.
            skip_special_tokens: leave these out; transformers does not by default.
            clean_up_tokenization_spaces: also around apostrophes; None is the tokenizer's setting.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        tokens = self.convert_ids_to_tokens(ids)
        if skip_special_tokens:
            tokens = [token for token in tokens if token not in SPECIAL_TOKENS]
        text = self.convert_tokens_to_string(tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces:
            for found, replacement in _CLEAN_UPS:
                text = text.replace(found, replacement)
        return text

    def batch_decode(self, rows: Iterable[Iterable[int]], **options) -> list[str]:
        """Writes sequences of ids as texts; `options` are those of `decode`."""
        return [self.decode(ids, **options) for ids in rows]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Joins tokens as `decode` does."""
        text = ""
        for token in tokens:
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
        """Loads the tokenizer of a model, this project's or Hugging Face's.

        Args:
            name_or_directory: a name on the Hugging Face hub; or a directory with vocab.txt or
                tokenizer.json, and tokenizer_config.json unless the tokenizer is as in BERT
                uncased. The other files must not contradict a tokenizer.json.
            revision, cache_dir, local_files_only: see `common.hub.resolve`.

        Raises:
            InputError: as `common.hub.resolve`; or a file is missing or broken, contradicts
                another, or asks for something that this tokenizer cannot do.
        """
        found = hub.resolve(name_or_directory, revision, cache_dir, local_files_only, weights=False)
        saved = saved_files.read(found)
        return cls(saved.vocab, **saved.options)

    def save_pretrained(
        self, directory: str | os.PathLike, model_max_length: int | None = None
    ) -> tuple[str, ...]:
        """Writes the tokenizer as this project and transformers read it; returns the paths.

        The files are vocab.txt, tokenizer_config.json and special_tokens_map.json for transformers
        4, and tokenizer.json, with `max_word_length` in it, for transformers 5. `model_max_length`
        is the most tokens the model takes; None is the tokenizer's own.
        """
        options = {
            "do_lower_case": self.do_lower_case,
            "strip_accents": self.strip_accents,
            "max_word_length": self.max_word_length,
            "model_max_length": model_max_length or self.model_max_length,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }
        return saved_files.write(directory, saved_files.Saved(self.vocab, options))

    def save_vocabulary(
        self, save_directory: str | os.PathLike, filename_prefix: str | None = None
    ) -> tuple[str]:
        """Writes vocab.txt, or PREFIX-vocab.txt, alone; returns its path in a tuple.

        Raises:
            InputError: the directory does not exist.
            WriteError: the file cannot be written.
        """
        if not os.path.isdir(save_directory):
            raise InputError(f"`save_directory`: {save_directory} is not a directory")
        name = f"{filename_prefix}-{VOCAB_FILE}" if filename_prefix else VOCAB_FILE
        path = str(Path(save_directory) / name)
        saved_files.write_vocabulary(path, self.vocab)
        return (path,)

    def _tokens(self, texts, parse_special_tokens, with_offsets) -> list[Tokens]:
        """Tokenizes texts; the offsets are 0 unless they are asked for."""
        if parse_special_tokens:
            rows = [_SPECIAL_TOKEN.split(text) for text in check_strings(texts)]
            # Every other part is a special token. It ends a word, so the others are independent.
            parts = [part for row in rows for part in row[::2]]
            between = iter(self._tokens(parts, False, with_offsets))
            return [self._join(row, between) for row in rows]
        if with_offsets:
            return self.tokenize_with_offsets(texts)
        ids = self.tokenize(texts)
        zeros = tf.zeros_like(ids)
        return split_rows(ids, zeros, zeros)

    def _join(self, parts, between):
        """Joins the tokens of the parts of one text; `between` yields those of ordinary text."""
        tokens, start = [], 0
        for number, part in enumerate(parts):
            found = _one_token(self._ids[part], len(part)) if number % 2 else next(between)
            tokens.append(Tokens(found.ids, found.starts + start, found.ends + start))
            start += len(part)
        return Tokens(*map(np.concatenate, zip(*tokens, strict=True)))

    def _row(self, first, second, add_special_tokens, with_extras):
        """Lays one or two texts out as a row: the arrays of `__call__`, without padding."""
        cls, sep = [self._cls] * add_special_tokens, [self._sep] * add_special_tokens
        parts = [*cls, first, *sep]
        first_end = sum(len(part.ids) for part in parts)
        if second is not None:
            parts += [second, *sep]
        ids = np.concatenate([part.ids for part in parts])
        segment_ids = np.zeros_like(ids)
        segment_ids[first_end:] = 1
        row = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": segment_ids}
        if with_extras:
            offsets = [np.stack([part.starts, part.ends], axis=1) for part in parts]
            is_added = [part is self._cls or part is self._sep for part in parts]
            row["offset_mapping"] = np.concatenate(offsets)
            row["special_tokens_mask"] = np.repeat(is_added, [len(part.ids) for part in parts])
        return row


def _one_token(index, length=0):
    """One token that comes from the first `length` characters of a text."""
    return Tokens(*(np.array([value], np.int32) for value in (index, 0, length)))


def _truncate(first, second, room, strategy):
    """Cuts the tokens of one or two texts at their ends, to `room` tokens in all."""
    if room is None:
        return first, second
    lengths = len(first.ids), None if second is None else len(second.ids)
    kept = kept_lengths(*lengths, room, strategy)
    return [
        None if text is None else Tokens(*(column[:length] for column in text))
        for text, length in zip((first, second), kept, strict=True)
    ]


def _pad(rows, name, length, value):
    """Stacks an array of each row to int32 `[B, length, …]`, with `value` where a row ends."""
    shape = (2,) if name == "offset_mapping" else ()
    padded = np.full((len(rows), length, *shape), value, np.int32)
    for index, row in enumerate(rows):
        padded[index, : len(row[name])] = row[name]
    return padded


def _check_layout(padding, truncation, max_length, num_special):
    require_one_of("padding", padding, ("longest", "max_length", True, False))
    require_one_of("truncation", truncation, (*STRATEGIES, True, False))
    if max_length is None and padding == "max_length":
        raise InputError('`padding="max_length"` needs a `max_length`')
    has_room = max_length is None or max_length >= num_special
    require(has_room, "max_length", f"at least {num_special}, for the special tokens", max_length)
