"""Likely tokens for each [MASK] of a text, from a masked language model."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops
from typing_extensions import override

from common.errors import InputError
from common.fields import require
from data.tasks.batching import Features
from data.tasks.examples import parse_text
from model import ConvBertForMaskedLM
from model.predictor import TokenPredictor
from pipelines.base import Answers, Pipeline, check_count, check_inputs, chunks

MASK = "[MASK]"
_MASKS_AT_ONCE = 128  # each has a logit for every token of the vocabulary


@dataclasses.dataclass(frozen=True)
class FilledMask:
    """The likeliest tokens for one [MASK], best first."""

    tokens: list[str]  # of the vocabulary; "##…" continues the word before
    probabilities: np.ndarray  # float32 `[top_k]`
    texts: list[str]  # for each token, the text with this mask filled in; other masks stay


class FillMask(Pipeline):
    """A masked language model.

    A mask is predicted from the whole text, including other masks. If the text has more tokens than
    the model takes, the mask is predicted from the tokens around it.
    """

    model_class = ConvBertForMaskedLM
    always_masks_padding = True

    @property
    @override
    def network(self):
        return self.model.convbert

    @override
    def _compile(self):
        super()._compile()
        self._token_predictor = TokenPredictor(self.model, self.tokenizer.vocab_size)

    @override
    @classmethod
    def check_tensors(cls, source, directory):
        if not any(name.startswith("generator_predictions.") for name in source.arrays):
            raise InputError(
                f"{directory} cannot fill a {MASK}: it has no head that predicts tokens. "
                "pretrain.sh writes a model with this head to DATA_DIR/models/NAME/generator, or, "
                "without ELECTRA's objective, to DATA_DIR/models/NAME/encoder"
            )

    def predict(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32, errors: str = "raise"
    ) -> Answers:
        """The `top_k` likeliest tokens for each [MASK] of each text: a list of lists.

        [MASK] is in capitals even for an uncased vocabulary.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; or something that is not a
                text with a [MASK], unless `errors` is "skip".
        """
        checked = self._check(texts, top_k, batch_size, errors)
        return checked.answers(self._fill(checked.good, top_k, batch_size))

    def iterate(
        self, texts: Sequence[str], top_k: int = 5, batch_size: int = 32, errors: str = "raise"
    ) -> Iterator[list[FilledMask] | None]:
        """Yields the items of `predict` text by text, for any number of texts."""
        checked = self._check(texts, top_k, batch_size, errors)
        yield from checked.spread(self._fill(checked.good, top_k, batch_size))

    def _check(self, texts, top_k, batch_size, errors):
        def parse(index, text):
            text = parse_text(text, f"texts[{index}]")
            if MASK not in text:
                raise InputError(f"texts[{index}] has no {MASK}: {text!r:.80}")
            return text

        vocab_size = self.tokenizer.vocab_size
        check_count("top_k", top_k)
        expected = f"at most the vocabulary's {vocab_size} tokens"
        require(top_k <= vocab_size, "top_k", expected, top_k)
        return check_inputs(batch_size, errors, parse, texts=texts)

    def _fill(self, texts, top_k, batch_size) -> Iterator[list[FilledMask]]:
        num_long = 0
        for chunk in chunks(texts):
            features, positions, num_long_here = self._features(texts[chunk])
            num_long += num_long_here
            hidden = self.compute_outputs(features, batch_size)
            best = self._best_tokens(hidden[positions], top_k)
            for text in texts[chunk]:
                parts = text.split(MASK)
                yield [_filled(parts, number, *next(best)) for number in range(len(parts) - 1)]
        self.warn_of_cut(num_long, len(texts), ": masks saw the tokens around them")

    def _features(self, texts) -> tuple[Features, np.ndarray, int]:
        """One row per text, or per mask of a long text; masks' positions; number of long texts."""
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
            part = hidden[begin : begin + _MASKS_AT_ONCE]
            # Powers of two, because some backends compile for each number of masks.
            padding = (1 << (len(part) - 1).bit_length()) - len(part)
            padded = np.pad(part, ((0, padding), (0, 0)))
            found = ops.top_k(self._token_predictor.predict_on_batch(padded[None])[0], top_k)
            best = (ops.convert_to_numpy(array)[: len(part)] for array in found)
            for probabilities, ids in zip(*best, strict=True):
                yield self.tokenizer.convert_ids_to_tokens(ids), probabilities


def _filled(parts, number, tokens, probabilities):
    """Fills mask `number`, counted from 0, of a text that was split at its masks into `parts`."""
    before, after = MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])
    texts = [
        before.rstrip() + token[2:] + after if token.startswith("##") else before + token + after
        for token in tokens
    ]
    return FilledMask(tokens, probabilities, texts)
