"""Users' own tasks, and the decoding of logits. GLUE's files are read in test_glue.py."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.classification import decoding
from data.tasks.classification.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ClassificationTask
from tests.support.files import write

TASK = ClassificationTask("own", ("accuracy",), ("text",), "label", labels=("bad", "good"))
SEVERAL = dataclasses.replace(
    TASK, problem_type=MULTI_LABEL, labels=("x", "y", "z"), metrics=("micro_f1",)
)
SCORES = dataclasses.replace(
    TASK, problem_type=REGRESSION, labels=(), score_range=(-1.0, 3.0), metrics=("r2",)
)
HEAD = "text,label\n"


def record(label, text="a"):
    return json.dumps({"text": text, "label": label}) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.tsv", 'text\tid\tlabel\n"one"\t1\tgood\ntwo, too\t2\t bad\n'),
        ("train.csv", 'label,text\ngood,"""one"""\nbad,"two, too"\n'),
        ("train.jsonl", record("good", '"one"') + '{"label": "bad", "text": "two, too"}'),
    ],
)
def test_one_label(tmp_path, name, content):
    write(tmp_path / "own" / name, content)
    examples = TASK.load(str(tmp_path), "train")
    assert (examples.texts, examples.text_pairs) == (['"one"', "two, too"], None)
    assert examples.labels.tolist() == [1, 0] and examples.labels.dtype == np.int32
    assert examples.targets is examples.labels


def test_pairs_without_a_header(tmp_path):
    task = dataclasses.replace(TASK, text_columns=(2, 0), label_column=1, header=False)
    write(tmp_path / "own" / "dev.csv", "b,good,a\nd,bad,c\n")
    examples = task.load(str(tmp_path), "dev")
    assert (examples.texts, examples.text_pairs) == (["a", "c"], ["b", "d"])
    assert examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", HEAD + 'a,"z, x"\nb,\nc,y\n'),
        ("train.csv", HEAD + """a,"['z', 'x']"\nb,[]\nc,"[""y""]"\n"""),
        ("train.jsonl", record(["z", "x"]) + record([], "b") + record("y", "c")),
    ],
)
def test_several_labels(tmp_path, name, content):
    write(tmp_path / "own" / name, content)
    examples = SEVERAL.load(str(tmp_path), "train")
    np.testing.assert_array_equal(examples.labels, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert examples.targets.dtype == np.float32
    np.testing.assert_array_equal(examples.targets, examples.labels)


def test_scores(tmp_path):
    write(tmp_path / "own" / "dev.jsonl", record(0) + record("3.0"))
    examples = SCORES.load(str(tmp_path), "dev")
    assert examples.labels.tolist() == [0.0, 3.0] and examples.labels.dtype == np.float64
    assert examples.targets.tolist() == [[0.25], [1.0]]


def test_test_files_need_no_labels(tmp_path, caplog):
    assert TASK.load_if_there(str(tmp_path), TASK.test_splits) == {}
    assert f"no test predictions: {tmp_path}/own/test.tsv" in caplog.text
    path = write(tmp_path / "own" / "test.csv", "text\n1\n")
    assert TASK.load_if_there(str(tmp_path), TASK.test_splits)["test"].texts == ["1"]
    named = dataclasses.replace(TASK, files={"test": f"{path}.csv"})
    with pytest.raises(InputError, match=r"task own: no test file.*test\.csv\.csv$"):
        named.load_if_there(str(tmp_path), named.test_splits)


@pytest.mark.parametrize("name", ["dev.CSV", "Dev.csv", "dev.csv.gz", "dev.json", "dev.JSON.GZ"])
def test_names_of_files(tmp_path, name):
    """Files that are read where none has the exact name."""
    content = record("good") if "json" in name.lower() else HEAD + "a,good\n"
    write(tmp_path / "own" / name, content)
    assert TASK.load_if_there(str(tmp_path), ("dev",))["dev"].labels.tolist() == [1]
    write(tmp_path / "own" / "dev.csv", HEAD + "a,bad\n")
    assert TASK.load(str(tmp_path), "dev").labels.tolist() == [0]


def test_labels_of_the_training_file(tmp_path, caplog):
    write(tmp_path / "own" / "train.jsonl", "".join(map(record, ("b", 2, True, "b"))))
    with caplog.at_level(logging.INFO, logger="absl"):
        task = dataclasses.replace(TASK, labels=None).complete(str(tmp_path))
    assert task.labels == ("2", "b", "true")
    assert "own: 3 labels: 2 (1), b (2), true (1)" in caplog.text
    assert task.load(str(tmp_path), "train").labels.tolist() == [1, 0, 2, 1]
    write(tmp_path / "own" / "train.jsonl", record(["q", "p"]))
    task = dataclasses.replace(SEVERAL, labels=None).complete(str(tmp_path))
    assert task.labels == ("p", "q")
    assert TASK.complete("nowhere") is TASK


@pytest.mark.parametrize(
    ("train", "labels", "dev", "ids"),
    [
        (["1.0", "0.0"], ("0.0", "1.0"), ["1", "0"], [1, 0]),
        (["1", "0"], ("0", "1"), ["1.0", "0"], [1, 0]),
        (["1.0", "1", "2"], ("1", "2"), ["2.0", "1"], [1, 0]),
        ([1.0, 0.0], ("0", "1"), [1, 0.0], [1, 0]),
        (["1.0", "1", "1.5"], ("1", "1.0", "1.5"), ["1.0", "1"], [1, 0]),
        (["1.0", "1", "b"], ("1", "1.0", "b"), ["1.0", "1"], [1, 0]),
        (["[b]", "['a']"], ("['a']", "[b]"), ["[b]"], [1]),
    ],
)
def test_whole_numbers_as_labels(tmp_path, train, labels, dev, ids):
    write(tmp_path / "own" / "train.jsonl", "".join(map(record, train)))
    write(tmp_path / "own" / "dev.jsonl", "".join(map(record, dev)))
    task = dataclasses.replace(TASK, labels=None).complete(str(tmp_path))
    assert task.labels == labels
    assert task.load(str(tmp_path), "dev").labels.tolist() == ids


def test_range_of_the_training_scores_does_not_bound_other_files(tmp_path):
    write(tmp_path / "own" / "train.csv", HEAD + "a,2.5\nb,-7\nc,2\n")
    write(tmp_path / "own" / "dev.csv", HEAD + "a,9\n")
    task = dataclasses.replace(SCORES, score_range=None).complete(str(tmp_path))
    assert task.score_range == (-7.0, 2.5) and task.labels == ()
    targets = task.load(str(tmp_path), "train").targets
    np.testing.assert_allclose(targets, [[1.0], [0.0], [9 / 9.5]], rtol=1e-6)
    assert task.load(str(tmp_path), "dev").labels.tolist() == [9.0]


@pytest.mark.parametrize(
    ("task", "ending", "content", "message"),
    [
        (TASK, "csv", "a,good\nb,Good\n", 'line 3: .* bad, good in column "label", got "Good"'),
        (TASK, "csv", "a,\n", 'line 2: expected a label in column "label", got ""'),
        (TASK, "jsonl", record(["bad"]), r'line 1: .* in field "label", got \["bad"\]'),
        (SEVERAL, "csv", 'a,"x,w"\n', 'among x, y, z in column "label", got "x,w"'),
        (SEVERAL, "csv", 'a,"x,x"\n', 'different labels in column "label", got "x,x"'),
        (SEVERAL, "jsonl", record(1), "a list of labels in .*, got 1"),
        (SEVERAL, "csv", 'a,"[x, y]"\n', r'list such as .* in column "label", got "\[x, y\]"'),
        (SEVERAL, "csv", "a,['x' 'y']\n", "list such as .*, got"),  # NumPy's
        (TASK, "csv", 'a, "good"\n', r'line 2: .* "label", got " \\"good\\"". A quote'),
        (TASK, "jsonl", record(1.5), 'a label in field "label", got 1.5'),
        (SCORES, "csv", "a,1_0\n", 'a score .* "1_0"'),
        (SCORES, "csv", "a,nan\n", 'a score .* "nan"'),
        (SCORES, "csv", "a,-inf\n", 'a score .* "-inf"'),
        (SCORES, "csv", "a,3.1\n", 'a score from -1 to 3 in column "label", got "3.1"'),
        (SCORES, "jsonl", record(True), "score .*, got true"),
        (TASK, "csv", " ,good\n", 'expected text in column "text", got none'),
        (TASK, "jsonl", record("bad", 7), 'expected text in field "text", got 7'),
        (TASK, "jsonl", record("bad", "\ud83d"), "expected Unicode text in field"),
        (TASK, "csv", "", "no examples"),
    ],
)
def test_unusable_file(tmp_path, task, ending, content, message):
    write(tmp_path / "own" / f"dev.{ending}", HEAD * (ending == "csv") + content)
    with pytest.raises(InputError, match=rf"own/dev\.{ending}.*{message}"):
        task.load(str(tmp_path), "dev")


def test_unusable_folder(tmp_path):
    with pytest.raises(InputError, match=r"own: no dev file.*own/dev\.tsv or .*csv or"):
        TASK.load(str(tmp_path), "dev")
    other = write(tmp_path / "own" / "dev.txt", "")
    with pytest.raises(InputError, match=rf'found only {other}.*"do_eval": false'):
        TASK.load(str(tmp_path), "dev")
    write(tmp_path / "own" / "dev.csv", "body,label\na,good\n")
    with pytest.raises(InputError, match=r'dev\.csv, line 1: .* column "text", got body'):
        TASK.load(str(tmp_path), "dev")
    write(tmp_path / "own" / "dev.tsv", HEAD)
    with pytest.raises(InputError, match=r"found .*dev\.tsv and .*dev\.csv"):
        TASK.load(str(tmp_path), "dev")


def test_a_header_in_a_file_of_numbered_columns_is_suspected(tmp_path, caplog):
    task = dataclasses.replace(TASK, text_columns=(0,), label_column=1, header=False, labels=None)
    path = write(tmp_path / "own" / "train.csv", HEAD + "a,good\nb,bad\nc,good\nd,bad\n")
    task.complete(str(tmp_path))
    assert f'{path}, line 1: only this row has the label "label"' in caplog.text


def test_unusable_labels_of_a_training_file(tmp_path):
    unlabeled = dataclasses.replace(TASK, labels=None)
    write(tmp_path / "own" / "train.csv", HEAD + "a,good\nb,good\n")
    with pytest.raises(InputError, match=r'two or more different .* in column "label", got good'):
        unlabeled.complete(str(tmp_path))
    write(tmp_path / "own" / "train.csv", HEAD + "a,good\nb,\n")
    with pytest.raises(InputError, match=r'train\.csv, line 3: expected a label in .*, got ""'):
        unlabeled.complete(str(tmp_path))
    with pytest.raises(InputError, match=r"`f1` needs 2 labels.* 3"):
        dataclasses.replace(TASK, labels=("a", "b", "c"), metrics=("f1",)).complete("")


def test_labels_and_probabilities():
    logits, labels = np.array([[0, np.log(3), -50], [1000, -1000, 0]], np.float32), ("a", "b", "c")
    assert decoding.predictions(SINGLE_LABEL, logits).tolist() == [1, 0]
    assert decoding.answers(SINGLE_LABEL, logits, labels) == ["b", "a"]
    shares = decoding.probabilities(SINGLE_LABEL, logits)
    np.testing.assert_allclose(shares, [[0.25, 0.75, 0], [1, 0, 0]], atol=1e-6)
    assert decoding.predictions(MULTI_LABEL, logits).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decoding.answers(MULTI_LABEL, -logits, labels) == [["c"], ["b"]]
    shares = decoding.probabilities(MULTI_LABEL, logits)
    np.testing.assert_allclose(shares, [[0.5, 0.75, 0], [1, 0, 0.5]], atol=1e-6)


def test_predicted_scores():
    logits = np.array([[0.5], [1.5], [-0.25]], np.float32)
    assert decoding.predictions(REGRESSION, logits, (-1.0, 3.0)).tolist() == [1.0, 5.0, -2.0]
    assert decoding.answers(REGRESSION, logits, None, (-1.0, 3.0)) == [1.0, 3.0, -1.0]
    # Models from elsewhere have no range.
    assert decoding.answers(REGRESSION, logits, None) == [0.5, 1.5, -0.25]


@pytest.mark.parametrize(
    ("answer", "text"),
    [(["a", "b"], "a|b"), ([], ""), ("good", "good"), (2.0, "2"), (1234567.0, "1.23457e+06")],
)
def test_answers_as_text(answer, text):
    assert decoding.answer_text(answer, "|") == text
    assert decoding.answer_text(0.000123456) == "0.000123456"


def test_examples_in_words(tmp_path):
    rows = {"x": "z,x", "y": "", "z": "x"}
    write(tmp_path / "own" / "train.csv", HEAD + "".join(f'{k},"{v}"\n' for k, v in rows.items()))
    examples = SEVERAL.load(str(tmp_path), "train")
    assert SEVERAL.describe(examples) == [(("x",), "x,z"), (("y",), ""), (("z",), "x")]
    assert SEVERAL.count_labels(examples) == {"x": 2, "y": 0, "z": 1, "(none)": 1}

    write(tmp_path / "own" / "train.csv", HEAD + "a,-1\nb,2.5\nc,3\n")
    examples = SCORES.load(str(tmp_path), "train")
    assert SCORES.describe(examples)[1] == (("b",), "2.5")
    counts = SCORES.count_labels(examples)
    assert list(counts.values()) == [1, 0, 0, 0, 2] and list(counts)[-1] == "2.2 to 3"

    write(tmp_path / "own" / "test.csv", "text\na\n")
    examples = TASK.load(str(tmp_path), "test")
    assert TASK.describe(examples) == [(("a",), None)] and not TASK.count_labels(examples)
