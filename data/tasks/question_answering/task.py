"""Question answering: the answer to a question is a part of a given text, or there is none.

The tasks are those of the original's finetune/qa/qa_tasks.py: SQuAD 1.1 and 2.0, and four of the
MRQA 2019 shared task. `files` reads their files, `windows` makes features of them and answers of a
model's outputs.

A task of one's own needs train.json, dev.json and test.json in SQuAD's format, or .jsonl in MRQA's,
in $DATA_DIR/finetuning_data/NAME. The fields of its JSON file are

    name          of the folder, the results and the models; by default the JSON file's own name
    unanswerable  true where questions may have no answer, as in SQuAD 2.0
    files         {"train": …, "dev": …, "test": …} where they are elsewhere; relative to the JSON
                  file's folder. Any further name is another test set
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from common import files
from common.fields import check_fields
from data.tasks.base import Task
from data.tasks.question_answering.evaluation import evaluate, evaluate_with_unanswerable
from data.tasks.question_answering.files import ENDINGS, QuestionExamples, read_questions
from data.tasks.task_fields import files_beside, is_files, is_name, tests_among

KIND = "question_answering"


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringTask(Task):
    """A task whose answers are parts of the texts that its questions are on.

    Args:
        name: also that of the task's folder.
        metrics: names of its scores in summaries; `of_files` knows them.
        unanswerable: whether a question may have no answer, as in SQuAD 2.0.
        tests: what predictions are written for.
    """

    metrics: tuple[str, ...] = ("exact_match", "f1")
    unanswerable: bool = False
    tests: tuple[str, ...] = ()

    architecture: ClassVar[str] = "ConvBertForQuestionAnswering"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    predicts_dev: ClassVar[bool] = True

    @classmethod
    def of_files(
        cls, name: str, unanswerable: bool = False, files: dict[str, str] | None = None
    ) -> "QuestionAnsweringTask":
        """A task of one's own.

        Args:
            name, unanswerable: see the class.
            files: by split the paths of files that are not in the task's folder. Any name but
                "train" and "dev" is a test set; "test" is one even if it is not named.
        """
        files = files or {}
        metrics = ("exact", "f1") if unanswerable else ("exact_match", "f1")
        return cls(name, metrics, unanswerable, tests_among(files), files=files)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.tests

    def read(self, path: str, split: str) -> QuestionExamples:
        """See `Task.load`."""
        return read_questions(path, split, self.unanswerable)

    def model_fields(self) -> dict[str, Any]:
        """See `Task`."""
        return {}

    def model_options(self, options: Any) -> dict[str, Any]:
        """See `Task`."""
        names = ("joint_prediction", "beam_size", "answerable_weight")
        return {name: getattr(options, name) for name in names}

    def saved_options(self, options: Any) -> dict[str, Any]:
        """See `Task`."""
        names = ("max_query_length", "doc_stride", "n_best_size", "max_answer_length",
                 "qa_na_threshold")  # fmt: skip
        windows = {name: getattr(options, name) for name in names}
        return {KIND: windows | {"unanswerable": self.unanswerable}}

    def is_answered(self, answer: Any, na_threshold: float) -> bool:
        """Whether what `find_answers` found for a question is given as its answer."""
        return not self.unanswerable or answer.null_odds <= na_threshold

    def make_features(self, tokenizer, examples, options, training):
        """See `Task`: a row a window, and where in it the answer is."""
        from data.tasks.question_answering.windows import make_features

        return make_features(tokenizer, examples, options, training)

    def score(self, examples, features, outputs) -> dict[str, float]:
        """See `Task`, and `evaluation`; outputs are those of `find_answers`."""
        answers = _answers(examples, features, outputs)
        right = {question.id: question.answers for question in examples.questions}
        texts = {question: answer.candidates[0].text for question, answer in answers.items()}
        if not self.unanswerable:
            return evaluate(right, texts)
        odds = {question: answer.null_odds for question, answer in answers.items()}
        return evaluate_with_unanswerable(right, texts, odds, features.na_threshold)

    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """One row a question: its index, its id, its answer; and JSON files beside.

        They are `_predictions.json`, the answers by id, which is what SQuAD's evaluation and its
        leaderboard take; `_nbest.json`, the best candidates; and, where a question may have no
        answer, `_null_odds.json`, which say how likely it has none: above `qa_na_threshold` the
        answer is "".
        """
        answers = _answers(examples, features, outputs)
        odds = {question: answer.null_odds for question, answer in answers.items()}
        texts = {
            question: answer.candidates[0].text * self.is_answered(answer, features.na_threshold)
            for question, answer in answers.items()
        }
        beside = {"predictions": texts, "nbest": {q: describe(a) for q, a in answers.items()}}
        if self.unanswerable:
            beside["null_odds"] = odds
        stem = os.path.splitext(path)[0]
        for name, content in beside.items():
            text = json.dumps(content, indent=1, ensure_ascii=False)
            files.write_text(f"{stem}_{name}.json", text + "\n")
        lines = ["index\tid\tprediction"]
        for index, (question, text) in enumerate(texts.items()):
            lines.append(f"{index}\t{question}\t{' '.join(text.split())}")
        files.write_text(path, "\n".join(lines) + "\n")


def _answers(examples, features, outputs):
    """What is found for each question, by id."""
    from data.tasks.question_answering.windows import find_answers

    found = find_answers(examples, features, outputs)
    return {question.id: answer for question, answer in zip(examples.questions, found, strict=True)}


def describe(answer: Any) -> list[dict[str, Any]]:
    """The candidates of a `data.tasks.question_answering.windows.Answer`, for JSON."""
    return [
        {
            "text": candidate.text,
            "probability": round(float(share), 6),
            "start_score": round(candidate.start_score, 6),
            "end_score": round(candidate.end_score, 6),
            "start": candidate.start,
            "end": candidate.end,
        }
        for candidate, share in zip(answer.candidates, answer.probabilities, strict=True)
    ]


def task_from_fields(path: str, fields: Mapping[str, Any]) -> QuestionAnsweringTask:
    """The task that the fields of the JSON file `path` describe; see above.

    Raises:
        InputError: a field is unknown or impossible.
    """
    values = {"name": os.path.splitext(os.path.basename(path))[0], "unanswerable": False} | fields
    check_fields(path, values, _FIELDS)
    given = files_beside(path, values)
    return QuestionAnsweringTask.of_files(values["name"], values["unanswerable"], given)


_FIELDS = {
    "name": (is_name, "letters, digits, dots, - and _"),
    "unanswerable": (lambda v: isinstance(v, bool), "true or false"),
    "files": (is_files, "an object of file names by split"),
}

TASKS = {
    task.name: task
    for task in (
        QuestionAnsweringTask("squadv1"),
        QuestionAnsweringTask("squad", ("exact", "f1"), unanswerable=True, tests=("test",)),
        QuestionAnsweringTask("newsqa"),
        QuestionAnsweringTask("naturalqs"),
        QuestionAnsweringTask("triviaqa"),
        QuestionAnsweringTask("searchqa"),
    )
}
