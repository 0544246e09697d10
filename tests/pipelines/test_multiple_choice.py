import csv
import io
import json

import numpy as np
import pytest

from common.errors import InputError
from model import ConvBertForMultipleChoice
from pipelines import MultipleChoice, command_line
from scripts import predict
from tests.support.random_models import VOCAB, finetune_at_random, save

FIELDS = {
    "kind": "multiple_choice",
    "context_column": "text",
    "stem_column": "stem",
    "choice_columns": ["one", "two", "three"],
    "label_column": "right",
    "labels": ["A", "B", "C"],
}
ROWS = [
    [
        " ".join("abcdefgh"[i:]),
        "d",
        *(" ".join("abcdefgh"[j : j + 2 + i]) for j in np.roll([0, 3, 5], i)),
    ]
    for i in range(6)
]


def as_csv(header, rows):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


HEADER = [FIELDS["context_column"], FIELDS["stem_column"], *FIELDS["choice_columns"]]
TEST = as_csv(HEADER, ROWS)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    train = as_csv([*HEADER, "right"], [[*row, "B"] for row in ROWS[:2]])
    files = {"train.csv": train, "test.csv": TEST}
    return finetune_at_random(tmp_path_factory.mktemp("choice"), FIELDS, files, max_seq_length=13)


@pytest.fixture(scope="module")
def chooser(tuned):
    return MultipleChoice.from_pretrained(tuned[0])


def test_choices_are_those_that_fine_tuning_wrote(tuned, chooser, tmp_path, capsys):
    directory, path = tuned
    written = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    logits = np.array([[float(number) for number in row[2].split()] for row in written])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    contexts = [row[0] for row in ROWS]
    choices = [[f"{row[1]} {choice}" for choice in row[2:]] for row in ROWS]
    found = chooser.predict(contexts, choices, batch_size=4)
    assert found.answers == [row[1] for row in written]
    assert len(set(found.answers)) > 1
    np.testing.assert_allclose(found.probabilities, shares, atol=1e-5)
    pairs = [(c, d) for c, row in zip(contexts, choices, strict=True) for d in row]
    lengths = [3 + len(c.split()) + len(d.split()) for c, d in pairs]
    assert found.num_cut == sum(length > 13 for length in lengths) > 0

    (tmp_path / "t.csv").write_text(TEST)
    arguments = [str(directory), "--input", str(tmp_path / "t.csv"), "--stem-column", "stem"]
    predict.main([*arguments, "--columns", "text", "one", "two", "three"])
    objects = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [[str(row["index"]), row["choice"]] for row in objects] == [row[:2] for row in written]
    np.testing.assert_allclose([row["probabilities"] for row in objects], shares, atol=1e-5)


def test_script_reads_arguments_lines_and_lists(tmp_path, capsys, monkeypatch):
    """With a model of transformers, whose choices have no names, and which reads the last token."""
    model = save(tmp_path, ConvBertForMultipleChoice, summary_type="last", num_hidden_layers=1)
    chooser = MultipleChoice.from_pretrained(tmp_path)
    monkeypatch.setattr(command_line, "load_pipeline", lambda *_: chooser)
    predict.main([str(tmp_path), "a b", "c", "d e"])
    rows = [["a", "b", "[SEP]", *choice, "[SEP]"] for choice in (["c"], ["d", "e"])]
    scores = []
    for row in rows:
        ids = np.array([[[VOCAB.index(token) for token in ["[CLS]", *row]]]])
        segments = np.array([[[0] * 4 + [1] * (len(row) - 3)]])
        scores.append(float(np.asarray(model({"input_ids": ids, "segment_ids": segments}))[0, 0]))
    shares = np.exp(scores) / np.exp(scores).sum()
    found = json.loads(capsys.readouterr().out)
    assert (found["index"], found["choice"]) == (0, int(np.argmax(scores)))
    np.testing.assert_allclose(found["probabilities"], shares, atol=1e-5)

    (tmp_path / "t.txt").write_text("a b\tc\td e\nc\ta\th\n")
    (tmp_path / "t.jsonl").write_text(
        '{"q": "a b", "c": ["c", "d e"]}\n{"q": "c", "c": ["a", "h"]}'
    )
    predict.main([str(tmp_path), "--input", str(tmp_path / "t.txt")])
    lines = capsys.readouterr().out
    choices = [json.loads(line)["choice"] for line in lines.splitlines()]
    assert len(choices) == 2 and choices[0] == found["choice"]
    predict.main([str(tmp_path), "--input", str(tmp_path / "t.jsonl"), "--columns", "q", "c"])
    assert capsys.readouterr().out == lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "argument 1: .* got 2"),
        (["--columns", "text"], "line 2: .* two or more choices; got 1"),
        (["--columns", "text", "one", "--stem-column", "stem"], "line 2: .* a stem .*; got 3"),
        (["--stem-column", "stem"], "--stem-column"),
    ],
)
def test_wrong_input(tuned, tmp_path, arguments, message):
    (tmp_path / "t.csv").write_text(TEST)
    source = ["--input", str(tmp_path / "t.csv")] if arguments[0].startswith("--") else []
    with pytest.raises(InputError, match=message):
        predict.main([str(tuned[0]), *source, *arguments])


def test_other_numbers_of_choices(chooser):
    with pytest.raises(InputError, match=r"choices\[1\]: expected 3 .* A, B, C; got 2"):
        chooser.predict(["a", "b"], [["a", "b", "c"], ["a", "b"]])
    with pytest.raises(InputError, match="1 `contexts`, but 2 `choices`"):
        chooser.predict(["a"], [["a", "b", "c"]] * 2)
    assert chooser.predict([], []).answers == []
