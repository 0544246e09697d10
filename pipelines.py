"""Pre-trained models as objects that take text: words for a [MASK], and vectors of texts.

Like `classifier`, they join a tokenizer (`data`) with a network (`model`).
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from absl import logging
from keras import ops

from data import ConvBertTokenizer
from data.classification import TextExamples, parse_text
from data.features import Features, count_cut, gather_outputs, make_features
from data.tokenizer_config import CONFIG_FILE, stated_max_length
from errors import InputError
from model import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel, checkpoint
from model.training import default_jit_compile

MASK = "[MASK]"
POOLINGS = ("mean", "cls")
# So many texts are tokenised, and sorted by length, together; no more are in memory as tokens.
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
        model.convbert.compile(optimizer=None, jit_compile=default_jit_compile())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "FillMask":
        """A generator, or another masked language model, of `pretrain.py` or transformers.

        Raises:
            InputError: it is no such directory, or a file of it is missing or damaged.
        """
        names = checkpoint.read(directory).arrays
        if not any(name.startswith("generator_predictions.") for name in names):
            raise InputError(
                f"{directory} cannot fill a {MASK}: it has no head that predicts tokens. "
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
        _check_positive("top_k", top_k)
        _check_positive("batch_size", batch_size)
        if top_k > self.tokenizer.vocab_size:
            raise InputError(
                f"`top_k` is {top_k}, but the vocabulary has {self.tokenizer.vocab_size} tokens"
            )
        num_long = 0
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = texts[begin : begin + _TEXTS_AT_ONCE]
            features, places, num_long_here = self._features(chunk)
            num_long += num_long_here
            hidden = _outputs(self.model.convbert, features, batch_size, of_tokens=True)
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
        # A mask ends a word, so what is before and after it can be tokenised alone.
        parts = [text.split(MASK) for text in texts]
        pieces = iter(self.tokenizer.tokenize([part for row in parts for part in row]).to_list())
        room = self.max_seq_length - 2
        rows, places, start, num_long = [], [], 0, 0
        for count in map(len, parts):
            ids, masks = next(pieces), []
            for _ in range(count - 1):
                masks.append(len(ids))
                ids += [self.tokenizer.mask_id, *next(pieces)]
            is_long = len(ids) > room
            num_long += is_long
            for group in [[mask] for mask in masks] if is_long else [masks]:
                first = max(0, min(group[0] - room // 2, len(ids) - room))
                window = ids[first : first + room]
                rows.append([self.tokenizer.cls_id, *window, self.tokenizer.sep_id])
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


class PooledEncoder(keras.Model):
    """An encoder and the mean of its vectors, or that of [CLS].

    Args:
        encoder: a `ConvBertModel`.
        pooling: one of `POOLINGS`.
        layer: of how many layers; the embeddings alone are 0.

    Call arguments:
        inputs: the dict of `ConvBertModel`, `input_mask` included.

    Returns:
        Float32 [B, H].
    """

    def __init__(self, encoder: ConvBertModel, pooling: str, layer: int, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.pooling, self.layer = encoder, pooling, layer

    def call(self, inputs, training=False):
        """See the class."""
        if self.layer == self.encoder.config.num_hidden_layers:
            hidden = self.encoder(inputs, training=training)
        else:  # in a compiled graph, what is not used is not computed
            found = self.encoder.activations(inputs)
            hidden = found["layers"][self.layer - 1] if self.layer else found["projected"]
        hidden = ops.cast(hidden, "float32")  # [B, T, H]
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = ops.cast(inputs["input_mask"], "float32")[:, :, None]
        return ops.sum(hidden * mask, axis=1) / ops.sum(mask, axis=1)


class FeatureExtractor:
    """An encoder with its tokenizer: texts in, a vector each out.

    A text's vector depends on nothing but the text: neither on padding nor on other texts.

    Args:
        encoder: a `ConvBertModel`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: longer texts are cut.
        pooling: "mean" of the vectors of all tokens, [CLS] and [SEP] among them; or "cls", that of
            [CLS].
        layer: whose vectors: the first is 1, and 0 are the embeddings; the last is -1.
    """

    def __init__(
        self,
        encoder: ConvBertModel,
        tokenizer: ConvBertTokenizer,
        max_seq_length: int,
        pooling: str = "mean",
        layer: int = -1,
    ):
        if pooling not in POOLINGS:
            raise InputError(
                f"`pooling` must be one of {', '.join(POOLINGS)}. Received: {pooling!r}"
            )
        last = encoder.config.num_hidden_layers
        if not -last - 1 <= layer <= last:
            raise InputError(
                f"`layer` must be from 0, the embeddings, to {last}, the last layer; or from -1, "
                f"the last layer, to {-last - 1}. Received: {layer}"
            )
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length
        self.hidden_size = encoder.config.hidden_size
        self.model = PooledEncoder(encoder, pooling, layer % (last + 1))
        self.model.compile(optimizer=None, jit_compile=default_jit_compile())

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, pooling: str = "mean", layer: int = -1
    ) -> "FeatureExtractor":
        """The encoder of any ConvBERT directory, whether pre-trained, fine-tuned or transformers'.

        Raises:
            InputError: it is no such directory, or a file of it is missing or damaged.
        """
        # As in `FillMask`: a padded row's vectors are those of the text alone.
        encoder = ConvBertModel.from_pretrained(directory, mask_padding=True)
        return cls(encoder, *load_tokenizer(directory, encoder.config), pooling, layer)

    def encode(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> np.ndarray:
        """Vectors of texts, or of pairs of texts, in their order: float32 `[N, H]`.

        A warning says how many were too long and have been cut.

        Raises:
            InputError: a text is empty or no text, or there are unequal numbers of them.
        """
        chunks = list(self.encode_chunks(texts, text_pairs, batch_size))
        return np.concatenate([np.empty((0, self.hidden_size), np.float32), *chunks])

    def encode_chunks(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> Iterator[np.ndarray]:
        """What `encode` returns, some texts at a time; a file of any size passes through."""
        texts = check_texts(texts, "texts")
        if text_pairs is not None:
            text_pairs = check_texts(text_pairs, "text_pairs")
            if len(text_pairs) != len(texts):
                raise InputError(f"{len(texts)} `texts`, but {len(text_pairs)} `text_pairs`")
        _check_positive("batch_size", batch_size)
        num_cut = 0
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = slice(begin, begin + _TEXTS_AT_ONCE)
            pairs = None if text_pairs is None else text_pairs[chunk]
            examples = TextExamples("", "", texts[chunk], pairs, None)
            features = make_features(self.tokenizer, examples, self.max_seq_length)
            num_cut += count_cut(self.tokenizer, examples, features)
            yield _outputs(self.model, features, batch_size, of_tokens=False)
        if num_cut:
            logging.warning(
                "%d of %d texts were longer than %d tokens and have been cut",
                num_cut,
                len(texts),
                self.max_seq_length,
            )


def load_tokenizer(
    directory: str | os.PathLike, config: ConvBertConfig
) -> tuple[ConvBertTokenizer, int]:
    """A saved model's tokenizer, and the most tokens that a text may have.

    Raises:
        InputError: there is none, or it is not the model's.
    """
    tokenizer = ConvBertTokenizer.from_pretrained(directory)
    if tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"{os.path.join(directory, 'vocab.txt')} has {tokenizer.vocab_size} tokens, but the "
            f"model's `vocab_size` is {config.vocab_size}"
        )
    stated = stated_max_length(pathlib.Path(directory) / CONFIG_FILE)
    longest = config.max_position_embeddings
    return tokenizer, min(stated or longest, longest)


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list, all of them with something in them; `name` is for errors."""
    if isinstance(texts, str):
        raise InputError(f"`{name}` must be a list of strings: write [text] for a single one")
    return [parse_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]


def _check_positive(name, value):
    if value < 1:
        raise InputError(f"`{name}` must be a positive integer. Received: {value}")


def _outputs(model, features, batch_size, of_tokens):
    """The one array that `model` computes of all rows `[N, …]`, or of their tokens."""
    found = gather_outputs(
        features,
        model.predict_on_batch,
        ("logits",) if of_tokens else (),
        batch_size,
        few_lengths=model.jit_compile,
    )
    if not np.isfinite(found).all():
        raise InputError("the model's outputs are not finite numbers: its training has failed")
    return found


def _filled(parts, number, tokens, probabilities):
    """Puts each token in the place of mask `number`, from 0, of a text cut at its masks."""
    before, after = MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])

    def fill(token):
        if token.startswith("##"):
            return before.rstrip() + token[2:] + after
        return before + token + after

    return FilledMask(tokens, probabilities, [fill(token) for token in tokens])
