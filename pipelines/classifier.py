"""Text classification and regression: texts in, labels or scores out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import InputError
from common.fields import require
from data.tasks.batching import count_cut, make_features
from data.tasks.classification import decoding, task
from data.tasks.examples import TextExamples
from model import ConvBertForSequenceClassification
from pipelines.base import Pipeline, check_inputs, label_names


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for N texts, in their order.

    Args:
        answers: for each text, its label; or a list of labels, perhaps empty, if a text can have
            several; or its score.
        probabilities: float32 `[N, labels]`; None for scores.
        num_cut: how many texts were too long and have been cut.
        errors: what is wrong with each text that was skipped, by its index. Its answer is None, and
            its probabilities are NaN.
    """

    answers: list[Any]
    probabilities: np.ndarray | None
    num_cut: int
    errors: dict[int, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)


class TextClassifier(Pipeline):
    """A fine-tuned classifier or regressor, `reads_pairs` if it was fine-tuned on pairs of texts.

    Long texts are cut, as in fine-tuning.
    """

    model_class = ConvBertForSequenceClassification
    what = "a fine-tuned classifier"
    task_kind = task.KIND
    saved_arguments = ("reads_pairs",)

    def __init__(self, model, tokenizer, max_seq_length, reads_pairs: bool = False):
        super().__init__(model, tokenizer, max_seq_length)
        require(isinstance(reads_pairs, bool), "reads_pairs", "true or false", reads_pairs)
        self.reads_pairs = reads_pairs
        config = model.config
        self.score_range = config.score_range
        # Hugging Face leaves out the problem type if the number of labels implies it.
        self.problem_type = config.problem_type or (
            decoding.REGRESSION if config.num_labels == 1 else decoding.SINGLE_LABEL
        )
        self.labels = None if self.problem_type == decoding.REGRESSION else label_names(config)
        names = list(self.labels or ())
        require(len(set(names)) == len(names), "id2label", "a different name for each label", names)

    def predict(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        errors: str = "raise",
    ) -> Predictions:
        """Classifies texts, or pairs of texts, in batches of similar length.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; the lists differ in length;
                the model reads pairs, but there are none; or a text is empty or not a string,
                unless `errors` is "skip".
        """
        if self.reads_pairs and text_pairs is None:
            raise InputError(
                "the model was fine-tuned on pairs of texts: `text_pairs` is missing (on the "
                "command line, put a tab between the two texts of a pair)"
            )
        checked = check_inputs(batch_size, errors, texts=texts, text_pairs=text_pairs)
        num_cut, logits = 0, np.empty((0, self.model.config.num_labels), np.float32)
        if checked.good:
            texts, *pairs = checked.columns()
            examples = TextExamples("", "", texts, *(pairs or [None]), None)
            features = make_features(self.tokenizer, examples, self.max_seq_length)
            logits = self.compute_outputs(features, batch_size)
            num_cut = count_cut(self.tokenizer, examples, features)
        answers = decoding.answers(self.problem_type, logits, self.labels, self.score_range)
        probabilities = None
        if self.labels is not None:
            found = decoding.probabilities(self.problem_type, logits)
            probabilities = checked.spread_rows(found)
        return Predictions(checked.answers(answers), probabilities, num_cut, checked.errors)
