"""Question answering's files: SQuAD's JSON and MRQA's JSON lines.

A `.json` file is SQuAD's, of version 1.1 or 2.0: articles of paragraphs, each with a context and
questions on it. A `.jsonl` or `.jsonl.gz` file is one of the MRQA 2019 shared task: a header, then
a line a context.
"""

import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from common.errors import InputError
from common.files import sha256_of
from data.tasks.base import Examples
from data.tasks.classification.task import parse_text

ENDINGS = (".json", ".jsonl", ".jsonl.gz")

_KINDS = {str: "text", list: "a list", int: "a whole number", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question on a context.

    Args:
        id: what predictions are filed under.
        text: the question.
        context: index of its context.
        answers: the right answers' texts, in a dev file; empty if it has none.
        span: the characters `[start, end)` of the context that are the answer, in a training
            file; None if it has none.
    """

    id: str
    text: str
    context: int
    answers: tuple[str, ...] = ()
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class QuestionExamples(Examples):
    """One file's questions, in file order, and the contexts that they are on."""

    contexts: list[str]
    questions: list[Question]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def num_characters(self) -> int:
        """See `Examples`; a context counts once for each of its questions."""
        return sum(len(q.text) + len(self.contexts[q.context]) for q in self.questions)


def read_questions(path: str, split: str, unanswerable: bool) -> QuestionExamples:
    """Reads a file.

    Training questions whose answer is not in their context are left out, and counted in a warning.
    (The original leaves out those whose answer is not at the place that the file states.)

    Args:
        path: ends in one of `ENDINGS`.
        split: "train" needs the answers' places, "dev" the answers; any other needs neither.
        unanswerable: whether a question may have no answer, as in SQuAD 2.0.

    Raises:
        InputError: not such a file, or a damaged row; the message says where.
    """
    if not path.endswith(ENDINGS):
        raise InputError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}")
    contexts, questions, ids, lost, moved = [], [], set(), [], []
    try:
        sha256 = sha256_of(path)
        for place, paragraph in _paragraphs(path) if path.endswith(".json") else _lines(path):
            context = _text(paragraph, "context", place)
            for number, fields in enumerate(_get(paragraph, "qas", list, place), start=1):
                where = f"{place}, question {number}"
                question = _read_question(fields, where, len(contexts), path)
                where = f'{place}, question "{question.id}"'
                if question.id in ids:
                    raise InputError(f"{where}: another question of the file has the same id")
                ids.add(question.id)
                found, problem = _with_answers(
                    question, fields, context, split, unanswerable, where
                )
                if found:
                    questions.append(found)
                if problem:
                    (moved if found else lost).append(f"{where}: {problem}")
            contexts.append(context)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it: {error}") from None
    if not questions:
        raise InputError(lost[0] if lost else f"{path}: no questions in the file")
    _warn(path, "%d questions of %d left out: their answers are not in their contexts", lost, ids)
    _warn(path, "%d answers of %d are elsewhere than the file says: the nearest place that has the "
          "text is taken", moved, ids)  # fmt: skip
    return QuestionExamples(path, sha256, contexts, questions)


def find_answer(context: str, answer: str, start: int, end: int) -> tuple[int, int] | None:
    """Where an answer is in its context.

    Args:
        context: the text.
        answer: what is to be found; upper and lower case, and the kind of spaces, may differ.
        start, end: the place `[start, end)` that a file states.

    Returns:
        The stated place if the answer is there; else the nearest one where it is, or None.
    """
    words = answer.split()
    if not words:
        return None
    if start >= 0 and context.startswith(answer, start):
        return start, start + len(answer)
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    if 0 <= start < end and pattern.fullmatch(context, start, end):
        return start, end
    matches = pattern.finditer(context)
    nearest = min(matches, key=lambda match: abs(match.start() - start), default=None)
    return nearest and nearest.span()


def _paragraphs(path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paragraphs of a SQuAD file, each with its place for errors."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from None
    for number, article in enumerate(_get(content, "data", list, path), start=1):
        place = f"{path}, article {number}"
        for index, paragraph in enumerate(_get(article, "paragraphs", list, place), start=1):
            yield f"{place}, paragraph {index}", paragraph


def _lines(path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The contexts of an MRQA file, each with its place for errors."""
    opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with opened as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            try:
                fields = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise InputError(f"{place}: not JSON: {error}") from None
            if not (isinstance(fields, dict) and "header" in fields):
                yield place, fields


def _warn(path, words, problems, ids):
    """Says how many of the questions have a problem, if any has, and which is the first."""
    if problems:
        counted = words % (len(problems), len(ids))
        logging.warning("%s: %s; the first: %s", path, counted, problems[0])


def _read_question(fields, place, context, path):
    """A question without its answers."""
    name = "id" if path.endswith(".json") else "qid"
    return Question(_text(fields, name, place), _text(fields, "question", place), context)


def _with_answers(question, fields, context, split, unanswerable, place):
    """The question with what its split needs, and what is wrong with it; None if it is useless."""
    if split not in ("train", "dev"):
        return question, None
    # Of a shared task's line, `answers` are for scoring and `detected_answers` for training.
    is_detected = split == "train" and "detected_answers" in fields
    stated = _get(fields, "detected_answers" if is_detected else "answers", list, place)
    is_impossible = unanswerable and not stated
    if unanswerable and split == "train" and "is_impossible" in fields:
        is_impossible = _get(fields, "is_impossible", bool, place)
    if not stated and not is_impossible:
        raise InputError(
            f"{place}: no answer. If questions may have none, it is a task of SQuAD 2.0's kind"
        )
    if split == "dev":
        texts = (a if isinstance(a, str) else _text(a, "text", place) for a in stated)
        return dataclasses.replace(question, answers=tuple(texts)), None
    if is_impossible:
        return question, None
    places = [found for answer in stated for found in _stated_places(answer, place)]
    for text, start, end in places:
        span = find_answer(context, text, start, end)
        if span:
            problem = f'"{text:.50}" is at character {span[0]}, and not at {start}'
            found = dataclasses.replace(question, span=span)
            return found, (problem if span[0] != start else None)
    return None, f'no "{places[0][0]:.100}" in the context'


def _stated_places(answer, place):
    """The text, the first character and the end of each place that an answer has."""
    text = _text(answer, "text", place)
    if "char_spans" not in answer:
        start = _get(answer, "answer_start", int, place)
        return [(text, start, start + len(text))]
    spans = _get(answer, "char_spans", list, place)
    if not spans or not all(map(_is_span, spans)):
        raise InputError(
            f"{place}: expected pairs of the first and the last character's number in "
            f"`char_spans`, got {json.dumps(spans):.50}"
        )
    return [(text, first, last + 1) for first, last in spans]


def _is_span(value):
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)


def _get(fields, name, kind, place):
    """A field that must be there, of the type `kind`."""
    if not isinstance(fields, dict):
        raise InputError(f"{place}: expected a JSON object, got {json.dumps(fields):.50}")
    if name not in fields:
        known = ", ".join(fields) or "none"
        raise InputError(f"{place}: expected a field `{name}`, got {known:.100}")
    if type(fields[name]) is not kind:
        raise InputError(
            f"{place}: expected {_KINDS[kind]} in `{name}`, got {json.dumps(fields[name]):.50}"
        )
    return fields[name]


def _text(fields, name, place):
    """A field that must hold text."""
    value = _get(fields, name, str, place)
    try:
        return parse_text(value, f"`{name}`")
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
