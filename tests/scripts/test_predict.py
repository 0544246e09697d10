import json
import logging

import numpy as np
import pytest

from common.errors import InputError
from pipelines import command_line
from pipelines.base import Pipeline
from pipelines.classifier import Predictions
from pipelines.kinds import KINDS
from scripts import predict

CLASSIFIER = "ConvBertForSequenceClassification"


class Classifier(Pipeline):
    """Answers each text with itself."""

    max_seq_length = 16

    def __init__(self, labels=("no", "yes"), answer=None):
        self.labels, self.answer = labels, answer

    def predict(self, texts, pairs, batch_size):
        texts = texts if pairs is None else list(map("".join, zip(texts, pairs, strict=True)))
        answers = texts if self.answer is None else [self.answer] * len(texts)
        shares = np.float32([[0.25, 0.75]] * len(texts)) if self.labels else None
        return Predictions(answers, shares, num_cut=1)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script with a stand-in for the model; returns the objects it prints."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [CLASSIFIER]}))

    def run(*arguments, **options):
        classifier = Classifier(**options)
        monkeypatch.setattr(command_line, "load_pipeline", lambda *_: classifier)
        predict.main([str(tmp_path), *arguments])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_an_object_per_text(run, tmp_path, caplog):
    probabilities = {"no": 0.25, "yes": 0.75}
    expected = [
        {"index": i, "label": label, "probabilities": probabilities}
        for i, label in enumerate(["aé", "bc"])
    ]
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert run("aé", "bc") == expected
    assert "1 of 2 texts were longer than 16 tokens" in caplog.text
    assert run("a\té", "b\tc") == [expected[0] | {"label": "aé"}, expected[1]]
    path = tmp_path / "out.jsonl"
    assert run("aé", "bc", "--output", str(path)) == []
    assert list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) == expected


def test_several_labels_and_scores(run):
    (found,) = run("a", answer=["no", "yes"])
    assert found["labels"] == ["no", "yes"] and "label" not in found
    assert run("a", labels=None, answer=2.2666678428649902) == [{"index": 0, "score": 2.26667}]


def test_many_texts_show_a_bar_and_keep_their_order(capsys, caplog):
    kind = KINDS[CLASSIFIER]._replace(rows_at_once=2)
    rows = [[text] for text in "abcde"]
    with command_line.progress_bar(len(rows), kind.unit, kind.rows_at_once) as bar:
        found = list(predict.predict(kind, Classifier(), rows, 32, bar))
    assert [(fields["index"], fields["label"]) for fields in found] == list(enumerate("abcde"))
    assert "3 of 5 texts were longer" in caplog.text
    assert "5 of 5 text" in capsys.readouterr().err


def test_few_texts_show_no_bar(run, capsys):
    run("a", "b")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--output", "a.tsv"], r"`--output` .*\.jsonl"),
        (["a", "--output", "{}/no/a.jsonl"], "`--output`: .*/no"),
        (["a", "--stem-column", "x"], "--stem-column"),
        (["a", "--format", "squad"], r"`--format` must be jsonl .* squad"),
        (["a\tb\tc"], "argument 1"),
    ],
)
def test_wrong_arguments(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run(*(argument.replace("{}", str(tmp_path)) for argument in arguments))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json.*finetuning_models"),
        ('{"architectures": ["ConvBertModel"]}', "ConvBertModel.*not ConvBertForSequenceClass"),
        ("[]", r"config\.json: expected a JSON object"),
    ],
)
def test_a_directory_without_a_fine_tuned_model(tmp_path, content, message):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        predict.main([str(tmp_path), "a"])
