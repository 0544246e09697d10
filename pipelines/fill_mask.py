"""Likely tokens for each [MASK] of a text, from a masked language model."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops
from typing_extensions import override

from common.errors import InputError
from common.fields import require
from data.tasks.batching import Features
from model import ConvBertForMaskedLM
from model.weights import pretrained
from pipelines.base import Pipeline, check_inputs, chunks, compute_outputs

MASK = "[MASK]"
_MASKS_AT_ONCE = 128  # each has a logit for every token of the vocabulary


@dataclasses.dataclass(frozen=True)
class FilledMask:
    """The likeliest tokens for one [MASK], best first.

    Args:
        tokens: tokens of the vocabulary; "##…" continues the word before.
        probabilities: the tokens' probabilities, float32 `[top_k]`.
        texts: for each token the text with it in place of the mask; other masks stay.
    """

    tokens: list[str]
    probabilities: np.ndarray
    texts: list[str]


class FillMask(Pipeline):
    """A masked language model.

    A mask is predicted from the whole text, including other masks; if the text has more tokens than
    the model takes, from those around the mask.
    """

    model_class = ConvBertForMaskedLM
    always_masks_padding = True

    def __init__(self, model, tokenizer, max_seq_length):
        super().__init__(model, tokenizer, max_seq_length)
        model.convbert.compile(optimizer=None, jit_compile=model.jit_compile)

    @override
    @classmethod
    def check_directory(cls, directory):
        names = pretrained.read(directory).arrays
        if not any(name.startswith("generator_predictions.") for name in names):
            raise InputError(
                f"{directory} cannot fill a {MASK}: it has no head that predicts tokens. "
                "pretrain.sh writes one to DATA_DIR/models/NAME/generator, or to encoder without "
                "ELECTRA's objective"
            )

    def predict(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32
    ) -> list[list[FilledMask]]:
        """The `top_k` likeliest tokens for each [MASK] of each text.

        [MASK] is in capitals even for an uncased vocabulary.

        Raises:
            InputError: a text without a [MASK], or an impossible argument.
        """
        return list(self.iterate(texts, top_k, batch_size))

    def iterate(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32
    ) -> Iterator[list[FilledMask]]:
        """Yields the items of `predict` text by text, for texts of any number."""
        (texts,) = check_inputs(batch_size, texts=texts)
        for index, text in enumerate(texts):
            if MASK not in text:
                raise InputError(f"texts[{index}] has no {MASK}: {text!r:.80}")
        vocab_size = self.tokenizer.vocab_size
        expected = f"from 1 to the vocabulary's {vocab_size} tokens"
        require(1 <= top_k <= vocab_size, "top_k", expected, top_k)
        num_long = 0
        for chunk in chunks(texts):
            features, positions, num_long_here = self._features(texts[chunk])
            num_long += num_long_here
            hidden = compute_outputs(self.model.convbert, features, batch_size, ("logits",))
            best = self._best_tokens(hidden[positions], top_k)
            for text in texts[chunk]:
                parts = text.split(MASK)
                yield [_filled(parts, number, *next(best)) for number in range(len(parts) - 1)]
        self.warn_of_cut(num_long, len(texts), ": masks saw the tokens around them")

    def _features(self, texts) -> tuple[Features, np.ndarray, int]:
        """A row per text or mask of a long one; the masks' positions; the number of long texts."""
        tokenizer, room = self.tokenizer, self.max_seq_length - 2
        tokens = tokenizer(
            texts, padding=False, add_special_tokens=False, parse_special_tokens=True
        )["input_ids"]
        rows, positions, start, num_long = [], [], 0, 0
        for ids in tokens:
            masks = np.flatnonzero(np.asarray(ids) == tokenizer.mask_id)
            is_long = len(ids) > room
            num_long += is_long
            for group in masks[:, None] if is_long else [masks]:
                first = max(0, min(group[0] - room // 2, len(ids) - room))
                window = ids[first : first + room]
                rows.append(tokenizer.build_inputs_with_special_tokens(window))
                positions.append(start + 1 + group - first)
                start += len(rows[-1])
        input_ids = np.concatenate(rows).astype(np.int32)
        row_splits = np.cumsum([0, *map(len, rows)])
        no_targets = np.zeros(len(rows), np.int32)
        features = Features(
            *(input_ids, np.zeros_like(input_ids), row_splits, no_targets, self.max_seq_length),
            pad_id=tokenizer.pad_id,
        )
        return features, np.concatenate(positions), num_long

    def _best_tokens(self, hidden, top_k) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the likeliest tokens, and their probabilities, for each vector of `[M, H]`."""
        for begin in range(0, len(hidden), _MASKS_AT_ONCE):
            logits = self.model.predict_tokens(hidden[None, begin : begin + _MASKS_AT_ONCE])
            found = ops.top_k(ops.softmax(logits[0]), top_k)
            for probabilities, ids in zip(*map(ops.convert_to_numpy, found), strict=True):
                yield self.tokenizer.convert_ids_to_tokens(ids), probabilities


def _filled(parts, number, tokens, probabilities):
    """Fills mask `number`, from 0, of the text that was split at its masks into `parts`."""
    before, after = MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])
    texts = [
        before.rstrip() + token[2:] + after if token.startswith("##") else before + token + after
        for token in tokens
    ]
    return FilledMask(tokens, probabilities, texts)
