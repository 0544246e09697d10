"""What every graph of texts is, whatever it says of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from serving.rows import Rows, run

STRINGS = tf.TensorSpec([None], tf.string)


@dataclasses.dataclass(frozen=True)
class TextGraph:
    """A function from strings to what a model says of them, in TensorFlow's operations alone.

    Args:
        function: from `inputs`, by name, to tensors by name.
        inputs: specifications by name.
        model: whose variables the function reads.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: dict[str, tf.TensorSpec]
    model: Any


class Network:
    """A pipeline's model behind its tokenizer.

    Args:
        pipeline: any of `pipelines`.
        max_seq_length: the most tokens of a row.
        network: what computes; None is the pipeline's model.
    """

    def __init__(self, pipeline: Any, max_seq_length: int, network: Any = None):
        self.network = network or pipeline.model
        pad_to_max = not pipeline.model.config.mask_padding
        self.rows = Rows(pipeline.tokenizer, max_seq_length, pad_to_max)

    def __call__(self, inputs: dict) -> Any:
        """The outputs for the rows that `Rows` made."""
        return run(lambda batch: self.network(batch, training=False), inputs)
