"""Question answering's files: SQuAD's JSON, MRQA's JSON lines, and a JSON object per question.

SQuAD 1.1 and 2.0 have articles of paragraphs, each with a context and questions. The MRQA 2019
shared task has a header, then one context with its questions per line. Hugging Face's `datasets`
writes an object for each question, per line or in a list. The content decides, not the ending.
"""

import codecs
import dataclasses
import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any

from absl import logging
from typing_extensions import override

from common.errors import InputError
from common.files import decode_text, sha256_of
from data.tasks.examples import Examples, parse_text, shown
from data.tasks.files import (
    GZIP_START,
    JSON_ENDINGS,
    as_object,
    field_of,
    file_ending,
    json_records,
    parse_json,
    read_text,
)

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
    if file_ending(path) not in JSON_ENDINGS:
        raise InputError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}")
    contexts, questions, ids, lost, moved = [], [], set(), [], []
    try:
        sha256 = sha256_of(path)
        for paragraph, where in _paragraphs(path):
            asked = _get(paragraph, "qas", list, where)
            context = _get_text(paragraph, "context", where) if asked else None
            if asked and contexts[-1:] != [context]:
                contexts.append(context)
            for number, fields in enumerate(asked, start=1):
                name = _get_id(fields, f"{where}, question {number}")
                place = f'{where}, question "{name}"'
                if name in ids:
                    raise InputError(f"{place}: another question in the file has the same id")
                ids.add(name)
                question = Question(name, _get_text(fields, "question", place), len(contexts) - 1)
                question, problem = _with_answers(
                    question, fields, context, split, unanswerable, place
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
        (moved, "do not have the answer at the file's offset; using the nearest one"),
    ):
        if problems:
            counts = f"{len(problems)} questions of {len(ids)}"
            logging.warning("%s: %s %s. The first: %s", path, counts, what, problems[0])
    return QuestionExamples(path, sha256, contexts, questions)


def find_answer(context: str, answer: str, start: int, end: int) -> tuple[int, int] | None:
    """The characters `[start, end)` of an answer in its context, or None.

    The place that the file names is tried first, then the nearest one. Case, the kind of spaces,
    and whether accents are separate characters may differ.
    """
    words = answer.split()
    if not words:
        return None
    if start >= 0 and context.startswith(answer, start):
        return start, start + len(answer)
    pattern = _pattern(words)
    if 0 <= start < end and pattern.fullmatch(context, start, end):
        return start, end
    spans = [match.span() for match in pattern.finditer(context)]
    spans = spans or _find_decomposed(context, words)
    return min(spans, key=lambda span: abs(span[0] - start), default=None)


def _pattern(words):
    return re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)


def _find_decomposed(context, words) -> list[tuple[int, int]]:
    """The spans of words in a context, found with both in Unicode's form NFD."""
    pieces, begin, length = [], 0, 0
    positions = {}  # in the decomposed context → in the context
    for end in range(1, len(context) + 1):
        if end == len(context) or not unicodedata.combining(context[end]):
            positions[length] = begin
            pieces.append(unicodedata.normalize("NFD", context[begin:end]))
            begin, length = end, length + len(pieces[-1])
    positions[length] = begin
    pattern = _pattern([unicodedata.normalize("NFD", word) for word in words])
    spans = [match.span() for match in pattern.finditer("".join(pieces))]
    return [
        (positions[first], positions[last])
        for first, last in spans
        if first in positions and last in positions
    ]


def _paragraphs(path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each context with its list `qas` of questions, and its place for messages."""
    for place, record in _records(path):
        where = f"{path}, {place}"
        if "header" in record:  # MRQA's first line
            continue
        if "qas" in record or "context" in record:
            is_question = "qas" not in record and "question" in record
            yield (record | {"qas": [record]} if is_question else record), where
            continue
        for number, article in enumerate(_get(record, "data", list, where), start=1):
            where = f"{path}, article {number}"
            for index, paragraph in enumerate(_get(article, "paragraphs", list, where), start=1):
                yield paragraph, f"{where}, paragraph {index}"


def _records(path) -> Iterator[tuple[str, dict[str, Any]]]:
    """See `json_records`. JSON lines are read one at a time, since MRQA's files are large."""
    with open(path, "rb") as file:
        is_gzipped = file.read(2) == GZIP_START
    with gzip.open(path) if is_gzipped else open(path, "rb") as file:
        if file_ending(path) != ".jsonl" or file.read(4).lstrip(codecs.BOM_UTF8)[:1] != b"{":
            yield from json_records(path, read_text(path)[0])
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if line.strip():
                value = parse_json(decode_text(line, where), where)
                yield f"line {number}", as_object(value, where)


def _get_id(fields, where):
    """A question's name: an integer in some files; `qid` in MRQA's."""
    name = "qid" if "qid" in as_object(fields, where) else "id"
    value = fields.get(name)
    return str(value) if type(value) is int else _get_text(fields, name, where)


def _get_answers(fields, split, where):
    """The answers for a split, without blank ones: blank text stands for no answer."""
    # In MRQA's files, `answers` are for scoring and `detected_answers` are for training.
    is_detected = split == "train" and "detected_answers" in fields
    name = "detected_answers" if is_detected else "answers"
    if name in fields and fields[name] is None:
        return []
    if isinstance(fields.get(name), dict):  # of lists, as Hugging Face's `datasets` has it
        columns = fields[name]
        keys = ("text", "answer_start")
        texts, starts = (_get(columns, key, list, where) for key in keys)
        if len(texts) != len(starts):
            found = f"got {len(texts)} texts and {len(starts)} starts"
            raise InputError(f"{where}: expected a start for each text in `{name}`, {found}")
        answers = [dict(zip(keys, pair, strict=True)) for pair in zip(texts, starts, strict=True)]
    else:
        answers = _get(fields, name, list, where)
    texts = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
    is_blank = [isinstance(text, str) and not text.strip() for text in texts]
    return [answer for answer, blank in zip(answers, is_blank, strict=True) if not blank]


def _is_impossible(fields, where):
    """The field `is_impossible`; None without it."""
    value = fields.get("is_impossible")
    flags = {"true": True, "false": False, "1": True, "0": False}
    name = json.dumps(value).strip('"').lower() if isinstance(value, bool | int | str) else None
    if value is not None and name not in flags:
        expected = "true or false in `is_impossible`"
        raise InputError(f"{where}: expected {expected}, got {shown(value)}")
    return flags.get(name)


def _with_answers(question, fields, context, split, unanswerable, where):
    """The question with what its split needs, or None if it cannot be used; and any problem."""
    if split not in ("train", "dev"):
        return question, None
    answers = _get_answers(fields, split, where)
    has_none = unanswerable and not answers
    if unanswerable and split == "train" and (flag := _is_impossible(fields, where)) is not None:
        has_none = flag
    if not answers and not has_none:
        rule = "If questions may have no answer, set the task's `unanswerable`"
        if unanswerable:
            rule = "If the question has none, `is_impossible` must be true"
        raise InputError(f"{where}: no answer. {rule}")
    if split == "dev":
        texts = (a if isinstance(a, str) else _get_text(a, "text", where) for a in answers)
        return dataclasses.replace(question, answers=tuple(texts)), None
    if has_none:
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
    value = field_of(fields, name, where)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        expected = f"{_TYPE_NAMES[kind]} in `{name}`"
        raise InputError(f"{where}: expected {expected}, got {shown(value)}")
    return value


def _get_text(fields, name, where):
    """A required field that holds text."""
    value = _get(fields, name, str, where)
    try:
        return parse_text(value, f"`{name}`")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
