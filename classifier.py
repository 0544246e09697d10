"""A fine-tuned classifier or regressor as one object: text in, labels and probabilities out.

It joins a tokenizer (`data`) with a network (`model`), which do not know each other; so it lives in
neither.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data import ConvBertTokenizer, classification
from data.features import Arrays, Features, count_cut, gather_outputs, make_features
from data.tokenizer_config import CONFIG_FILE, stated_max_length
from errors import InputError
from model import ConvBertForSequenceClassification
from model.training import default_jit_compile

# Without XLA, on CPUs, the small operations of one batch leave cores to another.
BATCHES_AT_ONCE = 2

ARCHITECTURE = ConvBertForSequenceClassification.architecture


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
            classification.REGRESSION if config.num_labels == 1 else classification.SINGLE_LABEL
        )
        self.labels = None
        if self.problem_type != classification.REGRESSION:
            self.labels = config.id2label or tuple(f"LABEL_{i}" for i in range(config.num_labels))
        model.compile(optimizer=None, jit_compile=default_jit_compile())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "TextClassifier":
        """The classifier that `finetune.py`, or transformers, saved in `directory`.

        Raises:
            InputError: it is no such directory, or a file of it is missing or damaged.
        """
        check_is_classifier(directory)
        model = ConvBertForSequenceClassification.from_pretrained(directory)
        tokenizer = ConvBertTokenizer.from_pretrained(directory)
        if tokenizer.vocab_size != model.config.vocab_size:
            raise InputError(
                f"{os.path.join(directory, 'vocab.txt')} has {tokenizer.vocab_size} tokens, but "
                f"the model's `vocab_size` is {model.config.vocab_size}"
            )
        longest = model.config.max_position_embeddings
        stated = stated_max_length(pathlib.Path(directory) / CONFIG_FILE)
        return cls(model, tokenizer, min(stated or longest, longest))

    def predict(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> Predictions:
        """Classifies texts, or pairs of texts, in batches of about the same length.

        Raises:
            InputError: a text is empty or no text, or there are unequal numbers of them.
        """
        texts = _checked(texts, "texts")
        if text_pairs is not None:
            text_pairs = _checked(text_pairs, "text_pairs")
            if len(text_pairs) != len(texts):
                raise InputError(f"{len(texts)} `texts`, but {len(text_pairs)} `text_pairs`")
        if batch_size < 1:
            raise InputError(f"`batch_size` must be a positive integer. Received: {batch_size}")
        if not texts:
            return Predictions([], None, 0)
        examples = classification.TextExamples("", "", texts, text_pairs, None)
        features = make_features(self.tokenizer, examples, self.max_seq_length)
        logits = compute_outputs(self.model, features, batch_size)
        answers = classification.answers(self.problem_type, logits, self.labels, self.score_range)
        probabilities = None
        if self.labels is not None:
            probabilities = classification.probabilities(self.problem_type, logits)
        num_cut = count_cut(self.tokenizer, examples, features)
        return Predictions(answers, probabilities, num_cut)


def compute_outputs(model, features: Features, batch_size: int) -> Arrays:
    """A model's outputs for all examples, in their order; see `data.features.gather_outputs`.

    Raises:
        InputError: the model computes no finite numbers.
    """
    outputs = gather_outputs(
        features,
        model.predict_on_batch,
        model.token_outputs,
        batch_size,
        pad_to_max=not model.config.mask_padding,
        few_lengths=model.jit_compile,
        num_threads=1 if model.jit_compile else BATCHES_AT_ONCE,
    )
    for array in outputs.values() if isinstance(outputs, dict) else [outputs]:
        if not np.isfinite(array).all():
            raise InputError(
                "the model's outputs are not finite numbers. Fine-tune with a lower `learning_rate`"
            )
    return outputs


def check_is_classifier(directory: str | os.PathLike) -> None:
    """Refuses a directory whose `config.json` does not say that it holds a classifier."""
    path = os.path.join(directory, "config.json")
    hint = "finetune.sh writes fine-tuned models to DATA_DIR/models/NAME/finetuning_models/"
    if not os.path.isfile(path):
        raise InputError(f"no such file: {path}. {hint}")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file).get("architectures")
    except (ValueError, AttributeError):
        raise InputError(f"{path}: not a JSON object") from None
    if found != [ARCHITECTURE]:
        raise InputError(
            f"{directory} is not a fine-tuned classifier: its config.json has the architectures "
            f"{json.dumps(found)}, not {ARCHITECTURE}. {hint}"
        )


def _checked(texts, name):
    if isinstance(texts, str):
        raise InputError(f"`{name}` must be a list of strings: write [text] for a single one")
    return [classification.parse_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]
