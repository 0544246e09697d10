import json

import pytest

from common.errors import InputError
from data.tasks import glue
from data.tasks.registry import get_task, read_task


def write(tmp_path, fields, name="topics.json"):
    path = tmp_path / name
    path.write_text(json.dumps(fields))
    return str(path)


MINIMAL = {"text_columns": "body", "label_column": "topic"}


def test_defaults(tmp_path):
    task = get_task(write(tmp_path, MINIMAL))
    assert (task.name, task.problem_type) == ("topics", "single_label_classification")
    assert (task.text_columns, task.label_column, task.header) == (("body",), "topic", True)
    assert (task.labels, task.metrics) == (None, ("accuracy", "macro_f1"))
    assert task.test_columns == {"test": ("body",)}
    assert task.paths("D", "dev") == [f"D/topics/dev{e}" for e in (".tsv", ".csv", ".jsonl")]


def test_everything_stated(tmp_path):
    fields = {
        "name": "sim-1",
        "problem_type": "regression",
        "text_columns": [3, 1],
        "label_column": 2,
        "score_range": [0, 10],
        "metrics": ["spearman"],
        "unordered": True,
        "files": {"train": "a.tsv", "blind": "/x/b.csv"},
    }
    task = read_task(write(tmp_path, fields))
    assert (task.name, task.problem_type, task.labels) == ("sim-1", "regression", ())
    # Numbers are from 1 in the file, from 0 within.
    assert (task.text_columns, task.label_column, task.header) == ((2, 0), 1, False)
    assert (task.score_range, task.metrics, task.unordered) == ((0.0, 10.0), ("spearman",), True)
    assert task.paths("D", "train") == [str(tmp_path / "a.tsv")]
    assert task.test_columns == {"blind": (2, 0)} and task.paths("D", "blind") == ["/x/b.csv"]


def test_several_labels(tmp_path):
    more = {"problem_type": "multi_label_classification", "labels": ["b", "a"]}
    task = read_task(write(tmp_path, MINIMAL | more | {"label_delimiter": "|"}))
    assert (task.labels, task.label_delimiter) == (("b", "a"), "|")
    assert task.metrics == ("micro_f1", "macro_f1", "exact_match")


def test_identity_is_what_the_files_mean_not_where_they_are(tmp_path):
    task = read_task(write(tmp_path, MINIMAL))
    moved = read_task(write(tmp_path, MINIMAL | {"files": {"train": "x.csv"}}, "other.json"))
    changed = read_task(write(tmp_path, MINIMAL | {"labels": ["a", "b"]}))
    assert task.identity() == moved.identity() != changed.identity()


def test_tasks_by_name():
    assert get_task("rte") is glue.TASKS["rte"]
    assert get_task("squad").architecture == "ConvBertForQuestionAnswering"
    assert get_task("chunk").architecture == "ConvBertForTokenClassification"
    with pytest.raises(InputError, match=r"`squadv2`.*`squadv1`"):
        get_task("squadv2")


def test_other_kinds(tmp_path):
    fields = {"kind": "question_answering", "unanswerable": True, "files": {"blind": "b.json"}}
    task = read_task(write(tmp_path, fields, "mine.json"))
    assert (task.name, task.metrics, task.test_splits) == ("mine", ("exact", "f1"), ("blind",))
    assert task.paths("D", "blind") == [str(tmp_path / "b.json")]
    task = read_task(write(tmp_path, {"kind": "tagging", "tags": "labels"}))
    assert task.metrics == ("accuracy", "macro_f1")
    columns = {"context_column": "c", "choice_columns": ["a", "b"], "label_column": "l"}
    task = read_task(write(tmp_path, {"kind": "multiple_choice"} | columns))
    assert task.choice_columns == ("a", "b")
    with pytest.raises(InputError, match="unknown field `text_columns`"):
        read_task(write(tmp_path, MINIMAL | {"kind": "tagging"}))
    with pytest.raises(InputError, match="`unanswerable` must be true or false"):
        read_task(write(tmp_path, fields | {"unanswerable": 1}))


ERRORS = {
    "no column": ({"text_columns": None, "label_column": "l"}, "`text_columns` must be a column"),
    "unknown field": ({"label_colum": "l"}, r"unknown field `label_colum`\. Did you mean `label_"),
    "unknown kind": ({"problem_type": "ranking"}, "`problem_type` must be one of single_label_"),
    "three texts": ({"text_columns": ["a", "b", "c"]}, "`text_columns` must be .* list of two"),
    "column 0": ({"text_columns": 0}, r"number \(from 1\), or a list of two. Received: 0"),
    "names and numbers": ({"text_columns": 1}, "all of them names, or all numbers"),
    "label is text": ({"label_column": "body"}, "other columns than `label_column` \\('body'\\)"),
    "duplicate label": ({"labels": ["a", "b", "a"]}, r'two or more different .* \["a", "b", "a"\]'),
    "one label": ({"labels": ["a"]}, "`labels` must be a list of two or more"),
    "labels of scores": (
        {"problem_type": "regression", "labels": ["a", "b"]}, "`labels` must be absent for regr"
    ),
    "range of labels": ({"score_range": [0, 1]}, "`score_range` must be absent"),
    "range upside down": (
        {"problem_type": "regression", "score_range": [5, 0]}, "the lowest and the highest score"
    ),
    "delimiter in a label": (
        {"problem_type": "multi_label_classification", "labels": ["a,b", "c"]}, 'without ","'
    ),
    "unknown metric": ({"metrics": ["pearson"]}, "among accuracy, macro_f1, mcc, f1 for single"),
    "GLUE's name": ({"name": "cola"}, "the task's name, cola, is another's"),
    "unknown sort": ({"kind": "parsing"}, "`kind` must be one of"),
    "path as name": ({"name": "../x"}, "`name` must be letters"),
    "order of one text": ({"unordered": True}, "`unordered` must be absent"),
    "files": ({"files": ["train.tsv"]}, "`files` must be an object of file names"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_impossible_field(tmp_path, case):
    fields, message = ERRORS[case]
    path = write(tmp_path, MINIMAL | fields)
    with pytest.raises(InputError, match=message) as error:
        read_task(path)
    assert path in str(error.value)


def test_unreadable_file(tmp_path):
    path = write(tmp_path, {"text_columns": "a"})
    with pytest.raises(InputError, match="`label_column` is missing"):
        read_task(path)
    with pytest.raises(InputError, match="expected a JSON object, got "):
        read_task(write(tmp_path, [1]))
    (tmp_path / "topics.json").write_text('{"name": }')
    with pytest.raises(InputError, match=r"not JSON at line 1, column 10"):
        read_task(path)
    with pytest.raises(InputError, match=r"no such file: nowhere\.json"):
        get_task("nowhere.json")
