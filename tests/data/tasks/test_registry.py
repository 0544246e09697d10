import pytest

from common.errors import InputError
from common.fields import require
from data.tasks import glue
from data.tasks.examples import unexpected
from data.tasks.registry import get_task, read_task
from tests.support.files import write

MINIMAL = {"text_columns": "body", "label_column": "topic"}
MULTI_LABEL = {"problem_type": "multi_label_classification"}
REGRESSION = {"problem_type": "regression"}


def test_defaults(tmp_path):
    task = get_task(write(tmp_path / "topics.json", MINIMAL))
    assert (task.name, task.problem_type) == ("topics", "single_label_classification")
    assert (task.text_columns, task.label_column, task.header) == (("body",), "topic", True)
    assert (task.labels, task.metrics) == (None, ("accuracy", "macro_f1"))
    assert (task.test_splits, task.columns("test")) == (("test",), ("body",))
    assert task.paths("D", "dev") == [f"D/topics/dev{e}" for e in (".tsv", ".csv", ".jsonl")]


def test_all_fields(tmp_path):
    fields = REGRESSION | {
        "name": "sim-1",
        "text_columns": [3, 1],
        "label_column": 2,
        "score_range": [0, 10],
        "metrics": ["spearman"],
        "unordered": True,
        "files": {"train": "a.tsv", "blind": "/x/b.csv"},
    }
    task = read_task(write(tmp_path / "topics.json", fields))
    assert (task.name, task.problem_type, task.labels) == ("sim-1", "regression", ())
    # Columns are numbered from 1 in the file, and from 0 in the task.
    assert (task.text_columns, task.label_column, task.header) == ((2, 0), 1, False)
    assert (task.score_range, task.metrics, task.unordered) == ((0.0, 10.0), ("spearman",), True)
    assert task.paths("D", "train") == [str(tmp_path / "a.tsv")]
    assert (task.test_splits, task.columns("blind")) == (("blind",), (2, 0))
    assert task.paths("D", "blind") == ["/x/b.csv"]


def test_multi_label_fields(tmp_path):
    fields = MINIMAL | MULTI_LABEL | {"labels": ["b", "a"], "label_delimiter": "|"}
    task = read_task(write(tmp_path / "topics.json", fields))
    assert (task.labels, task.label_delimiter) == (("b", "a"), "|")
    assert task.metrics == ("micro_f1", "macro_f1", "exact_match")


def test_labels_may_be_whole_numbers(tmp_path):
    path = write(tmp_path / "topics.json", MINIMAL | {"labels": [1, 0.0, "x"]})
    assert read_task(path).labels == ("1", "0", "x")


@pytest.mark.parametrize("name", ["my task", "tâche"])
def test_a_file_name_that_cannot_be_a_tasks_name(tmp_path, name):
    path = write(tmp_path / f"{name}.json", MINIMAL)
    with pytest.raises(InputError, match=rf"{path}: `name` must be .* the file's name.*{name}"):
        read_task(path)
    path = write(tmp_path / f"{name}.json", MINIMAL | {"name": "x"})
    assert read_task(path).name == "x"


def test_identity_excludes_name_and_locations(tmp_path):
    task = read_task(write(tmp_path / "topics.json", MINIMAL))
    moved = read_task(write(tmp_path / "other.json", MINIMAL | {"files": {"train": "x.csv"}}))
    changed = read_task(write(tmp_path / "topics.json", MINIMAL | {"labels": ["a", "b"]}))
    assert task.identity() == moved.identity() != changed.identity()


def test_tasks_by_name():
    assert get_task("rte") is glue.TASKS["rte"]
    assert get_task("squad").architecture == "ConvBertForQuestionAnswering"
    assert get_task("chunk").architecture == "ConvBertForTokenClassification"
    with pytest.raises(InputError, match=r"`squadv2`.*`squadv1`"):
        get_task("squadv2")


def test_other_kinds(tmp_path):
    fields = {"kind": "question_answering", "unanswerable": True, "files": {"blind": "b.json"}}
    task = read_task(write(tmp_path / "mine.json", fields))
    assert (task.name, task.metrics, task.test_splits) == ("mine", ("exact", "f1"), ("blind",))
    assert task.paths("D", "blind") == [str(tmp_path / "b.json")]
    task = read_task(write(tmp_path / "topics.json", {"kind": "tagging", "tags": "labels"}))
    assert task.metrics == ("accuracy", "macro_f1")
    columns = {"context_column": "c", "choice_columns": ["a", "b"], "label_column": "l"}
    task = read_task(write(tmp_path / "topics.json", {"kind": "multiple_choice"} | columns))
    assert task.choice_columns == ("a", "b")
    with pytest.raises(InputError, match="unknown field `text_columns`"):
        read_task(write(tmp_path / "topics.json", MINIMAL | {"kind": "tagging"}))
    with pytest.raises(InputError, match="`unanswerable` must be true or false"):
        read_task(write(tmp_path / "topics.json", fields | {"unanswerable": 1}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_columns": None}, "`text_columns` .* null"),
        ({"label_colum": "l"}, r"unknown field `label_colum`\. Did you mean `label_column`"),
        ({"problem_type": "ranking"}, "`problem_type` must be one of single_label_"),
        ({"text_columns": ["a", "b", "c"]}, "`text_columns` .* list of two"),
        ({"text_columns": 0}, "`text_columns` .* Received: 0"),
        ({"text_columns": 1}, "`text_columns` .* all names or all numbers"),
        ({"label_column": "body"}, "`text_columns` must be different"),
        ({"labels": ["a", "b", "a"]}, r'`labels` .* different .* \["a", "b", "a"\]'),
        ({"labels": ["a"]}, "`labels` .* two or more"),
        (REGRESSION | {"labels": ["a", "b"]}, "`labels` must be absent for regression"),
        ({"score_range": [0, 1]}, "`score_range` must be absent for single_label"),
        (REGRESSION | {"score_range": [5, 0]}, "`score_range` .* lowest and the highest"),
        (MULTI_LABEL | {"labels": ["a,b", "c"]}, '`labels` .* delimiter ",".*"a,b"'),
        ({"metrics": ["pearson"]}, "`metrics` .* accuracy, macro_f1, mcc, f1 for single"),
        ({"name": "cola"}, '`name` must be different .* "cola"'),
        ({"kind": "parsing"}, "`kind` must be one of"),
        ({"name": "../x"}, "`name` must be letters"),
        ({"labels": [1, "1"]}, "`labels` .* different"),
        ({"unordered": True}, "`unordered` must be absent"),
        ({"files": ["train.tsv"]}, "`files` must be an object"),
    ],
)
def test_impossible_field(tmp_path, fields, message):
    path = write(tmp_path / "topics.json", MINIMAL | fields)
    with pytest.raises(InputError, match=message) as error:
        read_task(path)
    assert path in str(error.value)


def test_values_that_are_nested_too_deeply_to_be_shown():
    value = []
    for _ in range(10_000):
        value = [value]
    assert "nested" in str(unexpected("text", "field", value))
    with pytest.raises(InputError, match=r"`label_column` must be .* nested"):
        require(False, "label_column", "text", value)


def test_unreadable_file(tmp_path):
    with pytest.raises(InputError, match="`label_column` is missing"):
        read_task(write(tmp_path / "topics.json", {"text_columns": "a"}))
    with pytest.raises(InputError, match="JSON object"):
        read_task(write(tmp_path / "topics.json", [1]))
    with pytest.raises(InputError, match="line 1, column 10"):
        read_task(write(tmp_path / "topics.json", '{"name": }'))
    with pytest.raises(InputError, match=r"no such file: nowhere\.json"):
        get_task("nowhere.json")
