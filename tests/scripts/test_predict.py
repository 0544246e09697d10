"""predict.py prints what the pipelines predict, and finds wrong arguments before it loads them."""

import dataclasses
import json
import logging

import pytest

import pipelines
from common import hub
from common.errors import InputError
from pipelines import command_line
from pipelines.kinds import KINDS
from scripts import predict
from tests.support.eager import eagerly
from tests.support.files import write
from tests.support.random_models import assert_close, from_lines, run_with, save

CONTEXT = "A b  c Ax d e f g h a b c d e f"


def classes(classifier, rows):
    found = classifier.predict(*zip(*rows, strict=True))
    if classifier.labels is None:
        return [{"score": score} for score in found.answers]
    name = "labels" if isinstance(found.answers[0], list) else "label"
    shares = (dict(zip(classifier.labels, row, strict=True)) for row in found.probabilities)
    pairs = zip(found.answers, shares, strict=True)
    return [{name: answer, "probabilities": row} for answer, row in pairs]


def tags(tagger, rows):
    return [dataclasses.asdict(sentence) for sentence in tagger.predict([row[0] for row in rows])]


def answers(answerer, rows):
    found = map(dataclasses.asdict, answerer.predict(*zip(*rows, strict=True)))
    return [{"id": str(i), "answer": fields.pop("text")} | fields for i, fields in enumerate(found)]


def choices(chooser, rows):
    found = chooser.predict(*zip(*((row[0], row[1:]) for row in rows), strict=True))
    pairs = zip(found.answers, found.probabilities, strict=True)
    return [{"choice": answer, "probabilities": row} for answer, row in pairs]


PAIRS = [["a é", "c"], ["h", "d e f g " * 20]]


@pytest.mark.parametrize(
    ("kind", "fields", "rows", "predictions"),
    [
        ("SequenceClassification", {"id2label": ("é", "y")}, PAIRS, classes),
        ("SequenceClassification", {"problem_type": "multi_label_classification"}, PAIRS, classes),
        ("SequenceClassification", {"problem_type": "regression", "num_labels": 1}, PAIRS, classes),
        ("TokenClassification", {"id2label": ("O", "B-X")}, [["a ax b"], ["h g"]], tags),
        ("QuestionAnswering", {}, [["a b", CONTEXT], ["h", "h g f. e"]], answers),
        ("MultipleChoice", {}, [["a b", "c", "d e"], ["c", "a", "h"]], choices),
    ],
)
@eagerly()
def test_objects_of_arguments_and_files(
    tmp_path, monkeypatch, capsys, caplog, kind, fields, rows, predictions
):
    kind = KINDS[f"ConvBertFor{kind}"]
    cls = getattr(pipelines, kind.pipeline)
    save(tmp_path, cls.model_class, num_hidden_layers=1, **fields)
    pipeline = cls.from_pretrained(tmp_path)
    expected = predictions(pipeline, rows)
    expected = [{"index": i} | fields for i, fields in enumerate(expected)]
    run = run_with(pipeline, predict, tmp_path, monkeypatch, capsys)
    texts = list(map("\t".join, rows))
    write(tmp_path / "t.txt", "\n".join(texts))
    with caplog.at_level(logging.WARNING, logger="absl"):
        lines = run("--input", tmp_path / "t.txt")
    assert_close(from_lines(lines), expected)
    assert ("1 of 2 texts were longer than 64 tokens" in caplog.text) == (rows == PAIRS)
    if predictions in (answers, choices):  # the arguments are one row
        assert_close(from_lines(run(*rows[0])), expected[:1])
    else:
        assert run(*texts) == lines
    objects = [{"first": first, "more": more} for first, *more in rows]
    write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, objects)))
    assert run("--input", tmp_path / "t.jsonl", "--columns", "first", "more") == lines
    columns = "abc"[: len(rows[0])]
    write(tmp_path / "t.csv", "\n".join(map(",".join, [columns, *rows])))
    source = ["--input", tmp_path / "t.csv", "--columns", *columns]
    assert run(*source, "--output", tmp_path / "out.jsonl") == ""
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == lines


@pytest.mark.parametrize(
    ("kind", "text", "good"),
    [
        ("SequenceClassification", "a\n\nb\n\t\nc d", (0, 2, 4)),
        ("TokenClassification", "\na b\n \nc\n", (1, 3)),
        ("QuestionAnswering", "a\tb c\n\nd\n\t\ne\tf g", (0, 4)),
        ("MultipleChoice", "a\tb\tc\n\nd\te\nf\tg\th", (0, 3)),
    ],
)
@eagerly()
def test_lines_that_cannot_be_read(tmp_path, monkeypatch, capsys, kind, text, good):
    kind = KINDS[f"ConvBertFor{kind}"]
    cls = getattr(pipelines, kind.pipeline)
    save(tmp_path, cls.model_class, num_hidden_layers=1)
    monkeypatch.setitem(KINDS, cls.model_class.architecture, kind._replace(rows_at_once=2))
    run = run_with(cls.from_pretrained(tmp_path), predict, tmp_path, monkeypatch, capsys)
    write(tmp_path / "t.txt", text)
    lines = text.rstrip("\n").split("\n")
    first_bad = min(set(range(len(lines))) - set(good)) + 1
    with pytest.raises(InputError, match=rf"t\.txt, line {first_bad}: .*--skip-bad-texts"):
        run("--input", tmp_path / "t.txt")
    found = from_lines(run("--input", tmp_path / "t.txt", "--skip-bad-texts"))
    assert [fields["index"] for fields in found] == list(range(len(lines)))
    assert [i for i, fields in enumerate(found) if "error" not in fields] == list(good)
    assert all(f"[{i}]" in each.get("error", f"[{i}]") for i, each in enumerate(found))
    write(tmp_path / "t.txt", "\n".join(lines[i] for i in good))
    expected = from_lines(run("--input", tmp_path / "t.txt"))
    for fields in (*found, *expected):
        fields.pop("index")
        fields.pop("id", None)
    assert_close([found[i] for i in good], expected)


def test_weights_are_fetched_after_the_texts_are_read(tmp_path, monkeypatch):
    save(tmp_path, pipelines.TextClassifier.model_class)
    fetched = []
    monkeypatch.setattr(
        hub, "resolve", lambda name, *_, weights=True: fetched.append(weights) or name
    )
    with pytest.raises(InputError, match="--input"):
        predict.main([str(tmp_path), "--input", str(tmp_path / "none.txt")])
    assert fetched == [False]


@eagerly()
def test_many_texts_show_a_bar_and_keep_their_order(tmp_path, capsys, caplog):
    model = save(tmp_path, pipelines.TextClassifier.model_class, 5, num_hidden_layers=1)
    classifier = pipelines.TextClassifier.from_pretrained(tmp_path)
    kind = KINDS[model.architecture]._replace(rows_at_once=2)
    rows = [["a"], ["a b c d"], ["b"], ["c"], ["d e f g h"]]
    with command_line.progress_bar(2, kind.unit, kind.rows_at_once):
        assert capsys.readouterr().err == ""
    with command_line.progress_bar(len(rows), kind.unit, kind.rows_at_once) as bar:
        found = list(predict.predict(kind, classifier, rows, 32, bar))
    expected = classes(classifier, rows)
    assert_close(found, [{"index": i} | fields for i, fields in enumerate(expected)])
    assert "2 of 5 texts were longer" in caplog.text
    assert "5 of 5 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("SequenceClassification", "a --output a.tsv", r"`--output` .*\.jsonl"),
        ("SequenceClassification", "a --output no/a.jsonl", "`--output`: .*no"),
        ("SequenceClassification", "a --stem-column x", "--stem-column"),
        ("SequenceClassification", "a --format squad", r"`--format` must be jsonl .* squad"),
        ("SequenceClassification", "a\tb\tc", "argument 1"),
        ("TokenClassification", "a --format squad", r"`--format` must be jsonl or conll .* squad"),
        ("TokenClassification", "--input t.tsv --columns word", r"`--columns` of t\.tsv .* word"),
        ("TokenClassification", "--input t.txt", r"line 2: .* \.conll, \.conllu, "),
        ("QuestionAnswering", "a", "argument 1: .* got 1"),
        ("QuestionAnswering", "--input t.csv --columns a", r"t\.csv, line 2: .* got 1"),
        ("QuestionAnswering", "a b --format conll", "`--format` must be jsonl or squad"),
        ("QuestionAnswering", "--input t.json", r"t\.json: not JSON"),
        ("MultipleChoice", "a b", "argument 1: .* got 2"),
        ("MultipleChoice", "--input t.csv --columns a", "line 2: .* two or more choices; got 1"),
        ("MultipleChoice", "--input t.csv --columns a b --stem-column c", "a stem .*; got 3"),
        ("MultipleChoice", "--input t.csv --stem-column c", "--stem-column"),
        ("MaskedLM", "a", "ConvBertForMaskedLM.*not ConvBertForSequenceClass.* or .*Choice"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, kind, arguments, message):
    """They are found before the model is loaded: there is none."""
    files = {"t.csv": "a,b,c\nd,e,f\n", "t.tsv": "1\ta\n", "t.txt": "a O\n\nb O\n", "t.json": "{"}
    files["config.json"] = {"architectures": [f"ConvBertFor{kind}"]}
    for name, content in files.items():
        write(tmp_path / name, content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        predict.main([".", *arguments.split(" ")])
