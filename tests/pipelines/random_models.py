"""Random models and what they should compute, for the tests of pipelines."""

import keras
import numpy as np

from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertForMaskedLM

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "H", "[", "]", "mask"]
NETWORK = dict(
    vocab_size=len(VOCAB), embedding_size=16, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
)  # fmt: skip


def save(directory, kind=ConvBertForMaskedLM, max_length=64, lower=True, **fields):
    """A random model's directory; the model is returned."""
    keras.utils.set_random_seed(0)
    model = kind(ConvBertConfig(**(NETWORK | fields)))
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = ConvBertTokenizer(directory / "vocab.txt", do_lower_case=lower)
    tokenizer.save_pretrained(directory, max_length)
    return model


def rows_of(*texts):
    """Token ids of texts written as tokens with spaces between them, without padding."""
    for text in texts:
        yield np.array([[VOCAB.index(token) for token in f"[CLS] {text} [SEP]".split()]])
