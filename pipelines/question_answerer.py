"""Question answering: questions and contexts in; answers and their positions out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from common.fields import check_settings, override, require, setting
from data.tasks.examples import parse_text
from data.tasks.question_answering import task
from data.tasks.question_answering.answers import find_answers
from data.tasks.question_answering.files import Question, QuestionExamples
from model import ConvBertForQuestionAnswering
from pipelines import base


@dataclasses.dataclass(frozen=True)
class WindowOptions:
    """How contexts are read through windows, and which answers count.

    The defaults are those of fine-tuning, which saves its own values with each model.
    """

    max_seq_length: int = setting(128, "most tokens of a question and a window", least=5)
    max_query_length: int = setting(64, "most tokens of a question; the rest is cut", least=1)
    doc_stride: int = setting(128, "tokens between the starts of two windows", least=1)
    n_best_size: int = setting(20, "answers kept for each window and question", least=1)
    max_answer_length: int = setting(30, "most tokens of an answer", least=1)
    qa_na_threshold: float = setting(-2.75, "score above which a question has no answer")

    joint_prediction = False  # not a field: it matters only for targets in training

    __post_init__ = check_settings


@dataclasses.dataclass(frozen=True)
class FoundAnswer:
    """The answer to one question.

    Args:
        text: a part of the context; "" if the question has no answer.
        start, end: the text is the characters `[start, end)`; None without an answer.
        probability: the text's probability among the candidates; None without an answer.
        null_odds: the higher, the less likely it is that the question has an answer. Meaningful
            only if the model was trained on questions without an answer.
        candidates: the best different texts, best first, each with `text`, `probability`,
            `start_score`, `end_score`, `start` and `end`; listed even without an answer.
    """

    text: str
    start: int | None
    end: int | None
    probability: float | None
    null_odds: float
    candidates: list[dict[str, Any]]


class QuestionAnswerer(base.Pipeline):
    """A fine-tuned question-answering model. It reads contexts through windows.

    Args:
        unanswerable: whether a question may have no answer.
        **options: further fields of `WindowOptions`.
    """

    model_class = ConvBertForQuestionAnswering
    what = "a fine-tuned question answerer"
    task_kind = task.KIND
    saved_arguments = ("unanswerable", *(f.name for f in dataclasses.fields(WindowOptions)[1:]))

    def __init__(self, model, tokenizer, max_seq_length, unanswerable: bool = False, **options):
        super().__init__(model, tokenizer, max_seq_length)
        require(isinstance(unanswerable, bool), "unanswerable", "true or false", unanswerable)
        self.task = task.QuestionAnsweringTask("", unanswerable=unanswerable)
        self.options = override(WindowOptions(max_seq_length), options)

    def predict(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        batch_size: int = 32,
        errors: str = "raise",
    ) -> base.Answers:
        """Answers N questions from as many contexts: a list of `FoundAnswer`.

        Equal contexts are tokenized once. A batch has `batch_size` windows.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; the lists differ in length;
                or, unless `errors` is "skip", a text is empty or not a string, or a question leaves
                no room for its context.
        """
        checked = base.check_inputs(
            batch_size, errors, self._parse, questions=questions, contexts=contexts
        )
        if not checked.good:
            return checked.answers([])
        questions, contexts = checked.columns()
        numbers = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
        asked = [
            Question(str(index), question, numbers[context])
            for index, (question, context) in enumerate(zip(questions, contexts, strict=True))
        ]
        examples = QuestionExamples("the input", "", list(numbers), asked)
        features = self.task.make_features(self.tokenizer, examples, self.options, training=False)
        outputs = self.compute_outputs(features, batch_size)
        return checked.answers(map(self._found, find_answers(examples, features, outputs)))

    def _parse(self, index, question, context):
        question = parse_text(question, f"questions[{index}]")
        context = parse_text(context, f"contexts[{index}]")
        # Room for [CLS], two [SEP], and one token of the context.
        room, most = self.options.max_seq_length - 4, self.options.max_query_length
        if most > room:
            count = min(most, int(self.tokenizer.tokenize([question]).row_lengths()[0]))
            if count > room:
                raise InputError(
                    f"questions[{index}]: its {count} tokens leave no room for the context in "
                    f"`max_seq_length` {self.options.max_seq_length}"
                )
        return question, context

    def _found(self, answer):
        candidates = answer.describe()
        best = candidates[0]
        if not best["text"] or not self.task.is_answered(answer, self.options.qa_na_threshold):
            return FoundAnswer("", None, None, None, answer.null_odds, candidates)
        found = (best[name] for name in ("text", "start", "end", "probability"))
        return FoundAnswer(*found, answer.null_odds, candidates)
