import types

import numpy as np
import pytest

from data.tasks.classification.decoding import MULTI_LABEL, REGRESSION
from data.tasks.classification.task import ClassificationTask
from data.tasks.examples import TextExamples
from data.tasks.multiple_choice.task import ChoiceExamples, MultipleChoiceTask
from data.tasks.question_answering.answers import Answer, Candidate
from data.tasks.question_answering.files import Question, QuestionExamples
from data.tasks.question_answering.review import review_answers
from data.tasks.question_answering.task import QuestionAnsweringTask
from data.tasks.review import Piece
from data.tasks.tagging.conll import SentenceExamples
from data.tasks.tagging.task import TaggingTask
from jobs import report
from tests.support.pages import Page

RESULT = {"trial": 1, "seed": 7, "metrics": {"accuracy": 50.0}, "num_examples": 4, "seconds": 2.5}


def page_of(review, results=(RESULT,), **lengths):
    rows = [["dev", "4", "3", "5", "9", "1 (25.0%) texts cut"]]
    return Page(report.make_page("mine: m", results, results[-1]["trial"], {"dev": review}, rows))


def review_texts(logits, right, texts, pairs=None, **fields):
    task = ClassificationTask("mine", ("accuracy",), (0,), 1, **fields)
    score_range = fields.get("score_range")
    examples = TextExamples("", "", texts, pairs, np.array(right), score_range)
    return task.review(examples, None, np.array(logits, np.float32))


def test_a_classifiers_page():
    texts = ["one", "<script>alert(1)</script> & two", "three", "x" * 5000]
    logits = [[2, 0, 0], [0, 5, 0], [0, 0, 1], [1, 0, 0]]
    labels = ("a", "<b>", "c")
    review = review_texts(logits, [0, 0, 2, 1], texts, [*"wxyz"], labels=labels)
    assert [mistake.index for mistake in review.mistakes] == [1, 3] and review.num_mistakes == 2
    first = review.mistakes[0]
    assert (first.label, first.prediction) == ("a", "<b>")
    assert first.probability == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert review.confusion.counts.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    a, b, c = review.labels
    assert a == ("a", 50.0, 50.0, 50.0, 2, 1, 1) and b[1:] == (0.0, 0.0, 0.0, 1, 1, 1)
    assert c[1:] == (100.0, 100.0, 100.0, 1, 0, 0)

    results = [
        RESULT,
        RESULT
        | {"settings": {"keep": "best"}, "trial": 2, "seed": 8, "metrics": {"accuracy": 60.0}},
    ]
    page = page_of(review, results)
    assert page.ids() == ["scores", "labels-dev", "confusion-dev", "mistakes-dev", "lengths"]
    assert page.count("script") == 0 and page.count("b") == 4 and page.count("article") == 2
    for number in ("7", "8", "55.00", "7.07"):  # seeds, mean, deviation
        assert number in page.texts["scores"]
    assert "trial 2, seed 8" in page.texts["body"]
    assert "<script>alert(1)</script> & two" in page.texts["article"]
    assert "3,000 characters" in page.texts["mistakes-dev"]
    cells = [attributes for tag, attributes in page.tags if tag == "td" and "title" in attributes]
    assert len(cells) == 9 and cells[1]["title"] == "a → <b>: 1 (50.0%)"
    assert "0.500" in cells[1]["style"]
    assert "1 (25.0%) texts cut" in page.texts["lengths"]


def test_many_mistakes_and_many_labels():
    labels = tuple(f"label {i}" for i in range(40))
    right, predicted = np.arange(400) % 40, np.arange(400) % 40
    predicted[:200] = 39 - predicted[:200]
    logits = np.eye(40)[predicted] * np.linspace(1, 9, 400)[:, None]
    review = review_texts(logits, right, ["t"] * 400, labels=labels)
    assert review.num_mistakes == 200
    assert [mistake.index for mistake in review.mistakes] == list(range(199, 149, -1))
    page = page_of(review)
    assert page.count("article") == 50 and "The 50 most confident of 200" in page.texts["h2"]
    assert len([1 for tag, attributes in page.tags if tag == "td" and "title" in attributes]) == 900
    assert "30 of 40 labels" in page.texts["confusion-dev"]


def test_several_labels_of_a_text():
    logits = [[3, -3], [-1, 4], [-2, -2]]
    review = review_texts(
        *(logits, [[1, 0], [1, 0], [0, 1]], ["r", "s", "t"]),
        labels=("x", "y"),
        problem_type=MULTI_LABEL,
    )
    assert [(m.index, m.label, m.prediction) for m in review.mistakes] == [
        (1, "x", "y"),
        (2, "y", "(none)"),
    ]
    assert review.mistakes[0].probability == pytest.approx(1 / (1 + np.exp(-4)))
    assert review.labels[0][1:] == (100.0, 50.0, pytest.approx(200 / 3), 2, 1, 0)
    assert page_of(review).ids() == ["scores", "labels-dev", "mistakes-dev", "lengths"]


def test_scores():
    review = review_texts(
        *([[0.5], [1.5], [0.0]], [2.5, 1.0, 1.0], ["r", "s", "t"], ["u", "v", "w"]),
        problem_type=REGRESSION,
        score_range=(0.0, 5.0),
        labels=(),
    )
    assert [(m.index, m.label, m.prediction) for m in review.mistakes] == [
        (1, "1", "5"),
        (2, "1", "0"),
    ]
    page = page_of(review)
    assert page.ids() == ["scores", "scatter-dev", "mistakes-dev", "lengths"]
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert image["src"].startswith("data:image/png;base64,iVBOR")


def review_tags(right, predicted, confidence=(), **fields):
    labels = tuple(sorted({*right, *predicted}))
    words = [f"w{i}" for i in range(len(right))]
    examples = SentenceExamples("", "", words, right, np.array([0, 3, len(right)]))
    logits = np.eye(len(labels))[[labels.index(tag) for tag in predicted]]
    for position, factor in confidence:
        logits[position] *= factor
    task = TaggingTask("mine", ("f1",), labels=labels, file_scheme="BIO", **fields)
    features = types.SimpleNamespace(word_positions=np.arange(1, len(right) + 1))
    return task.review(examples, features, np.concatenate([logits[:1], logits]))


def test_entities():
    tags = ["B-P", "I-P", "O", "O", "B-L", "B-P"]
    review = review_tags(tags, ["B-P", "I-P", "O", "B-L", "B-P", "O"], [(3, 4.0)])
    (mistake,) = review.mistakes
    assert mistake.index == 1
    ((_, pieces),) = mistake.texts
    assert [piece for piece in pieces if piece.mark] == [
        Piece("w3", "wrong", "O → B-L"),
        Piece("w4", "wrong", "B-L → B-P"),
        Piece("w5", "missed", "B-P → O"),
    ]
    assert "".join(piece.text for piece in pieces) == "w3 w4 w5"
    assert mistake.probability == pytest.approx(np.exp(4) / (np.exp(4) + 3))
    assert review.confusion.labels == ["L", "P", "(no entity)"]
    assert review.confusion.counts.tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert [row[1:] for row in review.labels] == [
        (0.0, 0.0, 0.0, 1, 1, 1),
        (50.0, 50.0, 50.0, 2, 1, 1),
    ]
    page = page_of(review)
    assert "right tag → predicted tag" in page.texts["mistakes-dev"]
    assert "w3O → B-L" in page.texts["article"] and page.count("mark") == 3 + 2


def test_parts_of_speech():
    review = review_tags([*"NVNNV"], [*"NVVNV"], tags="labels")
    (mistake,) = review.mistakes
    assert mistake.texts == [("", [Piece("w0 w1"), Piece(" "), Piece("w2", "wrong", "N → V")])]
    assert [row.support for row in review.labels] == [3, 2] and review.label_unit == "words"


def answer(text, context, score=0.0, null_odds=-9.0):
    start = context.index(text)
    other = Candidate("other", 0.0, 0.0, 0, 0)
    return Answer([Candidate(text, score, 0.0, start, start + len(text)), other], null_odds)


def test_answers():
    context = "The Amazon <b>river</b> is the Amazon."
    questions = [
        Question("q0", "Which <i>river</i>?", 0, ("Amazon",)),
        Question("q1", "Which?", 0, ("the Amazon",)),
        Question("q2", "Why?", 0, ()),
        Question("q3", "Who?", 0, ("river",)),
        Question("q4", "None?", 0, ()),
    ]
    examples = QuestionExamples("", "", [context], questions)
    answers = [
        answer("Amazon <b>river", context, 2.0),
        answer("Amazon", context),
        answer("The", context, 3.0),
        answer("is", context, 0.0, null_odds=4.0),
        answer("is", context, 0.0, null_odds=4.0),
    ]
    task = QuestionAnsweringTask("mine", unanswerable=True)
    review = review_answers(task, examples, answers, na_threshold=0.0)
    assert review.outcomes == {
        "overlapping": 1,
        "exact": 1,
        "answered, but has no answer": 1,
        "not answered, but has an answer": 1,
        "rightly not answered": 1,
    }
    assert [m.index for m in review.mistakes] == [3, 2, 0]
    sigmoid = [1 / (1 + np.exp(-x)) for x in (4.0, 3.0, 2.0)]
    assert [m.probability for m in review.mistakes] == pytest.approx(sigmoid, abs=1e-6)
    assert [m.prediction for m in review.mistakes] == ["(no answer)", "The", "Amazon <b>river"]
    question, (name, pieces) = review.mistakes[2].texts
    assert question == ("question", [Piece("Which <i>river</i>?")]) and name == "context"
    assert [(piece.text, piece.mark) for piece in pieces] == [
        ("The ", ""),
        ("Amazon", "right"),
        (" <b>river", "wrong"),
        ("</b> is the ", ""),
        ("Amazon", "missed"),
        (".", ""),
    ]
    assert review.confusion.counts.tolist() == [[2, 1], [1, 1]]
    page = page_of(review)
    assert page.ids()[:4] == ["scores", "outcomes-dev", "labels-dev", "confusion-dev"]
    assert "Which <i>river</i>?" in page.texts["article"] and page.count("i") == 2 * 3


def test_choices():
    task = MultipleChoiceTask("mine", ("accuracy",), 0, (1, 2), 3, labels=("A", "B"))
    examples = ChoiceExamples("", "", ["c", "d"], [["x", "y"], ["z", "w"]], np.array([0, 1]))
    review = task.review(examples, None, np.array([[0.0, 2.0], [0.0, 1.0]]))
    (mistake,) = review.mistakes
    assert (mistake.label, mistake.prediction) == ("A", "B")
    assert mistake.texts[1:] == [("A", [Piece("x", "missed")]), ("B", [Piece("y", "wrong")])]
    assert "right, but not predicted" in page_of(review).texts["mistakes-dev"]


def test_without_mistakes():
    review = review_texts([[1, 0], [0, 1]], [0, 1], ["t", "u"], labels=("a", "b"))
    page = page_of(review)
    assert "No wrong texts" in page.texts["mistakes-dev"] and page.count("article") == 0
