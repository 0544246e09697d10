import dataclasses
import json

import pytest

from common.errors import InputError
from configure_finetuning import FinetuningConfig
from model import ConvBertForQuestionAnswering
from pipelines import QuestionAnswerer
from pipelines.question_answerer import WindowOptions
from scripts import predict
from tests.support.random_models import finetune_at_random, from_lines, run_with, save

pytestmark = pytest.mark.usefixtures("eager")
CONTEXTS = ["A b  c Ax d e f g h a b c d e f", "h g f, mask. e", "ax (b) ax"]
SAVED = {
    "max_query_length": 4,
    "doc_stride": 5,
    "n_best_size": 7,
    "max_answer_length": 3,
    "qa_na_threshold": -3.0,
}
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
        joint_prediction=is_joint,
        beam_size=6,
        **SAVED,
    )


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
    assert kept == SAVED | {"unanswerable": answerer.task.unanswerable}
    assert (answerer.model.joint_prediction, config["beam_size"]) == (not kept["unanswerable"], 6)
    lowest = QuestionAnswerer.from_pretrained(
        directory, unanswerable=True, qa_na_threshold=-1e9, n_best_size=1
    )
    monkeypatch.setattr(lowest, "model", answerer.model)  # which has been traced
    (answer,) = lowest.predict(["a"], [CONTEXTS[0]])
    assert (answer.text, answer.start, len(answer.candidates)) == ("", None, 1)
    with pytest.raises(InputError, match=r"unknown hyper-parameter `n_best`\. Did you mean"):
        QuestionAnswerer.from_pretrained(directory, n_best=1)
    with pytest.raises(InputError, match=r"`unanswerable` .* 1"):
        QuestionAnswerer.from_pretrained(directory, unanswerable=1)


def test_script_answers_a_squad_file(tuned, answerer, tmp_path, capsys, monkeypatch):
    directory, path = tuned
    run = run_with(answerer, predict, directory, monkeypatch, capsys)
    (tmp_path / "t.json").write_text(squad(False))
    output = tmp_path / "answers.json"
    run("--input", tmp_path / "t.json", "--format", "squad", "--output", output)
    assert output.read_text() == (path.parent / "mine_test_1_predictions.json").read_text()
    objects = from_lines(run("--input", tmp_path / "t.json"))
    assert {row["id"]: row["answer"] for row in objects} == written(path, "predictions")


def test_a_model_of_transformers_has_the_defaults(tmp_path):
    """Nothing is known of windows or unanswerability."""
    save(tmp_path, ConvBertForQuestionAnswering, num_hidden_layers=1)
    (answer,) = QuestionAnswerer.from_pretrained(tmp_path).predict(["a b"], [CONTEXTS[0]])
    assert answer.text and len(answer.candidates) == 20


def test_defaults_are_those_of_fine_tuning():
    defaults = dataclasses.asdict(WindowOptions())
    assert defaults == {name: getattr(FinetuningConfig(), name) for name in defaults}
