"""A fine-tuned chooser: contexts with their choices in; the best ones, and probabilities, out."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.batching import count_cut
from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.multiple_choice import task as multiple_choice
from model import ConvBertForMultipleChoice
from model.backends import backend
from pipelines.base import (
    check_equal_numbers,
    check_positive,
    check_texts,
    compute_outputs,
    load,
    reading_options,
    saved_options,
)
from pipelines.classifier import Predictions


class MultipleChoice:
    """A fine-tuned model with its tokenizer.

    Args:
        model: a `ConvBertForMultipleChoice`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: a context and a choice with more tokens are cut, as in fine-tuning.
        labels: what choices are called; None is their numbers from 0.
    """

    def __init__(
        self,
        model: ConvBertForMultipleChoice,
        tokenizer: ConvBertTokenizer,
        max_seq_length: int,
        labels: Sequence[str] | None = None,
    ):
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        if labels is not None and not (
            isinstance(labels, list | tuple) and all(isinstance(name, str) for name in labels)
        ):
            raise InputError(f"`labels` must be a list of strings. Received: {labels!r}")
        self.labels = labels and tuple(labels)
        self.task = multiple_choice.MultipleChoiceTask("", ("accuracy",), 0, (), 0)
        self.options = reading_options(max_seq_length, {})
        model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls, name_or_directory: str | os.PathLike, **hub_options: Any
    ) -> "MultipleChoice":
        """The model that `finetune.py`, or transformers, saved.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        loaded = load(
            ConvBertForMultipleChoice,
            name_or_directory,
            "a fine-tuned multiple-choice model",
            **hub_options,
        )
        return cls(*loaded, saved_options(loaded[0].config, multiple_choice.KIND).get("labels"))

    def predict(
        self, contexts: Sequence[str], choices: Sequence[Sequence[str]], batch_size: int = 32
    ) -> Predictions:
        """Finds the best choice for each context.

        Args:
            contexts: N texts.
            choices: N lists of texts, all equally long.
            batch_size: contexts that are computed together, with all their choices.

        Returns:
            The best choices' numbers from 0, or what they are called; probabilities `[N,
            choices]`; and how many choices were too long with their context and have been cut.

        Raises:
            InputError: a text is empty or no text, or there are unequal numbers of them.
        """
        contexts = check_texts(contexts, "contexts")
        rows = [check_texts(row, f"choices[{i}]") for i, row in enumerate(choices)]
        check_equal_numbers(contexts=contexts, choices=rows)
        check_positive("batch_size", batch_size)
        if not contexts:
            return Predictions([], None, 0)
        self._check_numbers(rows)
        examples = multiple_choice.ChoiceExamples("the input", "", contexts, rows, None)
        features = self.task.make_features(self.tokenizer, examples, self.options, training=False)
        logits = compute_outputs(self.model, features, batch_size)
        answers = logits.argmax(axis=1).tolist()
        if self.labels is not None:
            answers = [self.labels[number] for number in answers]
        pairs = dataclasses.replace(features, rows_per_example=1)
        num_cut = count_cut(self.tokenizer, examples.as_pairs(), pairs)
        return Predictions(answers, probabilities(SINGLE_LABEL, logits), num_cut)

    def _check_numbers(self, rows):
        """Refuses other numbers of choices than the first's, and than there are labels."""
        count = len(self.labels or rows[0])
        if count < 2:
            raise InputError(f"choices[0]: expected two or more, got {count}")
        why = f"are called {', '.join(self.labels)}" if self.labels else "are in choices[0]"
        for index, row in enumerate(rows):
            if len(row) != count:
                raise InputError(f"choices[{index}]: expected {count}, which {why}, got {len(row)}")
