"""A fine-tuned classifier or regressor as one object: text in, labels and probabilities out."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from data import ConvBertTokenizer
from data.tasks.batching import count_cut, make_features
from data.tasks.classification import decoding
from data.tasks.examples import TextExamples
from model import ConvBertForSequenceClassification
from model.backends import backend
from pipelines.base import (
    check_equal_numbers,
    check_positive,
    check_texts,
    compute_outputs,
    load,
)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier says of N texts, in their order.

    Args:
        answers: for each its label; a list of labels, maybe none, where it may have several; or
            its score.
        probabilities: float32 `[N, labels]`; None for scores.
        num_cut: how many texts were too long and have been cut.
    """

    answers: list[Any]
    probabilities: np.ndarray | None
    num_cut: int

    def __len__(self) -> int:
        return len(self.answers)


class TextClassifier:
    """A fine-tuned model with its tokenizer.

    Args:
        model: a `ConvBertForSequenceClassification`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: longer texts are cut, as in fine-tuning.
    """

    def __init__(
        self,
        model: ConvBertForSequenceClassification,
        tokenizer: ConvBertTokenizer,
        max_seq_length: int,
    ):
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        config = model.config
        self.score_range = config.score_range
        # Hugging Face leaves it out where the number of labels says it.
        self.problem_type = config.problem_type or (
            decoding.REGRESSION if config.num_labels == 1 else decoding.SINGLE_LABEL
        )
        self.labels = None
        if self.problem_type != decoding.REGRESSION:
            self.labels = config.id2label or tuple(f"LABEL_{i}" for i in range(config.num_labels))
        model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls, name_or_directory: str | os.PathLike, **hub_options: Any
    ) -> "TextClassifier":
        """The classifier that `finetune.py`, or transformers, saved.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        return cls(
            *load(
                ConvBertForSequenceClassification,
                name_or_directory,
                "a fine-tuned classifier",
                **hub_options,
            )
        )

    def predict(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> Predictions:
        """Classifies texts, or pairs of texts, in batches of about the same length.

        Raises:
            InputError: a text is empty or no text, or there are unequal numbers of them.
        """
        texts = check_texts(texts, "texts")
        if text_pairs is not None:
            text_pairs = check_texts(text_pairs, "text_pairs")
            check_equal_numbers(texts=texts, text_pairs=text_pairs)
        check_positive("batch_size", batch_size)
        if not texts:
            return Predictions([], None, 0)
        examples = TextExamples("", "", texts, text_pairs, None)
        features = make_features(self.tokenizer, examples, self.max_seq_length)
        logits = compute_outputs(self.model, features, batch_size)
        answers = decoding.answers(self.problem_type, logits, self.labels, self.score_range)
        probabilities = None
        if self.labels is not None:
            probabilities = decoding.probabilities(self.problem_type, logits)
        num_cut = count_cut(self.tokenizer, examples, features)
        return Predictions(answers, probabilities, num_cut)
