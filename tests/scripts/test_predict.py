import dataclasses
import io
import json
import logging
import sys
import types

import numpy as np
import pytest

from common.errors import InputError
from pipelines import TextClassifier
from pipelines.classifier import Predictions
from scripts import predict, prediction_kinds, text_input


class Classifier:
    """Answers with what it was asked, so that order and pairs show."""

    max_seq_length = 16

    def __init__(self, labels, answer):
        self.labels, self.answer = labels, answer

    def predict(self, texts, pairs, batch_size):
        asked = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        self.asked = asked
        count = len(asked)
        probabilities = np.tile(np.float32([0.25, 0.75]), (count, 1)) if self.labels else None
        return Predictions([self.answer] * count, probabilities, count - 1)


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the script with a stand-in model: texts asked, lines printed."""
    kind = prediction_kinds.KINDS["ConvBertForSequenceClassification"]
    monkeypatch.setattr(prediction_kinds, "find_kind", lambda directory: kind)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setattr("data.tensorflow_setup.prepare_tensorflow", lambda *_: None)

    def run(*arguments, labels=("no", "yes"), answer="yes", stdin=b""):
        classifier = Classifier(labels, answer)
        monkeypatch.setattr(TextClassifier, "from_pretrained", lambda directory: classifier)
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
        predict.main(["model", *arguments])
        return classifier.asked, capsys.readouterr().out.splitlines()

    return run


def test_arguments_in_labels_out(run, caplog):
    asked, lines = run("one", "two, too")
    assert asked == ["one", "two, too"]
    assert lines == [
        "index\tprediction\tno\tyes",
        "0\tyes\t0.250000\t0.750000",
        "1\tyes\t0.250000\t0.750000",
    ]
    with caplog.at_level(logging.WARNING, logger="absl"):
        run("one", "two")
    assert "1 texts were longer than 16 tokens and have been cut" in caplog.text


def test_many_texts_show_a_bar_and_keep_their_order(run, capsys, caplog):
    class Numbers(Classifier):
        def predict(self, texts, pairs, batch_size):
            answers = [f"{text}{pair}" for text, pair in zip(texts, pairs, strict=True)]
            return Predictions(answers, np.float32([[float(text), 1] for text in texts]), 1)

    kind = prediction_kinds.KINDS["ConvBertForSequenceClassification"]
    kind = dataclasses.replace(kind, rows_at_once=2)
    rows = list(zip("12345", "abcde", strict=True))
    with text_input.progress_bar(len(rows), kind.rows_at_once, kind.unit) as bar:
        found = list(predict.predict(kind, Numbers(("no", "yes"), None), rows, 32, bar))
    assert [index for index, _, _ in found] == list(range(5))
    assert [answer for *_, (answer, _) in found] == ["1a", "2b", "3c", "4d", "5e"]
    assert [shares[0] for *_, (_, shares) in found] == [1, 2, 3, 4, 5]
    assert "3 texts were longer than 16 tokens and have been cut" in caplog.text
    assert "5/5" in capsys.readouterr().err
    assert run("a", "b")[1][0].startswith("index")
    assert capsys.readouterr().err == ""


def test_lines_of_standard_input_may_be_pairs(run):
    assert run(stdin="\ufeffone\u2028\r\ntwo\n\n".encode())[0] == ["one\u2028", "two"]
    assert run(stdin=b"a\tb\nc\td\n")[0] == [("a", "b"), ("c", "d")]
    assert run("a\tb")[0] == [("a", "b")]


def test_columns_of_a_file(run, tmp_path):
    (tmp_path / "a.csv").write_text('id,text,other\n1,"a, ""b""\nc",x\n2,d,y\n')
    assert run("--input", str(tmp_path / "a.csv"), "--columns", "text")[0] == ['a, "b"\nc', "d"]
    assert run("--columns", "other", "text", "--input", str(tmp_path / "a.csv"))[0] == [
        ("x", 'a, "b"\nc'), ("y", "d"),
    ]  # fmt: skip
    (tmp_path / "a.tsv").write_text("1\ta\n2\tb\n")
    assert run("--input", str(tmp_path / "a.tsv"), "--columns", "2")[0] == ["a", "b"]
    (tmp_path / "a.jsonl").write_text('{"1": "a", "x": 0}\n')
    assert run("--input", str(tmp_path / "a.jsonl"), "--columns", "1")[0] == ["a"]
    (tmp_path / "a.txt").write_text("a\nb\n")
    assert run("--input", str(tmp_path / "a.txt"))[0] == ["a", "b"]


def test_output_as_json_lines(run, tmp_path):
    path = tmp_path / "out.jsonl"
    assert run("a", "--output", str(path))[1] == []
    expected = {"index": 0, "label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [expected]
    several = json.loads(run("a", "--format", "jsonl", answer=["no", "yes"])[1][0])
    assert several["labels"] == ["no", "yes"] and "label" not in several
    score = run("a", "--format", "jsonl", labels=None, answer=2.2666678428649902)[1][0]
    assert json.loads(score) == {"index": 0, "score": 2.26667}


def test_output_of_several_labels_and_of_scores(run):
    assert run("a", answer=["no", "yes"])[1][1] == "0\tno,yes\t0.250000\t0.750000"
    assert run("a", answer=[])[1][1] == "0\t\t0.250000\t0.750000"
    assert run("a", labels=None, answer=2.5)[1] == ["index\tprediction", "0\t2.5"]


ERRORS = {
    "no texts": ([], b"\n", "no texts in the input"),
    "empty line": ([], b"a\n \nb\n", "input, line 2: expected text, got none"),
    "empty argument": (["a", ""], b"", "argument 2: expected text, got none"),
    "pairs and single texts": (
        [],
        b"a\tb\nc\n",
        "line 2: expected two texts .*, as at first; got 1",
    ),
    "three texts": ([], b"a\tb\tc\n", "line 1: expected one text, or two with a tab.*; got 3"),
    "other bytes": ([], b"a\n\xff\n", "input, line 2: expected UTF-8 text"),
    "texts twice": (["a", "--input", "x"], b"", "give them in one place"),
    "columns of nothing": (["a", "--columns", "x"], b"", "name it with --input"),
    "three columns": (
        ["--columns", "x", "y", "z", "--input", "{}/a.csv"],
        b"",
        "must be one or two",
    ),
    "no file": (["--input", "nowhere.csv"], b"", r"--input: no such file: nowhere\.csv"),
    "no columns": (["--input", "{}/a.csv"], b"", r"a\.csv: say with --columns where"),
    "no such column": (["--input", "{}/a.csv", "--columns", "x"], b"", 'one column "x"; got t'),
    "empty cell": (["--input", "{}/a.csv", "--columns", "t"], b"", r"a\.csv, line 3: .*, got none"),
    "output's ending": (["a", "--output", "{}/a.txt"], b"", r"end in \.tsv or \.jsonl"),
    "stem": (["a", "--stem-column", "x"], b"", "is for a model of multiple choice, beside --col"),
    "format": (["a", "--format", "squad"], b"", r"must be tsv or jsonl here\. Received: squad"),
    "output's folder": (["a", "--output", "{}/no/a.tsv"], b"", "--output: no such folder: .*/no"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input(run, tmp_path, case):
    arguments, stdin, message = ERRORS[case]
    (tmp_path / "a.csv").write_text('t\nx\n" "\n')
    with pytest.raises(InputError, match=message):
        run(*(text.replace("{}", str(tmp_path)) for text in arguments), stdin=stdin)


def test_a_directory_without_a_fine_tuned_model(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*config\.json.*finetuning_models"):
        predict.main([str(tmp_path), "a"])
    (tmp_path / "config.json").write_text('{"architectures": ["ConvBertModel"]}')
    with pytest.raises(
        InputError, match=r'no fine-tuned .* "ConvBertModel", not one of ConvBertFo'
    ):
        predict.main([str(tmp_path), "a"])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: expected a JSON object"):
        predict.main([str(tmp_path), "a"])
