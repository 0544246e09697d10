"""Question answering's files: SQuAD's JSON and MRQA's JSON lines.

A `.json` file is in the format of SQuAD 1.1 or 2.0: articles of paragraphs, each with a context and
questions. A `.jsonl` or `.jsonl.gz` file is in the format of the MRQA 2019 shared task: a header,
then one context per line.
"""

import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from absl import logging
from typing_extensions import override

from common.errors import InputError
from common.files import sha256_of
from data.tasks.examples import Examples, parse_text, shown

ENDINGS = (".json", ".jsonl", ".jsonl.gz")

_TYPE_NAMES = {str: "text", list: "a list", int: "an integer", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a context.

    Args:
        id: names it in prediction files.
        text: the question.
        context: index of its context.
        answers: the right answers in a dev file; empty if it has no answer.
        span: the characters `[start, end)` of the answer in a training file; None if it has none.
    """

    id: str
    text: str
    context: int
    answers: tuple[str, ...] = ()
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class QuestionExamples(Examples):
    """One file's questions, in file order, and their contexts."""

    contexts: list[str]
    questions: list[Question]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    @override
    def num_characters(self) -> int:
        return sum(len(q.text) + len(self.contexts[q.context]) for q in self.questions)


def read_questions(path: str, split: str, unanswerable: bool) -> QuestionExamples:
    """Reads a file.

    Training questions are left out, with a warning, if their context does not contain the answer.
    (The original leaves out those whose answer is not at the offset in the file.)

    Args:
        path: ends in one of `ENDINGS`.
        split: "train" needs the answers' offsets, "dev" the answers; other splits need neither.
        unanswerable: whether a question may have no answer.
    """
    if not path.endswith(ENDINGS):
        raise InputError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}")
    is_squad = path.endswith(".json")
    id_field = "id" if is_squad else "qid"
    contexts, questions, ids, lost, moved = [], [], set(), [], []
    try:
        sha256 = sha256_of(path)
        for paragraph, where in _paragraphs(path) if is_squad else _lines(path):
            contexts.append(_get_text(paragraph, "context", where))
            for number, fields in enumerate(_get(paragraph, "qas", list, where), start=1):
                name = _get_text(fields, id_field, f"{where}, question {number}")
                place = f'{where}, question "{name}"'
                if name in ids:
                    raise InputError(f"{place}: another question of the file has the same id")
                ids.add(name)
                text = _get_text(fields, "question", place)
                question = Question(name, text, len(contexts) - 1)
                question, problem = _with_answers(
                    question, fields, contexts[-1], split, unanswerable, place
                )
                if question:
                    questions.append(question)
                if problem:
                    (moved if question else lost).append(f"{place}: {problem}")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it: {error}") from None
    if not questions:
        raise InputError(lost[0] if lost else f"{path}: no questions in the file")
    for problems, what in (
        (lost, "left out: their contexts do not contain the answers"),
        (moved, "have an answer at another offset than the file says; using the nearest one"),
    ):
        if problems:
            counts = f"{len(problems)} questions of {len(ids)}"
            logging.warning("%s: %s %s. The first: %s", path, counts, what, problems[0])
    return QuestionExamples(path, sha256, contexts, questions)


def find_answer(context: str, answer: str, start: int, end: int) -> tuple[int, int] | None:
    """The characters `[start, end)` of an answer in its context, or None.

    Those that the file names are tried first, then the nearest ones. Case and the kind of spaces
    may differ.
    """
    words = answer.split()
    if not words:
        return None
    if start >= 0 and context.startswith(answer, start):
        return start, start + len(answer)
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    if 0 <= start < end and pattern.fullmatch(context, start, end):
        return start, end
    spans = [match.span() for match in pattern.finditer(context)]
    return min(spans, key=lambda span: abs(span[0] - start), default=None)


def _paragraphs(path) -> Iterator[tuple[Any, str]]:
    """The paragraphs of a SQuAD file, each with its location for messages."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from None
    for number, article in enumerate(_get(content, "data", list, path), start=1):
        where = f"{path}, article {number}"
        for index, paragraph in enumerate(_get(article, "paragraphs", list, where), start=1):
            yield paragraph, f"{where}, paragraph {index}"


def _lines(path) -> Iterator[tuple[Any, str]]:
    """The contexts of an MRQA file, each with its location for messages."""
    opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with opened as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                fields = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise InputError(f"{where}: not JSON: {error}") from None
            if not (isinstance(fields, dict) and "header" in fields):
                yield fields, where


def _with_answers(question, fields, context, split, unanswerable, where):
    """The question with what its split needs, or None if it cannot be used; and any problem."""
    if split not in ("train", "dev"):
        return question, None
    # In MRQA's files, `answers` are for scoring and `detected_answers` are for training.
    is_detected = split == "train" and "detected_answers" in fields
    answers = _get(fields, "detected_answers" if is_detected else "answers", list, where)
    is_impossible = unanswerable and not answers
    if unanswerable and split == "train" and "is_impossible" in fields:
        is_impossible = _get(fields, "is_impossible", bool, where)
    if not answers and not is_impossible:
        raise InputError(
            f"{where}: no answer. If questions may have no answer, set the task's `unanswerable`"
        )
    if split == "dev":
        texts = (a if isinstance(a, str) else _get_text(a, "text", where) for a in answers)
        return dataclasses.replace(question, answers=tuple(texts)), None
    if is_impossible:
        return question, None
    spans = [span for answer in answers for span in _spans(answer, where)]
    for text, start, end in spans:
        found = find_answer(context, text, start, end)
        if found:
            problem = f'"{text:.50}" is at character {found[0]}, not at {start}'
            question = dataclasses.replace(question, span=found)
            return question, problem if found[0] != start else None
    return None, f'no "{spans[0][0]:.100}" in the context'


def _spans(answer, where):
    """The text, the first character and the end of each span of an answer."""
    text = _get_text(answer, "text", where)
    if "char_spans" not in answer:
        start = _get(answer, "answer_start", int, where)
        return [(text, start, start + len(text))]
    spans = _get(answer, "char_spans", list, where)
    are_pairs = (isinstance(span, list) and [*map(type, span)] == [int, int] for span in spans)
    if not spans or not all(are_pairs):
        expected = "pairs of the first and the last character's number in `char_spans`"
        raise InputError(f"{where}: expected {expected}, got {shown(spans)}")
    return [(text, first, last + 1) for first, last in spans]


def _get(fields, name, kind, where):
    """A required field, of the type `kind`."""
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object, got {shown(fields)}")
    if name not in fields:
        known = ", ".join(fields)[:100] or "none"
        raise InputError(f"{where}: expected a field `{name}`, got {known}")
    if type(fields[name]) is not kind:
        expected = f"{_TYPE_NAMES[kind]} in `{name}`"
        raise InputError(f"{where}: expected {expected}, got {shown(fields[name])}")
    return fields[name]


def _get_text(fields, name, where):
    """A required field that holds text."""
    value = _get(fields, name, str, where)
    try:
        return parse_text(value, f"`{name}`")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
