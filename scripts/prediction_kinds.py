"""What predict.py does with each kind of fine-tuned model: reads its texts, writes what it says.

A kind has the class in `pipelines`, formats of output, and functions: from the command line to
rows; from rows to the pipeline's results; from rows and results to lines of output.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.errors import InputError
from pipelines.saved import HINT, architecture_of
from scripts import text_input

CONLL_ENDINGS = (".conll", ".conllu", ".tsv")

Row = Any
Results = Iterable[tuple[int, Row, Any]]  # the number from 0, the row, what was found for it


@dataclasses.dataclass(frozen=True)
class Kind:
    """How texts of one kind of task are predicted.

    Args:
        pipeline: name of the class in `pipelines`.
        formats: of the output, the default first.
        read: from the arguments to rows of texts.
        predict: from the pipeline, rows and the batch size to a result for each row, and how many
            texts have been cut.
        lines: from the format, the pipeline and the results to lines.
        unit: what a row is.
        rows_at_once: so many rows are sorted by length, and read in, together.
    """

    pipeline: str
    formats: tuple[str, ...]
    read: Callable[[argparse.Namespace], list[Row]]
    predict: Callable[[Any, list[Row], int], tuple[list[Any], int]]
    lines: Callable[[str, Any, Results], Iterator[str]]
    unit: str = "text"
    rows_at_once: int = text_input.MANY


def find_kind(directory: str) -> Kind:
    """The kind of the model in `directory`, as its `config.json` says.

    Raises:
        InputError: it holds no fine-tuned model.
    """
    found = architecture_of(directory)
    if found not in KINDS:
        raise InputError(
            f"{directory} holds no fine-tuned model: its config.json has the architecture "
            f"{json.dumps(found)}, not one of {', '.join(KINDS)}. {HINT}"
        )
    return KINDS[found]


def read_texts(args):
    """(text, its pair or None) of each."""
    texts, pairs = text_input.read_texts(args)
    return list(zip(texts, pairs or [None] * len(texts), strict=True))


def classify(classifier, rows, batch_size):
    """For each row its answer and its probabilities, None for scores."""
    texts, pairs = zip(*rows, strict=True)
    found = classifier.predict(texts, None if pairs[0] is None else pairs, batch_size)
    shares = [None] * len(rows) if found.probabilities is None else found.probabilities
    return list(zip(found.answers, shares, strict=True)), found.num_cut


def class_lines(output_format, classifier, results):
    """TSV: numbers from 0, answers and the labels' probabilities; or an object a text."""
    from data.tasks.classification.decoding import answer_text

    labels = classifier.labels
    if output_format == "tsv":
        yield "\t".join(["index", "prediction", *(labels or ())])
    for index, _, (answer, shares) in results:
        if output_format == "tsv":
            numbers = [] if labels is None else _shown(shares)
            yield "\t".join([str(index), answer_text(answer), *numbers])
        elif labels is None:
            yield _as_json({"index": index, "score": float(answer_text(answer))})
        else:
            kind = "labels" if isinstance(answer, list) else "label"
            probabilities = dict(zip(labels, _rounded(shares), strict=True))
            yield _as_json({"index": index, kind: answer, "probabilities": probabilities})


def read_sentences(args):
    """The words of each sentence."""
    text_input.check_source(args)
    if not (args.input and args.input.lower().endswith(CONLL_ENDINGS)):
        try:
            texts, _ = text_input.read_texts(args, may_be_pairs=False)
        except InputError as error:
            endings = ", ".join(CONLL_ENDINGS)
            raise InputError(f"{error}. (Of one word a line are files {endings})") from None
        return [text.split() for text in texts]
    from itertools import pairwise

    from data.tasks.tagging.conll import read_conll

    columns = text_input.columns_of(args.input, args.columns or [])
    if len(columns) > 1 or not all(isinstance(column, int) for column in columns):
        raise InputError(
            f"--columns of {args.input} must be the number, from 1, of the one with the words. "
            f"Received: {' '.join(args.columns)}"
        )
    file = read_conll(args.input, *columns, words_only=True)
    return [file.words[begin:end] for begin, end in pairwise(file.row_splits)]


def tag(tagger, rows, batch_size):
    """For each row its `TaggedSentence`."""
    return tagger.predict(rows, batch_size), 0


def tag_lines(output_format, _, results):
    """CoNLL: a word, a tab and its tag, and a blank line after a sentence; or an object each."""
    for index, _, found in results:
        if output_format == "conll":
            yield from map("\t".join, zip(found.words, found.tags, strict=True))
            yield ""
            continue
        fields = {"index": index, "words": found.words, "tags": found.tags}
        fields["probabilities"] = _rounded(found.probabilities)
        if found.entities is not None:
            fields["entities"] = [dataclasses.asdict(entity) for entity in found.entities]
        yield _as_json(fields)


def read_questions(args):
    """(id, question, context) of each; where there are no ids, numbers from 0."""
    from data.tasks.question_answering import files

    text_input.check_source(args)
    if args.columns or not (args.input and args.input.endswith(files.ENDINGS)):
        rows = text_input.read_rows(args, ("question", "context"))
        return [(str(number), *row) for number, row in enumerate(rows)]
    # Of a file to predict for, right answers do not matter.
    examples = files.read_questions(args.input, "test", unanswerable=True)
    return [(q.id, q.text, examples.contexts[q.context]) for q in examples.questions]


def answer(answerer, rows, batch_size):
    """For each row its `FoundAnswer`."""
    _, questions, contexts = zip(*rows, strict=True)
    return answerer.predict(questions, contexts, batch_size), 0


def answer_lines(output_format, _, results):
    """TSV: ids, answers and where they are; an object a question; or SQuAD's predictions."""
    if output_format == "squad":
        yield json.dumps({row[0]: found.text for _, row, found in results},
                         indent=1, ensure_ascii=False)  # fmt: skip
        return
    if output_format == "tsv":
        yield "id\tanswer\tstart\tend\tprobability"
    for _, (identity, *_), found in results:
        if output_format == "tsv":
            place = ["", "", ""]
            if found.start is not None:
                place = [str(found.start), str(found.end), f"{found.probability:.6f}"]
            yield "\t".join([identity, " ".join(found.text.split()), *place])
        else:
            fields = dataclasses.asdict(found)
            yield _as_json({"id": identity, "answer": fields.pop("text"), **fields})


def read_choices(args):
    """(context, choices) of each."""
    if not args.columns:
        rows = text_input.read_rows(args, ("context", "choice", "choice"), may_be_more=True)
        return [(row[0], row[1:]) for row in rows]
    from data.tasks.multiple_choice.task import MultipleChoiceTask

    text_input.check_source(args)
    if len(args.columns) < 2:
        raise InputError("--columns must be the context's, and those of the choices or of lists of "
                         f"them. Received: {args.columns[0]}")  # fmt: skip
    stem = [] if args.stem_column is None else [args.stem_column]
    context, *choices = text_input.columns_of(args.input, [*args.columns, *stem])
    stem_column = choices.pop() if stem else None
    task = MultipleChoiceTask("", ("accuracy",), context, tuple(choices), 0, stem_column)
    examples = task.read(args.input, "test")
    return list(zip(examples.contexts, examples.choices, strict=True))


def choose(chooser, rows, batch_size):
    """For each row the best choice and all choices' probabilities."""
    found = chooser.predict(*zip(*rows, strict=True), batch_size)
    return list(zip(found.answers, found.probabilities, strict=True)), found.num_cut


def choice_lines(output_format, chooser, results):
    """TSV: numbers from 0, the best choices and all choices' probabilities; or an object each."""
    for index, (_, choices), (best, shares) in results:
        if output_format == "tsv":
            if index == 0:
                names = chooser.labels or map(str, range(len(choices)))
                yield "\t".join(["index", "prediction", *names])
            yield "\t".join([str(index), str(best), *_shown(shares)])
        else:
            yield _as_json({"index": index, "choice": best, "probabilities": _rounded(shares)})


def _shown(numbers):
    return [f"{number:.6f}" for number in numbers]


def _rounded(numbers):
    return [round(float(number), 6) for number in numbers]


def _as_json(fields):
    return json.dumps(fields, ensure_ascii=False)


KINDS = {
    "ConvBertForSequenceClassification": Kind(
        "TextClassifier", ("tsv", "jsonl"), read_texts, classify, class_lines
    ),
    "ConvBertForTokenClassification": Kind(
        "Tagger", ("conll", "jsonl"), read_sentences, tag, tag_lines, "sentence"
    ),
    "ConvBertForQuestionAnswering": Kind(
        "QuestionAnswerer", ("tsv", "jsonl", "squad"), read_questions, answer, answer_lines,
        "question", rows_at_once=128,
    ),
    "ConvBertForMultipleChoice": Kind(
        "MultipleChoice", ("tsv", "jsonl"), read_choices, choose, choice_lines, "question",
        rows_at_once=256,
    ),
}  # fmt: skip
