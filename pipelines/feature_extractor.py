"""Vectors of texts, from the encoder of any saved model."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops
from typing_extensions import override

from common.fields import require, require_one_of
from data.tasks.batching import count_cut, make_features
from data.tasks.examples import TextExamples
from model import ConvBertModel
from pipelines.base import Checked, Pipeline, check_inputs, chunks

POOLINGS = ("mean", "cls")


class PooledEncoder(keras.Model):
    """An encoder with one vector per text: the inputs of `ConvBertModel` → float32 [B, H].

    See `FeatureExtractor` for `pooling` and `layer`, which is not negative here.
    """

    token_outputs = ()

    def __init__(self, encoder: ConvBertModel, pooling: str, layer: int, **kwargs):
        super().__init__(**kwargs)
        self.config = encoder.config
        self.convbert, self.pooling, self.layer = encoder, pooling, layer

    def encoder(self) -> ConvBertModel:
        """Returns the encoder."""
        return self.convbert

    @override
    def call(self, inputs, training=False):
        if self.layer == self.config.num_hidden_layers:
            hidden = self.convbert(inputs, training=training)
        else:  # a compiled graph computes only what is used
            found = self.convbert.activations(inputs)
            hidden = found["layers"][self.layer - 1] if self.layer else found["projected"]
        hidden = ops.cast(hidden, "float32")  # [B, T, H]
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = ops.cast(ops.expand_dims(inputs["input_mask"], -1), "float32")
        return ops.sum(hidden * mask, axis=1) / ops.sum(mask, axis=1)


class FeatureExtractor(Pipeline):
    """An encoder: one vector per text, independent of other texts. Long texts are cut.

    Args:
        pooling: "mean" averages the vectors of all tokens, including [CLS] and [SEP]; "cls" takes
            the vector of [CLS].
        layer: the layer to read: 1 is the first, 0 the embeddings, -1 the last.
    """

    model_class = ConvBertModel
    always_masks_padding = True

    def __init__(self, encoder, tokenizer, max_seq_length, pooling: str = "mean", layer: int = -1):
        require_one_of("pooling", pooling, POOLINGS)
        last = encoder.config.num_hidden_layers
        expected = f"from 0 (the embeddings) to {last} (the last layer), or from -1 to {-last - 1}"
        require(-last - 1 <= layer <= last, "layer", expected, layer)
        self.hidden_size = encoder.config.hidden_size
        model = PooledEncoder(encoder, pooling, layer % (last + 1))
        super().__init__(model, tokenizer, max_seq_length)

    def encode(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        errors: str = "raise",
    ) -> np.ndarray:
        """Vectors of N texts, or pairs, in order: float32 `[N, H]`; NaN for those skipped.

        A warning says how many texts were cut.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; the lists differ in length;
                or a text is empty or not a string, unless `errors` is "skip".
        """
        vectors = list(self.encode_chunks(texts, text_pairs, batch_size, errors))
        return np.concatenate([np.empty((0, self.hidden_size), np.float32), *vectors])

    def encode_chunks(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        errors: str = "raise",
    ) -> Iterator[np.ndarray]:
        """Yields the rows of `encode` chunk by chunk, for any number of texts."""
        checked = check_inputs(batch_size, errors, texts=texts, text_pairs=text_pairs)
        num_cut = 0
        for chunk in chunks(checked.rows):
            part = Checked(checked.rows[chunk], {})
            if not part.good:
                yield part.spread_rows(np.empty((0, self.hidden_size), np.float32))
                continue
            good, *pairs = part.columns()
            examples = TextExamples("", "", good, *(pairs or [None]), None)
            features = make_features(self.tokenizer, examples, self.max_seq_length)
            num_cut += count_cut(self.tokenizer, examples, features)
            yield part.spread_rows(self.compute_outputs(features, batch_size))
        self.warn_of_cut(num_cut, len(checked.rows))
