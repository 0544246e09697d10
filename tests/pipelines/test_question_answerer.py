import json

import pytest

from common.errors import InputError
from model import ConvBertForQuestionAnswering
from pipelines import QuestionAnswerer
from scripts import predict
from tests.support.random_models import finetune_at_random, save

CONTEXTS = ["A b  c Ax d e f g h a b c d e f", "h g f, mask. e", "ax (b) ax"]
QUESTIONS = [("q1", "a b", 0), ("q2", "h", 1), ("q3", "c d e f g", 0), ("q4", "ax", 2)]


def squad(with_answers):
    paragraphs = []
    for number, context in enumerate(CONTEXTS):
        asked = [{"id": i, "question": text} for i, text, c in QUESTIONS if c == number]
        for question in asked if with_answers else ():
            question["answers"] = [{"text": context[:1], "answer_start": 0}]
        paragraphs.append({"context": context, "qas": asked})
    return json.dumps({"data": [{"paragraphs": paragraphs}]})


@pytest.fixture(scope="module", params=["joint", "simple, unanswerable"])
def tuned(request, tmp_path_factory):
    is_joint = request.param == "joint"
    return finetune_at_random(
        tmp_path_factory.mktemp("qa"),
        {"kind": "question_answering", "unanswerable": not is_joint},
        {"train.json": squad(True), "test.json": squad(False)},
        joint_prediction=is_joint, beam_size=6, max_query_length=4, doc_stride=5, n_best_size=7,
        max_answer_length=3, qa_na_threshold=-3.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def answerer(tuned):
    return QuestionAnswerer.from_pretrained(tuned[0])


def written(path, name):
    return json.loads((path.parent / f"mine_test_1_{name}.json").read_text())


def test_answers_are_those_that_fine_tuning_wrote(tuned, answerer):
    _, path = tuned
    contexts = [CONTEXTS[number] for *_, number in QUESTIONS]
    found = answerer.predict([text for _, text, _ in QUESTIONS], contexts, batch_size=3)
    expected, best = written(path, "predictions"), written(path, "nbest")
    # Of a file, contexts come in order, and their questions with them.
    assert {i: a.text for (i, *_), a in zip(QUESTIONS, found, strict=True)} == expected
    odds = written(path, "null_odds") if answerer.task.unanswerable else {}
    for (identity, _, number), answer in zip(QUESTIONS, found, strict=True):
        assert [c["text"] for c in answer.candidates] == [c["text"] for c in best[identity]]
        first = answer.candidates[0]
        for name in ("probability", "start_score", "end_score"):
            assert first[name] == pytest.approx(best[identity][0][name], abs=1e-4)
        assert 0 < len(answer.candidates) <= 7
        for candidate in answer.candidates:
            place = slice(candidate["start"], candidate["end"])
            assert CONTEXTS[number][place] == candidate["text"] != ""
        if answer.text:
            assert (answer.text, answer.start) == (first["text"], first["start"])
            assert (answer.end, answer.probability) == (first["end"], first["probability"])
        else:
            assert (answer.start, answer.end, answer.probability) == (None, None, None)
        if odds:
            assert answer.null_odds == pytest.approx(odds[identity], abs=1e-4)
            assert (answer.text == "") == (answer.null_odds > -3.0)
        else:
            assert answer.text != ""


def test_what_fine_tuning_set_is_kept_and_can_be_changed(tuned, answerer, monkeypatch):
    directory, _ = tuned
    config = json.loads((directory / "config.json").read_text())
    kept = config["task_specific_params"]["question_answering"]
    assert kept == {
        "max_query_length": 4, "doc_stride": 5, "n_best_size": 7, "max_answer_length": 3,
        "qa_na_threshold": -3.0, "unanswerable": answerer.task.unanswerable,
    }  # fmt: skip
    assert (answerer.model.joint_prediction, config["beam_size"]) == (not kept["unanswerable"], 6)
    lowest = QuestionAnswerer.from_pretrained(
        directory, unanswerable=True, qa_na_threshold=-1e9, n_best_size=1
    )
    monkeypatch.setattr(lowest, "model", answerer.model)  # which has been traced
    (answer,) = lowest.predict(["a"], [CONTEXTS[0]])
    assert (answer.text, answer.start, len(answer.candidates)) == ("", None, 1)
    with pytest.raises(InputError, match=r"unknown hyper-parameter `n_best`\. Did you mean"):
        QuestionAnswerer.from_pretrained(directory, n_best=1)
    with pytest.raises(InputError, match=r"`unanswerable` must be true or false\. Received: 1"):
        QuestionAnswerer.from_pretrained(directory, unanswerable=1)


def test_script_answers_a_squad_file(tuned, answerer, tmp_path, capsys, monkeypatch):
    directory, path = tuned
    monkeypatch.setattr(QuestionAnswerer, "from_pretrained", lambda directory: answerer)
    (tmp_path / "t.json").write_text(squad(False))
    arguments = [str(directory), "--input", str(tmp_path / "t.json")]
    output = tmp_path / "answers.json"
    predict.main([*arguments, "--format", "squad", "--output", str(output)])
    assert output.read_text() == (path.parent / "mine_test_1_predictions.json").read_text()
    predict.main(arguments)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["id", "answer", "start", "end", "probability"]
    expected = written(path, "predictions")
    assert {line[0]: line[1] for line in lines[1:]} == {
        identity: " ".join(text.split()) for identity, text in expected.items()
    }
    contexts = {identity: CONTEXTS[number] for identity, _, number in QUESTIONS}
    for identity, text, start, end, _ in lines[1:]:
        if text:
            assert contexts[identity][int(start) : int(end)] == expected[identity]
    assert [line[2:] for line in lines if not line[1]] == [["", "", ""]] * (
        list(expected.values()).count("")
    )


def test_script_reads_arguments_lines_and_columns(tmp_path, capsys, monkeypatch):
    """With a model as transformers saves it: nothing is known of windows or unanswerability."""
    save(tmp_path, ConvBertForQuestionAnswering, num_hidden_layers=1)
    answerer = QuestionAnswerer.from_pretrained(tmp_path)
    monkeypatch.setattr(QuestionAnswerer, "from_pretrained", lambda directory: answerer)
    (expected,) = answerer.predict(["a b"], [CONTEXTS[0]])
    assert expected.text and len(expected.candidates) == 20
    predict.main([str(tmp_path), "a b", CONTEXTS[0], "--format", "jsonl"])
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["answer"], found["start"]) == ("0", expected.text, expected.start)
    assert [c["text"] for c in found["candidates"]] == [c["text"] for c in expected.candidates]
    (tmp_path / "t.csv").write_text(f'n,q,c\n1,a b,"{CONTEXTS[0]}"\n2,h,"{CONTEXTS[1]}"\n')
    (tmp_path / "t.txt").write_text(f"a b\t{CONTEXTS[0]}\nh\t{CONTEXTS[1]}\n")
    predict.main([str(tmp_path), "--input", str(tmp_path / "t.csv"), "--columns", "q", "c"])
    lines = capsys.readouterr().out
    assert lines.splitlines()[1].split("\t")[:2] == ["0", " ".join(expected.text.split())]
    predict.main([str(tmp_path), "--input", str(tmp_path / "t.txt")])
    assert capsys.readouterr().out == lines


ERRORS = {
    "no context": (["a"], "arguments: expected question, context; got 1"),
    "no tab": (["--input", "{}/t.txt"], r"t\.txt, line 2: expected 2 texts as at first with tabs"),
    "one column": (["--input", "{}/t.csv", "--columns", "q"], "must be those of question, context"),
    "format": (["a", "b", "--format", "conll"], "--format must be tsv or jsonl or squad here"),
    "file": (["--input", "{}/t.json"], r"t\.json: not JSON"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input(tmp_path, case):
    save(tmp_path, ConvBertForQuestionAnswering)
    arguments, message = ERRORS[case]
    (tmp_path / "t.txt").write_text("a\tb\na\n")
    (tmp_path / "t.json").write_text("{")
    (tmp_path / "t.csv").write_text("q,c\na,b\n")
    with pytest.raises(InputError, match=message):
        predict.main(
            [str(tmp_path), *(argument.replace("{}", str(tmp_path)) for argument in arguments)]
        )
