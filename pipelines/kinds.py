"""How predict.py reads and answers rows of text for each kind of fine-tuned model."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from common.errors import InputError
from data.tasks.files import JSON_ENDINGS, file_ending
from pipelines import text_files
from pipelines.command_line import MANY, rounded

CONLL_ENDINGS = (".conll", ".conllu", ".tsv")


class Kind(NamedTuple):
    """How rows are read and predicted for one kind of model."""

    pipeline: str  # the class in `pipelines`
    read: Callable[[argparse.Namespace], list[Any]]  # from the script's arguments to rows
    # Takes the pipeline, rows, batch size and `errors`. Returns a JSON object per row, and the
    # number of texts that were cut.
    predict: Callable[[Any, list[Any], int, str], tuple[list[dict[str, Any]], int]]
    unit: str = "text"  # the name of a row in the progress bar
    rows_at_once: int = MANY  # rows that are sorted by length together
    formats: tuple[str, ...] = ("jsonl",)  # of the output


def format_lines(output_format: str | None, objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The predictions as lines, without newlines.

    The format "conll" has a word, a tab and its tag per line, with a blank line after each
    sentence; "squad" is one JSON object of answers by question id; the default is JSON lines.
    """
    if output_format == "squad":
        answers = {fields["id"]: fields.get("answer", "") for fields in objects}
        yield json.dumps(answers, indent=1, ensure_ascii=False)
        return
    for fields in objects:
        if output_format == "conll":
            words, tags = fields.get("words", ()), fields.get("tags", ())  # none if skipped
            yield from map("\t".join, zip(words, tags, strict=True))
            yield ""
        else:
            yield json.dumps(fields, ensure_ascii=False)


def _read_texts(args):
    return text_files.read_rows(args, "a text, or two with a tab between them", most=2)


def _objects(answers, describe):
    """The JSON object that `describe` makes of each answer, or the error of a skipped row."""
    return [
        describe(index, answer) if answer is not None else {"error": answers.errors[index]}
        for index, answer in enumerate(answers)
    ]


def _classify(classifier, rows, batch_size, errors):
    texts, *pairs = map(list, zip(*rows, strict=True))
    found = classifier.predict(texts, *(pairs or [None]), batch_size, errors)

    def describe(index, answer):
        if classifier.labels is None:
            return {"score": float(f"{answer:.6g}")}
        shares = rounded(found.probabilities[index])
        return {
            "labels" if isinstance(answer, list) else "label": answer,
            "probabilities": dict(zip(classifier.labels, shares, strict=True)),
        }

    return _objects(found.answers, describe), found.num_cut


def _read_sentences(args):
    from data.tasks.tagging.sentences import read_sentences

    text_files.check_source(args)
    ending = file_ending(args.input or "")
    is_json = ending in JSON_ENDINGS and len(args.columns or ()) < 2
    if not is_json and ending not in CONLL_ENDINGS:
        try:
            return [text.split() for (text,) in text_files.read_rows(args, "a sentence")]
        except InputError as error:
            endings = ", ".join(CONLL_ENDINGS)
            raise InputError(f"{error}. (Files with a word per line end in {endings})") from None
    columns = text_files.column_numbers(args.input, args.columns or [])
    if len(columns) > 1 or not all(isinstance(column, str) == is_json for column in columns):
        raise InputError(
            f"`--columns` of {args.input} must be the number, from 1, of the column with the "
            f"words. Received: {' '.join(args.columns)}"
        )
    file = read_sentences(args.input, *columns, words_only=True)
    return [file.words[begin:end] for begin, end in pairwise(file.row_splits)]


def _tag(tagger, rows, batch_size, errors):
    def describe(_, sentence):
        fields = dataclasses.asdict(sentence) | {"probabilities": rounded(sentence.probabilities)}
        if sentence.entities is None:
            del fields["entities"]
        return fields

    found = tagger.predict(rows, batch_size, errors)
    return _objects(found, describe), 0


def _read_questions(args):
    """Each question's id, text and context; without ids, questions are numbered from 0."""
    from data.tasks.question_answering import files

    text_files.check_source(args)
    if args.columns or not (args.input and file_ending(args.input) in JSON_ENDINGS):
        rows = text_files.read_rows(args, "a question and its context", 2, 2, one_row=True)
        return [(str(number), *row) for number, row in enumerate(rows)]
    examples = files.read_questions(args.input, "test", unanswerable=True)
    return [(q.id, q.text, examples.contexts[q.context]) for q in examples.questions]


def _answer(answerer, rows, batch_size, errors):
    ids, questions, contexts = zip(*rows, strict=True)

    def describe(_, answer):
        fields = dataclasses.asdict(answer)
        return {"answer": fields.pop("text"), **fields}

    found = answerer.predict(questions, contexts, batch_size, errors)
    objects = _objects(found, describe)
    return [{"id": key} | fields for key, fields in zip(ids, objects, strict=True)], 0


def _read_choices(args):
    if args.stem_column is None:
        expected = "a context and two or more choices"
        rows = text_files.read_rows(args, expected, 3, sys.maxsize, one_row=True)
        return [(context, choices) for context, *choices in rows]
    args.columns.insert(1, args.stem_column)
    rows = text_files.read_rows(args, "a context, a stem and two or more choices", 4, sys.maxsize)
    return [(row[0], [f"{row[1]} {choice}" for choice in row[2:]]) for row in rows]


def _choose(chooser, rows, batch_size, errors):
    found = chooser.predict(*zip(*rows, strict=True), batch_size, errors)

    def describe(index, answer):
        return {"choice": answer, "probabilities": rounded(found.probabilities[index])}

    return _objects(found.answers, describe), found.num_cut


# By the class that config.json names.
KINDS = {
    "ConvBertForSequenceClassification": Kind("TextClassifier", _read_texts, _classify),
    "ConvBertForTokenClassification": Kind(
        "Tagger", _read_sentences, _tag, "sentence", formats=("jsonl", "conll")
    ),
    "ConvBertForQuestionAnswering": Kind(
        "QuestionAnswerer", _read_questions, _answer, "question", 128, ("jsonl", "squad")
    ),
    "ConvBertForMultipleChoice": Kind(
        "MultipleChoice", _read_choices, _choose, "question", rows_at_once=256
    ),
}
