"""Vectors of texts, from the encoder of any saved model."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from common import hub
from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.batching import count_cut, make_features
from data.tasks.examples import TextExamples
from model import ConvBertModel
from model.backends import backend
from pipelines.base import (
    check_equal_numbers,
    check_positive,
    check_texts,
    compute_outputs,
    load_tokenizer,
)

POOLINGS = ("mean", "cls")
# So many texts are tokenized, and sorted by length, together; no more are in memory as tokens.
_TEXTS_AT_ONCE = 1024


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

    token_outputs = ()

    def __init__(self, encoder: ConvBertModel, pooling: str, layer: int, **kwargs):
        super().__init__(**kwargs)
        self.config = encoder.config
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
        mask = ops.cast(ops.expand_dims(inputs["input_mask"], -1), "float32")
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
        self.model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        pooling: str = "mean",
        layer: int = -1,
        **hub_options: Any,
    ) -> "FeatureExtractor":
        """The encoder of any ConvBERT model, whether pre-trained, fine-tuned or transformers'.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            pooling: see the class.
            layer: likewise.
            **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        directory = hub.resolve(name_or_directory, **hub_options)
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
            check_equal_numbers(texts=texts, text_pairs=text_pairs)
        check_positive("batch_size", batch_size)
        num_cut = 0
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = slice(begin, begin + _TEXTS_AT_ONCE)
            pairs = None if text_pairs is None else text_pairs[chunk]
            examples = TextExamples("", "", texts[chunk], pairs, None)
            features = make_features(self.tokenizer, examples, self.max_seq_length)
            num_cut += count_cut(self.tokenizer, examples, features)
            yield compute_outputs(self.model, features, batch_size)
        if num_cut:
            logging.warning(
                "%d of %d texts were longer than %d tokens and have been cut",
                num_cut,
                len(texts),
                self.max_seq_length,
            )
