"""Tasks of one's own, and what logits say. GLUE's files are read in test_glue.py."""

import dataclasses
import logging

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.classification import decoding
from data.tasks.classification.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ClassificationTask

TASK = ClassificationTask("own", ("accuracy",), ("text",), "label", labels=("bad", "good"))
SEVERAL = dataclasses.replace(
    TASK, problem_type=MULTI_LABEL, labels=("x", "y", "z"), metrics=("micro_f1",)
)
SCORES = dataclasses.replace(
    TASK, problem_type=REGRESSION, labels=(), score_range=(-1.0, 3.0), metrics=("r2",)
)


def write(directory, name, content):
    path = directory / "own" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.tsv", 'text\tid\tlabel\n"one"\t1\tgood\ntwo, too\t2\t bad\n'),
        ("train.csv", 'label,text\ngood,"""one"""\nbad,"two, too"\n'),
        ("train.jsonl", '{"label": "good", "text": "\\"one\\""}\n'
         '{"text": "two, too", "label": "bad"}'),
    ],
)  # fmt: skip
def test_one_label(tmp_path, name, content):
    write(tmp_path, name, content)
    examples = TASK.load(str(tmp_path), "train")
    assert (examples.texts, examples.text_pairs) == (['"one"', "two, too"], None)
    assert examples.labels.tolist() == [1, 0] and examples.labels.dtype == np.int32
    assert examples.targets is examples.labels


def test_pairs_without_a_header(tmp_path):
    task = dataclasses.replace(TASK, text_columns=(2, 0), label_column=1, header=False)
    write(tmp_path, "dev.csv", "b,good,a\nd,bad,c\n")
    examples = task.load(str(tmp_path), "dev")
    assert (examples.texts, examples.text_pairs) == (["a", "c"], ["b", "d"])
    assert examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", 'text,label\na,"z, x"\nb,\nc,y\n'),
        ("train.jsonl", '{"text": "a", "label": ["z", "x"]}\n{"text": "b", "label": []}\n'
         '{"text": "c", "label": "y"}\n'),
    ],
)  # fmt: skip
def test_several_labels(tmp_path, name, content):
    write(tmp_path, name, content)
    examples = SEVERAL.load(str(tmp_path), "train")
    np.testing.assert_array_equal(examples.labels, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert examples.targets.dtype == np.float32
    np.testing.assert_array_equal(examples.targets, examples.labels)


def test_scores(tmp_path):
    write(tmp_path, "dev.jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": "3.0"}\n')
    examples = SCORES.load(str(tmp_path), "dev")
    assert examples.labels.tolist() == [0.0, 3.0] and examples.labels.dtype == np.float64
    assert examples.targets.tolist() == [[0.25], [1.0]]


def test_test_files_need_no_labels(tmp_path, caplog):
    assert TASK.load_if_there(str(tmp_path), TASK.test_splits) == {}
    assert f"no test predictions: {tmp_path}/own/test.tsv" in caplog.text
    path = write(tmp_path, "test.csv", "text\n1\n")
    assert TASK.load_if_there(str(tmp_path), TASK.test_splits)["test"].texts == ["1"]
    path.unlink()
    named = dataclasses.replace(TASK, files={"test": str(path)})
    with pytest.raises(InputError, match=r"task own: no test file. Put it at .*test\.csv$"):
        named.load_if_there(str(tmp_path), named.test_splits)


def test_labels_are_found_in_the_training_file(tmp_path, caplog):
    write(tmp_path, "train.jsonl", "".join(
        f'{{"text": "a", "label": {label}}}\n' for label in ('"b"', "2", "true", '"b"')
    ))  # fmt: skip
    with caplog.at_level(logging.INFO, logger="absl"):
        task = dataclasses.replace(TASK, labels=None).complete(str(tmp_path))
    assert task.labels == ("2", "b", "true")
    assert "own: 3 labels: 2 (1), b (2), true (1)" in caplog.text
    assert task.load(str(tmp_path), "train").labels.tolist() == [1, 0, 2, 1]
    write(tmp_path, "train.jsonl", '{"text": "a", "label": ["q", "p"]}\n')
    task = dataclasses.replace(SEVERAL, labels=None).complete(str(tmp_path))
    assert task.labels == ("p", "q")
    assert TASK.complete("nowhere") is TASK


def test_found_range_of_scores_leaves_other_files_alone(tmp_path):
    write(tmp_path, "train.csv", "text,label\na,2.5\nb,-7\nc,2\n")
    write(tmp_path, "dev.csv", "text,label\na,9\n")
    task = dataclasses.replace(SCORES, score_range=None).complete(str(tmp_path))
    assert task.score_range == (-7.0, 2.5) and task.labels == ()
    assert task.load(str(tmp_path), "train").targets.ravel().tolist() == [
        1.0, 0.0, pytest.approx(9 / 9.5)
    ]  # fmt: skip
    assert task.load(str(tmp_path), "dev").labels.tolist() == [9.0]


HEAD = "text,label\n"
ERRORS = {
    "unknown label": (
        TASK, "csv", HEAD + "a,good\nb,Good\n",
        'line 3: expected one of the labels bad, good in column "label", got "Good"',
    ),
    "no label": (TASK, "csv", HEAD + "a,\n", 'line 2: expected a label in column "label", got ""'),
    "label that is a list": (
        TASK, "jsonl", '{"text": "a", "label": ["bad"]}',
        r'line 1: expected a label in field "label", got \["bad"\]',
    ),
    "unknown one of several": (
        SEVERAL, "csv", HEAD + 'a,"x,w"\n', 'labels among x, y, z in column "label", got "x,w"'
    ),
    "label twice": (
        SEVERAL, "csv", HEAD + 'a,"x,x"\n', 'expected different labels in column "label", got "x,x"'
    ),
    "number for several": (
        SEVERAL, "jsonl", '{"text": "a", "label": 1}', "a list of labels in .*, got 1"
    ),
    "score outside": (
        SCORES, "csv", HEAD + "a,3.1\n", 'a score from -1 to 3 in column "label", got "3.1"'
    ),
    "score that is none": (SCORES, "jsonl", '{"text": "a", "label": true}', "score .*, got true"),
    "empty text": (TASK, "csv", HEAD + " ,good\n", 'expected text in column "text", got none'),
    "text that is a number": (
        TASK, "jsonl", '{"text": 7, "label": "bad"}', 'expected text in field "text", got 7'
    ),
    "half a character": (
        TASK, "jsonl", '{"text": "\\ud83d", "label": "bad"}', "expected Unicode text in field"
    ),
    "too few columns": (TASK, "csv", HEAD + "a\n", "line 2: expected 2 columns .*commas, got 1"),
    "header only": (TASK, "csv", HEAD, "no examples in the file"),
    "other header": (TASK, "csv", "body,label\na,good\n", 'line 1: .* one column "text", got body'),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_unusable_file(tmp_path, case):
    task, ending, content, message = ERRORS[case]
    path = write(tmp_path, f"dev.{ending}", content)
    with pytest.raises(InputError, match=message) as error:
        task.load(str(tmp_path), "dev")
    assert str(path) in str(error.value)


def test_unusable_folder(tmp_path):
    with pytest.raises(InputError, match=r"own: no dev file. Put it at .*own/dev\.tsv or .*csv or"):
        TASK.load(str(tmp_path), "dev")
    write(tmp_path, "dev.csv", HEAD)
    write(tmp_path, "dev.tsv", HEAD)
    with pytest.raises(InputError, match=r"found .*dev\.tsv and .*dev\.csv"):
        TASK.load(str(tmp_path), "dev")


def test_unusable_labels_of_a_training_file(tmp_path):
    unknown = dataclasses.replace(TASK, labels=None)
    write(tmp_path, "train.csv", HEAD + "a,good\nb,good\n")
    with pytest.raises(InputError, match=r'two or more different .* in column "label", got good'):
        unknown.complete(str(tmp_path))
    write(tmp_path, "train.csv", HEAD + "a,good\nb,\n")
    with pytest.raises(InputError, match=r'train\.csv, line 3: expected a label in .*, got ""'):
        unknown.complete(str(tmp_path))
    with pytest.raises(InputError, match=r"`f1` needs 2 labels.* 3"):
        dataclasses.replace(TASK, labels=("a", "b", "c"), metrics=("f1",)).complete("")


def test_what_logits_say():
    logits = np.array([[0.0, np.log(3), -50.0], [1000.0, -1000.0, 0.0]], np.float32)
    assert decoding.predictions(SINGLE_LABEL, logits).tolist() == [1, 0]
    assert decoding.answers(SINGLE_LABEL, logits, ("a", "b", "c")) == ["b", "a"]
    shares = decoding.probabilities(SINGLE_LABEL, logits)
    np.testing.assert_allclose(shares, [[0.25, 0.75, 0], [1, 0, 0]], atol=1e-6)
    assert decoding.predictions(MULTI_LABEL, logits).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decoding.answers(MULTI_LABEL, -logits, ("a", "b", "c")) == [["c"], ["b"]]
    shares = decoding.probabilities(MULTI_LABEL, logits)
    np.testing.assert_allclose(shares, [[0.5, 0.75, 0], [1, 0, 0.5]], atol=1e-6)


def test_what_scores_say():
    logits = np.array([[0.5], [1.5], [-0.25]], np.float32)
    assert decoding.predictions(REGRESSION, logits, (-1.0, 3.0)).tolist() == [1.0, 5.0, -2.0]
    assert decoding.answers(REGRESSION, logits, None, (-1.0, 3.0)) == [1.0, 3.0, -1.0]
    # Of another's model, whose range is not known.
    assert decoding.answers(REGRESSION, logits, None) == [0.5, 1.5, -0.25]


def test_answers_as_text():
    assert decoding.answer_text(["a", "b"], "|") == "a|b"
    assert decoding.answer_text([]) == ""
    assert [decoding.answer_text(x) for x in ("good", 2.0, 1234567.0, 0.000123456)] == [
        "good", "2", "1.23457e+06", "0.000123456"
    ]  # fmt: skip
