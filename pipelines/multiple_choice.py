"""Multiple choice: contexts and their choices in, the best choice of each out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from common.fields import require
from data.tasks.batching import count_cut
from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.multiple_choice import task as multiple_choice
from model import ConvBertForMultipleChoice
from pipelines import base
from pipelines.classifier import Predictions


class MultipleChoice(base.Pipeline):
    """A fine-tuned multiple-choice model. A long context with its choice is cut, as in fine-tuning.

    `labels` are names of the choices; None numbers them from 0.
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
        self, contexts: Sequence[str], choices: Sequence[Sequence[str]], batch_size: int = 32
    ) -> Predictions:
        """Finds the best choice for each of N contexts, all of which have equally many choices.

        A batch has `batch_size` contexts, each with all its choices.

        Returns:
            The best choices' names, or their numbers from 0; probabilities `[N, choices]`; and
            how many choices were too long with their context and have been cut.

        Raises:
            InputError: a text is empty or not a string, or lists differ in length.
        """
        (contexts,) = base.check_inputs(batch_size, contexts=contexts)
        rows = [base.check_texts(row, f"choices[{i}]") for i, row in enumerate(choices)]
        if len(rows) != len(contexts):
            raise InputError(f"{len(contexts)} `contexts`, but {len(rows)} `choices`")
        if not contexts:
            return Predictions([], None, 0)
        count = len(self.labels or rows[0])
        why = f"one for each of {', '.join(self.labels)}" if self.labels else "as in choices[0]"
        for index, row in enumerate(rows):
            if len(row) != count or count < 2:
                expected = "two or more choices" if count < 2 else f"{count} choices, {why}"
                raise InputError(f"choices[{index}]: expected {expected}; got {len(row)}")
        examples = multiple_choice.ChoiceExamples("the input", "", contexts, rows, None)
        features = self.task.make_features(self.tokenizer, examples, self, training=False)
        logits = base.compute_outputs(self.model, features, batch_size)
        answers: list[Any] = logits.argmax(axis=1).tolist()
        if self.labels is not None:
            answers = [self.labels[number] for number in answers]
        pairs = dataclasses.replace(features, rows_per_example=1)
        num_cut = count_cut(self.tokenizer, examples.as_pairs(), pairs)
        return Predictions(answers, probabilities(SINGLE_LABEL, logits), num_cut)
