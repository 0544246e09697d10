"""Words for a [MASK], from a pre-trained model."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from keras import ops

from common import hub
from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.batching import Features
from model import ConvBertForMaskedLM
from model.backends import backend
from model.weights import pretrained
from pipelines.base import check_positive, check_texts, compute_outputs, load_tokenizer

MASK = "[MASK]"
# So many texts are tokenized, and sorted by length, together; no more are in memory as tokens.
_TEXTS_AT_ONCE = 1024
_MASKS_AT_ONCE = 128  # of which each has a number for every token of the vocabulary


@dataclasses.dataclass(frozen=True)
class FilledMask:
    """What a model would write in the place of one [MASK], the likeliest first.

    Args:
        tokens: of the vocabulary; "##…" continues the word before.
        probabilities: of these among all tokens, float32 `[top_k]`.
        texts: for each token the whole text with it; other masks stay.
    """

    tokens: list[str]
    probabilities: np.ndarray
    texts: list[str]


class FillMask:
    """A masked language model with its tokenizer.

    Every mask is predicted from the whole text around it, further masks included, as they were in
    pre-training. Of a text with more tokens than the model takes, a mask gets those around it.

    Args:
        model: a `ConvBertForMaskedLM`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: the most tokens the model is given at once.
    """

    def __init__(
        self, model: ConvBertForMaskedLM, tokenizer: ConvBertTokenizer, max_seq_length: int
    ):
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        model.convbert.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls, name_or_directory: str | os.PathLike, **hub_options: Any
    ) -> "FillMask":
        """A generator, or another masked language model, of `pretrain.py` or transformers.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        directory = hub.resolve(name_or_directory, **hub_options)
        names = pretrained.read(directory).arrays
        if not any(name.startswith("generator_predictions.") for name in names):
            raise InputError(
                f"{name_or_directory} cannot fill a {MASK}: it has no head that predicts tokens. "
                "pretrain.sh writes one to DATA_DIR/models/NAME/generator, or to encoder without "
                "ELECTRA's objective"
            )
        # All texts come out as they do alone, without padding, whatever the model was trained with.
        model = ConvBertForMaskedLM.from_pretrained(directory, mask_padding=True)
        return cls(model, *load_tokenizer(directory, model.config))

    def predict(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32
    ) -> list[list[FilledMask]]:
        """The likeliest tokens for every [MASK] of every text.

        Args:
            texts: each with one [MASK] or more, written so whether the vocabulary is cased or not.
            top_k: how many tokens.
            batch_size: texts that go through the network together.

        Raises:
            InputError: a text without a [MASK], or an argument that cannot be.
        """
        return list(self.iterate(texts, top_k, batch_size))

    def iterate(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32
    ) -> Iterator[list[FilledMask]]:
        """What `predict` returns, text by text; a file of any size passes through."""
        texts = check_texts(texts, "texts")
        for index, text in enumerate(texts):
            if MASK not in text:
                raise InputError(f"texts[{index}] has no {MASK}: {text!r:.80}")
        check_positive("top_k", top_k)
        check_positive("batch_size", batch_size)
        if top_k > self.tokenizer.vocab_size:
            raise InputError(
                f"`top_k` is {top_k}, but the vocabulary has {self.tokenizer.vocab_size} tokens"
            )
        num_long = 0
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = texts[begin : begin + _TEXTS_AT_ONCE]
            features, places, num_long_here = self._features(chunk)
            num_long += num_long_here
            hidden = compute_outputs(self.model.convbert, features, batch_size, ("logits",))
            best = self._best_tokens(hidden[places], top_k)
            for text in chunk:
                parts = text.split(MASK)
                yield [_filled(parts, number, *next(best)) for number in range(len(parts) - 1)]
        if num_long:
            logging.warning(
                "%d of %d texts were longer than %d tokens: of these, each %s was given the "
                "tokens around it",
                num_long,
                len(texts),
                self.max_seq_length,
                MASK,
            )

    def _features(self, texts) -> tuple[Features, np.ndarray, int]:
        """A row for each text, or for each mask of a long one.

        Returns:
            The rows; where in them each mask is, in the masks' order; how many texts are long.
        """
        tokenizer, room = self.tokenizer, self.max_seq_length - 2
        tokens = tokenizer(
            texts, padding=False, add_special_tokens=False, parse_special_tokens=True
        )["input_ids"]
        rows, places, start, num_long = [], [], 0, 0
        for ids in tokens:
            masks = [place for place, index in enumerate(ids) if index == tokenizer.mask_id]
            is_long = len(ids) > room
            num_long += is_long
            for group in [[mask] for mask in masks] if is_long else [masks]:
                first = max(0, min(group[0] - room // 2, len(ids) - room))
                window = ids[first : first + room]
                rows.append(tokenizer.build_inputs_with_special_tokens(window))
                places += [start + 1 + mask - first for mask in group]
                start += len(rows[-1])
        input_ids = np.concatenate(rows).astype(np.int32)
        starts = np.cumsum([0, *map(len, rows)])
        no_targets = np.zeros(len(rows), np.int32)
        features = Features(
            input_ids, np.zeros_like(input_ids), starts, no_targets, self.max_seq_length
        )
        return features, np.array(places), num_long

    def _best_tokens(self, hidden, top_k) -> Iterator[tuple[list[str], np.ndarray]]:
        """Vectors of masks `[M, H]` → of each the likeliest tokens, and their probabilities."""
        for begin in range(0, len(hidden), _MASKS_AT_ONCE):
            logits = self.model.predict_tokens(hidden[None, begin : begin + _MASKS_AT_ONCE])
            values, ids = ops.top_k(ops.softmax(logits[0]), top_k)
            for row, probabilities in zip(
                ops.convert_to_numpy(ids), ops.convert_to_numpy(values), strict=True
            ):
                yield self.tokenizer.convert_ids_to_tokens(row), probabilities


def _filled(parts, number, tokens, probabilities):
    """Puts each token in the place of mask `number`, from 0, of a text cut at its masks."""
    before, after = MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])

    def fill(token):
        if token.startswith("##"):
            return before.rstrip() + token[2:] + after
        return before + token + after

    return FilledMask(tokens, probabilities, [fill(token) for token in tokens])
