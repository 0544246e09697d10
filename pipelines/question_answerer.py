"""A fine-tuned question answerer: questions and contexts in; answers, and where they are, out."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.question_answering import task
from data.tasks.question_answering.answers import find_answers
from data.tasks.question_answering.files import Question, QuestionExamples
from model import ConvBertForQuestionAnswering
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


@dataclasses.dataclass(frozen=True)
class FoundAnswer:
    """What was found for a question.

    Args:
        text: a part of the context; "" if the question has no answer.
        start, end: the text is the characters `[start, end)`; None if there is no answer.
        probability: of the text, among the candidates; None if there is no answer.
        null_odds: higher the less likely there is an answer. It says something only if the model
            was trained on questions without one.
        candidates: the best different texts, the best first, each with `text`, `probability`,
            `start_score`, `end_score`, `start` and `end`; also where none is given as the answer.
    """

    text: str
    start: int | None
    end: int | None
    probability: float | None
    null_odds: float
    candidates: list[dict[str, Any]]


class QuestionAnswerer:
    """A fine-tuned model with its tokenizer.

    Contexts are read through windows, as in fine-tuning.

    Args:
        model: a `ConvBertForQuestionAnswering`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: the most tokens of a window and its question.
        unanswerable: whether a question may have no answer.
        **options: `max_query_length`, `doc_stride`, `n_best_size`, `max_answer_length` and
            `qa_na_threshold` of `FinetuningConfig`, where they are not the defaults.
    """

    def __init__(
        self,
        model: ConvBertForQuestionAnswering,
        tokenizer: ConvBertTokenizer,
        max_seq_length: int,
        unanswerable: bool = False,
        **options: Any,
    ):
        self.model, self.tokenizer = model, tokenizer
        if not isinstance(unanswerable, bool):
            raise InputError(f"`unanswerable` must be true or false. Received: {unanswerable!r}")
        self.task = task.QuestionAnsweringTask("", unanswerable=unanswerable)
        self.options = reading_options(max_seq_length, options)
        model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> "QuestionAnswerer":
        """The model that `finetune.py`, or transformers, saved.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            revision: see `hub.resolve`, as for the following two.
            cache_dir: where downloads are kept.
            local_files_only: download nothing.
            **options: arguments of the class that are to be other than in fine-tuning.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        loaded = load(
            ConvBertForQuestionAnswering,
            name_or_directory,
            "a fine-tuned question answerer",
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        saved = saved_options(loaded[0].config, task.KIND)
        return cls(*loaded, **(saved | options))

    def predict(
        self, questions: Sequence[str], contexts: Sequence[str], batch_size: int = 32
    ) -> list[FoundAnswer]:
        """Answers questions, each out of its context.

        Args:
            questions: N texts.
            contexts: N texts; one that comes again is tokenized once.
            batch_size: windows that are computed together.

        Raises:
            InputError: a text is empty or no text, there are unequal numbers of them, or a
                question leaves no room for its context.
        """
        questions = check_texts(questions, "questions")
        contexts = check_texts(contexts, "contexts")
        check_equal_numbers(questions=questions, contexts=contexts)
        check_positive("batch_size", batch_size)
        if not questions:
            return []
        numbers = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
        asked = [
            Question(str(index), question, numbers[context])
            for index, (question, context) in enumerate(zip(questions, contexts, strict=True))
        ]
        examples = QuestionExamples("the input", "", list(numbers), asked)
        features = self.task.make_features(self.tokenizer, examples, self.options, training=False)
        outputs = compute_outputs(self.model, features, batch_size)
        return [self._found(answer) for answer in find_answers(examples, features, outputs)]

    def _found(self, answer):
        candidates = answer.describe()
        best = candidates[0]
        if not best["text"] or not self.task.is_answered(answer, self.options.qa_na_threshold):
            return FoundAnswer("", None, None, None, answer.null_odds, candidates)
        place = (best[name] for name in ("start", "end", "probability"))
        return FoundAnswer(best["text"], *place, answer.null_odds, candidates)
