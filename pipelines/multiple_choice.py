"""Multiple choice: contexts and their choices in, the best choice of each out."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from common.errors import InputError
from common.fields import require
from data.tasks.batching import count_cut
from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.examples import parse_text
from data.tasks.multiple_choice import task as multiple_choice
from model import ConvBertForMultipleChoice
from pipelines import base
from pipelines.classifier import Predictions


class MultipleChoice(base.Pipeline):
    """A fine-tuned multiple-choice model. A long context with its choice is cut, as in fine-tuning.

    `labels` are the names of the choices; with None, choices are numbered from 0.
    """

    model_class = ConvBertForMultipleChoice
    what = "a fine-tuned multiple-choice model"
    task_kind = multiple_choice.KIND
    saved_arguments = ("labels",)

    def __init__(self, model, tokenizer, max_seq_length, labels: Sequence[str] | None = None):
        super().__init__(model, tokenizer, max_seq_length)
        is_list = isinstance(labels, list | tuple) and all(isinstance(name, str) for name in labels)
        require(labels is None or is_list, "labels", "a list of strings", labels)
        self.labels = labels and tuple(labels)
        self.task = multiple_choice.MultipleChoiceTask("", ("accuracy",), 0, (), 0)

    def predict(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        batch_size: int = 32,
        errors: str = "raise",
    ) -> Predictions:
        """Finds the best choice for each of N contexts, all with the same number of choices.

        A batch has `batch_size` contexts, each with all its choices. Answers are names of choices,
        or their numbers from 0. Probabilities are float32 `[N, choices]`. `num_cut` counts the
        choices that were cut together with their context.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; the lists differ in length;
                or, unless `errors` is "skip", a text is empty or not a string, or a context has
                fewer than two choices or not the same number as the others.
        """
        checked = base.check_inputs(
            batch_size, errors, self._parser(), contexts=contexts, choices=choices
        )
        num_cut, answers, shares = 0, [], np.empty((0, len(self.labels or ())), np.float32)
        if checked.good:
            examples = multiple_choice.ChoiceExamples("the input", "", *checked.columns(), None)
            features = self.task.make_features(self.tokenizer, examples, self, training=False)
            logits = self.compute_outputs(features, batch_size)
            pairs = dataclasses.replace(features, rows_per_example=1)
            num_cut = count_cut(self.tokenizer, examples.as_pairs(), pairs)
            answers, shares = logits.argmax(axis=1).tolist(), probabilities(SINGLE_LABEL, logits)
        if self.labels is not None:
            answers = [self.labels[number] for number in answers]
        return Predictions(
            checked.answers(answers), checked.spread_rows(shares), num_cut, checked.errors
        )

    def _parser(self):
        """A function that checks a context and its choices; the first row sets their number."""
        count, why = 0, "as before"
        if self.labels:
            count, why = len(self.labels), f"one for each of {', '.join(self.labels)}"

        def parse(index, context, choices):
            nonlocal count
            context = parse_text(context, f"contexts[{index}]")
            row = base.check_texts(choices, f"choices[{index}]")
            if len(row) != (count or max(2, len(row))):
                expected = f"{count} choices, {why}" if count else "two or more choices"
                raise InputError(f"choices[{index}]: expected {expected}; got {len(row)}")
            count = len(row)
            return context, row

        return parse
