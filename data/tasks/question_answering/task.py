"""Question answering: each answer is a span of a given text, or there is no answer.

The tasks are those of the original's finetune/qa/qa_tasks.py: SQuAD 1.1 and 2.0, and four of the
MRQA 2019 shared task. docs/finetuning.md explains the JSON fields of a user's own task.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from common.files import write_json, write_text
from data.tasks import task_fields
from data.tasks.base import Task
from data.tasks.question_answering.evaluation import evaluate, evaluate_with_unanswerable
from data.tasks.question_answering.files import ENDINGS, QuestionExamples, read_questions
from data.tasks.review import Review

KIND = "question_answering"
METRICS = {False: ("exact_match", "f1"), True: ("exact", "f1")}  # by `unanswerable`


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringTask(Task):
    """A task whose answers are spans of the texts that its questions are about.

    If it is `unanswerable`, a question may have no answer, as in SQuAD 2.0.
    """

    metrics: tuple[str, ...] = METRICS[False]
    unanswerable: bool = False

    architecture: ClassVar[str] = "ConvBertForQuestionAnswering"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    predicts_dev: ClassVar[bool] = True

    @override
    def read(self, path: str, split: str) -> QuestionExamples:
        return read_questions(path, split, self.unanswerable)

    @override
    def model_options(self, options: Any) -> dict[str, Any]:
        names = ("joint_prediction", "beam_size", "answerable_weight")
        return {name: getattr(options, name) for name in names}

    @override
    def saved_options(self, options: Any) -> dict[str, Any]:
        names = ("max_query_length", "doc_stride", "n_best_size", "max_answer_length")
        windows = {name: getattr(options, name) for name in (*names, "qa_na_threshold")}
        return {KIND: windows | {"unanswerable": self.unanswerable}}

    def is_answered(self, answer: Any, na_threshold: float) -> bool:
        """Whether a question's best candidate is its answer; otherwise it has no answer."""
        return not self.unanswerable or answer.null_odds <= na_threshold

    @override
    def make_features(self, tokenizer, examples, options, training):
        from data.tasks.question_answering.windows import make_features

        return make_features(tokenizer, examples, options, training)

    @override
    def score(self, examples, features, outputs) -> dict[str, float]:
        answers = _answers_by_id(examples, features, outputs)
        expected = {question.id: question.answers for question in examples.questions}
        texts = {question: answer.candidates[0].text for question, answer in answers.items()}
        if not self.unanswerable:
            return evaluate(expected, texts)
        odds = {question: answer.null_odds for question, answer in answers.items()}
        return evaluate_with_unanswerable(expected, texts, odds, features.na_threshold)

    @override
    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """Writes one row per question (its index, its id, its answer), and JSON files beside it.

        `_predictions.json` has the answers by id, for SQuAD's evaluation and its leaderboard;
        `_nbest.json` has the best candidates. If questions may have no answer, `_null_odds.json`
        has the odds of that for each question: above `qa_na_threshold` the answer is "".
        """
        answers = _answers_by_id(examples, features, outputs)
        texts = {
            question: answer.candidates[0].text * self.is_answered(answer, features.na_threshold)
            for question, answer in answers.items()
        }
        nbest = {question: answer.describe() for question, answer in answers.items()}
        contents = {"predictions": texts, "nbest": nbest}
        if self.unanswerable:
            contents["null_odds"] = {q: answer.null_odds for q, answer in answers.items()}
        stem = os.path.splitext(path)[0]
        for name, content in contents.items():
            write_json(f"{stem}_{name}.json", content, indent=1, ensure_ascii=False)
        lines = ["index\tid\tprediction"]
        for index, (question, text) in enumerate(texts.items()):
            lines.append(f"{index}\t{question}\t{' '.join(text.split())}")
        write_text(path, "\n".join(lines) + "\n")

    @override
    def review(self, examples, features, outputs) -> Review:
        from data.tasks.question_answering.answers import find_answers
        from data.tasks.question_answering.review import review_answers

        answers = find_answers(examples, features, outputs)
        return review_answers(self, examples, answers, features.na_threshold)

    @override
    def describe(self, examples):
        """The label of a question is its first answer; "" if it has none."""
        return [
            ((each.text, examples.contexts[each.context]), _first_answer(examples, each))
            for each in examples.questions
        ]

    @override
    def count_labels(self, examples):
        """How many questions have an answer."""
        answers = (_first_answer(examples, question) for question in examples.questions)
        return Counter("has an answer" if answer else "has no answer" for answer in answers)

    @override
    def count_cut(self, tokenizer, examples, features):
        import numpy as np

        windows = np.bincount(features.questions, minlength=len(examples))
        return {
            "contexts read in windows": (int((windows > 1).sum()), len(examples)),
            "questions cut": (features.num_cut, len(examples)),
        }


def _first_answer(examples, question):
    """A training file says where the answer is, a dev file what the answers are."""
    if question.span is not None:
        return examples.contexts[question.context][slice(*question.span)]
    return question.answers[0] if question.answers else ""


def _answers_by_id(examples, features, outputs):
    from data.tasks.question_answering.answers import find_answers

    found = find_answers(examples, features, outputs)
    return {question.id: answer for question, answer in zip(examples.questions, found, strict=True)}


def task_from_fields(path: str, fields: Mapping[str, Any]) -> QuestionAnsweringTask:
    """The task that a JSON file describes: `path` and its fields; see `registry.read_task`."""
    table = {"unanswerable": task_fields.TRUE_OR_FALSE}
    values, common = task_fields.read_fields(path, fields, table)
    unanswerable = values.get("unanswerable", False)
    return QuestionAnsweringTask(metrics=METRICS[unanswerable], unanswerable=unanswerable, **common)


TASKS = {
    name: QuestionAnsweringTask(name, test_splits=())
    for name in ("squadv1", "squad", "newsqa", "naturalqs", "triviaqa", "searchqa")
} | {"squad": QuestionAnsweringTask("squad", METRICS[True], unanswerable=True)}
