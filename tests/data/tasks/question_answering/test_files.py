import gzip
import hashlib
import json
import re
import unicodedata

import pytest

from common.errors import InputError
from data.tasks.question_answering.files import Question, find_answer, read_questions
from tests.support.files import as_lines, write

CONTEXT = "The Broncos won. Denver  Broncos beat Carolina, 24–10."


def squad(*questions, context=CONTEXT):
    return {"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]}


def question(name="q1", start=17, text="Denver", **more):
    answers = [{"text": text, "answer_start": start}]
    return {"id": name, "question": "Who won?", "answers": answers, **more}


def mrqa_lines():
    asked = {
        "qid": "m1",
        "id": "",
        "question": "Who?",
        "answers": ["Carolina", "the Panthers"],
        "detected_answers": [{"text": "Carolina", "char_spans": [[38, 45]]}],
    }
    return [{"header": {"dataset": "X"}}, {"context": CONTEXT, "qas": [asked]}]


def test_squad_training_and_dev_files(tmp_path):
    second = question("q2", 38, "Carolina")
    second["answers"].append({"text": "24–10", "answer_start": 48})
    path = write(tmp_path / "train.json", squad(question(), second))
    train = read_questions(path, "train", unanswerable=False)
    assert train.contexts == [CONTEXT]
    assert train.questions == [
        Question("q1", "Who won?", 0, (), (17, 23)),
        Question("q2", "Who won?", 0, (), (38, 46)),
    ]
    assert (len(train), train.num_characters) == (2, 2 * (len(CONTEXT) + 8))
    with open(path, "rb") as file:
        assert train.sha256 == hashlib.sha256(file.read()).hexdigest()
    dev = read_questions(path, "dev", unanswerable=False)
    assert [q.answers for q in dev.questions] == [("Denver",), ("Carolina", "24–10")]
    test = read_questions(path, "test", unanswerable=False)
    assert test.questions == [Question(name, "Who won?", 0) for name in ("q1", "q2")]


def test_questions_without_an_answer(tmp_path):
    none = question("q2", is_impossible=True, plausible_answers=[]) | {"answers": []}
    path = write(tmp_path / "train.json", squad(question(is_impossible=False), none))
    assert [q.span for q in read_questions(path, "train", True).questions] == [(17, 23), None]
    dev = read_questions(path, "dev", True).questions
    assert [q.answers for q in dev] == [("Denver",), ()]
    for split in ("train", "dev"):
        with pytest.raises(InputError, match=r'paragraph 1, question "q2": no answer. If'):
            read_questions(path, split, False)
    for value, message in ((False, "must be true"), ("no", "true or false in `is_impossible`")):
        path = write(tmp_path / "train.json", squad(none | {"is_impossible": value}))
        with pytest.raises(InputError, match=f'question "q2": .*{message}'):
            read_questions(path, "train", True)


BLANK = [{"text": " ", "answer_start": -1}]


@pytest.mark.parametrize("more", [{}, *({"is_impossible": v} for v in (True, 1, "true", None))])
@pytest.mark.parametrize("answers", [[], BLANK, None, {"text": [], "answer_start": []}])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_ways_to_say_that_there_is_no_answer(tmp_path, split, answers, more):
    none = question("q2", **more) | {"answers": answers}
    path = write(tmp_path / "x.json", squad(question(is_impossible=0), none))
    _, found = read_questions(path, split, True).questions
    assert found == Question("q2", "Who won?", 0)
    with pytest.raises(InputError, match=r'question "q2": no answer\. If'):
        read_questions(path, split, False)
    both = question() | {"answers": BLANK + question()["answers"]}
    (found,) = read_questions(write(tmp_path / "y.json", squad(both)), split, False).questions
    assert (found.answers, found.span) in ((("Denver",), None), ((), (17, 23)))


def test_integers_and_empty_paragraphs(tmp_path):
    content = squad(question(51870, 17.0))
    content["data"][0]["paragraphs"] += [{"context": " ", "qas": []}, {"qas": []}]
    content["data"].append({"paragraphs": []})
    for split in ("train", "dev", "test"):
        examples = read_questions(write(tmp_path / "a.json", content), split, False)
        assert ([q.id for q in examples.questions], examples.contexts) == (["51870"], [CONTEXT])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "list.json", "a.json.gz"])
def test_an_object_for_each_question(tmp_path, name):
    """As Hugging Face's datasets are written by their `to_json`."""
    answers = {"text": ["Denver"], "answer_start": [17]}
    records = [question(name) | {"context": CONTEXT, "answers": answers} for name in ("a", "b")]
    text = json.dumps(records) if name == "list.json" else as_lines(records)
    path = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    examples = read_questions(path, "train", False)
    assert examples.contexts == [CONTEXT]
    assert examples.questions == [Question(n, "Who won?", 0, (), (17, 23)) for n in ("a", "b")]
    assert read_questions(path, "dev", False).questions[1].answers == ("Denver",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_byte_order_marks(tmp_path, name, encoding):
    content = json.dumps(squad(question())) if name == "a.json" else as_lines(mrqa_lines())
    path = write(tmp_path / name, content.encode(encoding))
    assert len(read_questions(path, "train", False)) == 1


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".JSONL", ".json"])
def test_mrqa_lines(tmp_path, ending):
    text = "\n \n".join(as_lines([row]) for row in mrqa_lines()).encode() + b"\r\n"
    path = write(tmp_path / f"train{ending}", gzip.compress(text) if "gz" in ending else text)
    (trained,) = read_questions(path, "train", False).questions
    assert trained == Question("m1", "Who?", 0, (), (38, 46))
    (scored,) = read_questions(path, "dev", False).questions
    assert scored == Question("m1", "Who?", 0, ("Carolina", "the Panthers"))


@pytest.mark.parametrize(
    ("answer", "start", "found"),
    [
        ("Denver Broncos", 17, "Denver  Broncos"),
        ("denver", 17, "Denver"),
        ("Broncos", 4, "Broncos"),
        ("Broncos", 20, "Broncos"),
        ("24–10", 46, "24–10"),
        ("24–10", -3, "24–10"),
        (" Carolina ", 38, "Carolina"),
        ("Broncos beat", 900, "Broncos beat"),
    ],
)
def test_answers_are_found_where_they_are(answer, start, found):
    span = find_answer(CONTEXT, answer, start, start + len(answer))
    assert CONTEXT[slice(*span)] == found
    near = CONTEXT.find("Broncos", 10)
    assert find_answer(CONTEXT, "Broncos", 20, 27) == (near, near + 7)


COMPOSED = ["café", "한국어", "nǚ", "ḍ̇x", "قَدْ"]


@pytest.mark.parametrize("answer", COMPOSED)
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_answer_in_another_unicode_form(answer, forms):
    answer, context = map(unicodedata.normalize, forms, (answer, f"é {answer}, é {answer} é"))
    expected = unicodedata.normalize(forms[1], answer)
    first, second = (match.start() for match in re.finditer(expected, context))
    end = len(expected)
    assert find_answer(context, answer, 0, len(answer)) == (first, first + end)
    assert find_answer(context, answer, second, second + len(answer)) == (second, second + end)
    assert find_answer(context, "e, ", 0, 3) is None  # a letter without its accent


def test_an_answer_that_is_not_there():
    assert find_answer(CONTEXT, "Seattle", 0, 7) is None
    assert find_answer(CONTEXT, "won?", 12, 16) is None
    assert find_answer(CONTEXT, " ", 3, 4) is None
    # Lower-casing makes two characters of the first: places after it must not move.
    assert find_answer("İİİ and Rome", "rome", 8, 12) == (8, 12)


def test_questions_whose_answer_is_not_there_are_left_out_and_counted(tmp_path, caplog):
    path = write(
        tmp_path / "train.json",
        squad(question(), question("q2", 3, "Seattle"), question("q3", 0, "?")),
    )
    assert [q.id for q in read_questions(path, "train", False).questions] == ["q1"]
    (message,) = caplog.messages
    assert "2 questions of 3 left out" in message
    assert f'{path}, article 1, paragraph 1, question "q2": no "Seattle" in the con' in message
    assert len(read_questions(path, "dev", False)) == 3
    path = write(tmp_path / "train.json", squad(question("q2", 3, "Seattle")))
    with pytest.raises(InputError, match='"q2": no "Seattle" in the context'):
        read_questions(path, "train", False)


def test_answers_at_another_place_are_counted(tmp_path, caplog):
    asked = [question(), question("q2", 3, "Carolina"), question("q3", 0, "broncos")]
    path = write(tmp_path / "train.json", squad(*asked))
    found = read_questions(path, "train", False).questions
    assert [q.span for q in found] == [(17, 23), (38, 46), (4, 11)]
    (message,) = caplog.messages
    assert "2 questions of 3" in message
    assert 'question "q2": "Carolina" is at character 38, not at 3' in message


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"x.txt: expected a file name ending in .json, .jsonl"):
        read_questions(write(tmp_path / "x.txt", squad(question())), "dev", False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "train.json: not JSON: "),
        ('{"data": [\n' + "[" * 99_999, "train.json: not JSON: "),
        ("[" * 99_999, "train.json: not JSON: "),
        ([], "train.json: no questions in the file"),
        ([[]], r"train.json, record 1: expected a JSON object, got \[\]"),
        ({"version": "2"}, "train.json, .*: expected a field `data`, got version"),
        ({"data": {}}, r"train.json, .*: expected a list in `data`, got \{\}"),
        ({"data": []}, "train.json: no questions in the file"),
        ({"data": [{"title": 1}]}, "article 1: expected a field `paragraphs`, got title"),
        (squad(question(), context=" "), "paragraph 1: expected text in `context`, got none"),
        (squad(question(), context="\ud800"), "`context`, got a lone surrogate"),
        (squad(question(), context=7), "expected text in `context`, got 7"),
        (squad("x"), 'paragraph 1, question 1: expected a JSON object, got "x"'),
        (squad({"question": "?"}), "question 1: expected a field `id`, got question"),
        (squad(question(), question(5.5)), "question 2: expected text in `id`, got 5.5"),
        (squad(question(), question(True)), "question 2: expected text in `id`, got true"),
        (squad(question(5), question("5")), 'question "5": another question .* same id'),
        (squad(question(), question()), 'question "q1": another question .* has the same id'),
        (squad({"id": "a", "question": None}), 'question "a": .* in `question`, got null'),
        (squad({"id": "a", "question": "?"}), 'question "a": expected a field `answers`'),
        (squad(question(start="17")), 'question "q1": expected an integer in `answer_start`'),
        (squad(question(start=True)), "expected an integer in `answer_start`, got true"),
        (squad(question(text=" ")), "no answer. If questions may have"),
        (squad(question(text=None)), "expected text in `text`, got null"),
        (squad(question() | {"question": " "}), 'question "q1": expected text in `question`'),
        (squad(question() | {"answers": ["x"]}), 'expected a JSON object, got "x"'),
    ],
)
def test_damaged_squad_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_questions(write(tmp_path / "train.json", content), "train", False)


def test_damaged_mrqa_files(tmp_path):
    rows = mrqa_lines()
    path = write(tmp_path / "train.jsonl", as_lines(rows) + "[" * 99_999 + "\n")
    with pytest.raises(InputError, match=r"train\.jsonl, line 3: not JSON: "):
        read_questions(path, "train", False)
    path = write(tmp_path / "train.jsonl", as_lines(rows) + "{\n")
    with pytest.raises(InputError, match=r"train\.jsonl, line 3: not JSON: "):
        read_questions(path, "train", False)
    rows[1]["qas"][0]["detected_answers"][0]["char_spans"] = [[3]]
    path = write(tmp_path / "train.jsonl", as_lines(rows))
    with pytest.raises(InputError, match=r'line 2, question "m1": expected pairs .* got \[\[3\]\]'):
        read_questions(path, "train", False)
    del rows[1]["qas"][0]["qid"]
    path = write(tmp_path / "train.jsonl", as_lines(rows))
    with pytest.raises(InputError, match="line 2, question 1: expected text in `id`, got none"):
        read_questions(path, "train", False)
    path = write(tmp_path / "dev.jsonl.gz", gzip.compress(as_lines(rows).encode())[:-20])
    with pytest.raises(InputError, match=r"dev.jsonl.gz: cannot read it: "):
        read_questions(path, "dev", False)
