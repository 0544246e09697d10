import csv
import types

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.batching import evaluation_batches
from data.tasks.multiple_choice.task import MultipleChoiceTask, task_from_fields
from data.tokenizer.tokenizer import ConvBertTokenizer
from tests.support.files import as_lines, write

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
CLS, SEP, A, B, C, D, E, F = 2, 3, 5, 6, 7, 8, 9, 10
SWAG = {
    "context_column": "sent1",
    "stem_column": "sent2",
    "choice_columns": ["ending0", "ending1", "ending2", "ending3"],
    "label_column": "label",
}
LISTS = {"context_column": "question", "choice_columns": "choices", "label_column": "answer"}
ROWS = [["A man", "He", 'says "hi", twice', "b", "c", "d", 2], ["X", "Y", "e", "f", "g", "h", "0"]]


def load_swag(rows, folder, split="dev"):
    """Loads a file in SWAG's layout with these rows: sent1, sent2, four endings, label."""
    header = ["", "video-id", "sent1", "sent2", *SWAG["choice_columns"], "label"]
    table = [header[: len(rows[0]) + 2], *([i, f"v{i}", *row] for i, row in enumerate(rows))]
    (folder / "swag").mkdir(exist_ok=True)
    with open(folder / "swag" / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return task_from_fields("swag.json", SWAG).load(str(folder), split)


def load_quiz(records, folder, **fields):
    """The task, and its dev examples from a file of JSON lines."""
    write(folder / "quiz" / "dev.jsonl", as_lines(records))
    task = task_from_fields("quiz.json", LISTS | fields)
    return task, task.load(str(folder), "dev")


def test_swag_files(tmp_path):
    examples = load_swag(ROWS, tmp_path)
    assert examples.contexts == ["A man", "X"]
    assert examples.choices[0] == ['He says "hi", twice', "He b", "He c", "He d"]
    assert examples.labels.tolist() == [2, 0] and examples.labels.dtype == np.int32
    assert (len(examples), examples.num_choices) == (2, 4)
    assert examples.num_characters == 4 * (5 + 1) + 19 + 3 * 4 + 4 * 3


def test_a_test_file_needs_no_labels(tmp_path):
    unlabeled = [row[:-1] for row in ROWS]
    examples = load_swag(unlabeled, tmp_path, "test")
    assert examples.labels is None and len(examples) == 2
    with pytest.raises(InputError, match=r'dev\.csv, line 1: .* column "label"'):
        load_swag(unlabeled, tmp_path)


def test_lists_of_choices(tmp_path):
    records = [
        {"question": "a?", "choices": ["b", "c", "d"], "answer": "C"},
        {"question": "b?", "choices": ["d", "e", "f"], "answer": "A"},
    ]
    _, examples = load_quiz(records, tmp_path, labels=["A", "B", "C"])
    assert examples.choices == [["b", "c", "d"], ["d", "e", "f"]]
    assert examples.labels.tolist() == [2, 0]


def test_columns_by_number(tmp_path):
    write(tmp_path / "t" / "dev.tsv", "1\ta\tb\tc\n0\td\te\tf\n")
    fields = {"context_column": 2, "choice_columns": [3, 4], "label_column": 1}
    examples = task_from_fields("t.json", fields).load(str(tmp_path), "dev")
    assert examples.contexts == ["a", "d"] and examples.choices == [["b", "c"], ["e", "f"]]
    assert examples.labels.tolist() == [1, 0]


def test_features(tmp_path):
    records = [
        {"question": "a b", "choices": ["c", "d e f"], "answer": 1},
        {"question": "b", "choices": ["a", "c"], "answer": 0},
    ]
    task, examples = load_quiz(records, tmp_path)
    options = types.SimpleNamespace(max_seq_length=7)
    features = task.make_features(ConvBertTokenizer(VOCAB), examples, options, training=True)
    assert (len(features), features.rows_per_example) == (2, 2)
    assert features.targets.tolist() == [1, 0]
    (batch,), order = evaluation_batches(features, 2)
    assert order.tolist() == [1, 0]
    inputs = {name: np.asarray(value) for name, value in batch[0].items()}
    assert inputs["input_ids"].tolist() == [
        [[CLS, B, SEP, A, SEP, 0, 0], [CLS, B, SEP, C, SEP, 0, 0]],
        # The longer text is cut; of equally long ones, such as "a b" and "d e", the second.
        [[CLS, A, B, SEP, C, SEP, 0], [CLS, A, B, SEP, D, E, SEP]],
    ]
    assert inputs["segment_ids"][1, 1].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert inputs["input_mask"].sum(axis=-1).tolist() == [[5, 5], [6, 7]]
    assert np.asarray(batch[1]).tolist() == [0, 1]


def test_score_and_predictions(tmp_path):
    records = [{"question": "a", "choices": ["b", "c"], "answer": answer} for answer in "yny"]
    task, examples = load_quiz(records, tmp_path, labels=["y", "n"])
    logits = np.array([[1, 0.5], [2, -1], [0, -0.25]], np.float32)
    assert task.score(examples, None, logits) == pytest.approx({"accuracy": 200 / 3})
    path = tmp_path / "out.tsv"
    task.write_predictions(examples, None, logits, str(path))
    assert path.read_text() == (
        "index\tprediction\tlogits\n"
        "0\ty\t1.000000 0.500000\n1\ty\t2.000000 -1.000000\n2\ty\t0.000000 -0.250000\n"
    )
    # Choices without names are numbered from 0.
    logits = np.eye(4, dtype=np.float32)[[3]]
    task_from_fields("swag.json", SWAG).write_predictions(None, None, logits, str(path))
    assert path.read_text().splitlines()[1].startswith("0\t3\t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b", "c"]}, "expected 2 choices .* got 3"),
        ({"choices": ["a"]}, r'list of two or more choices in field "choices", got \["a'),
        ({"choices": "a b"}, r'list of two or more choices in field "choices", got "a b"'),
        ({"choices": ["a", " "]}, 'text in choice 1 of field "choices", got none'),
        ({"choices": ["a", 5]}, 'text in choice 1 of field "choices", got 5'),
        ({"question": ""}, 'text in field "question", got none'),
        ({"answer": 2}, '0, 1 in field "answer", got 2'),
        ({"answer": -1}, '0, 1 in field "answer", got -1'),
        ({"answer": True}, '0, 1 in field "answer", got true'),
        ({"answer": None}, '0, 1 in field "answer", got null'),
    ],
)
def test_errors_have_file_and_line(change, message, tmp_path):
    good = {"question": "a", "choices": ["b", "c"], "answer": 1}
    with pytest.raises(InputError, match=rf"dev\.jsonl, line 2: .*{message}"):
        load_quiz([good, good | change], tmp_path)
    with pytest.raises(InputError, match=r"dev\.jsonl, line 1: expected 3 choices, a, b, c, got 2"):
        load_quiz([good], tmp_path, labels=["a", "b", "c"])


def test_errors_of_csv_files(tmp_path):
    with pytest.raises(InputError, match=r'dev\.csv, line 3: expected text in column "ending2"'):
        load_swag([ROWS[0], [*ROWS[0][:4], " ", "d", 1]], tmp_path)
    with pytest.raises(InputError, match=r'line 3: expected one of 0, 1, 2, 3 in column .*got "4"'):
        load_swag([ROWS[0], [*ROWS[0][:6], 4]], tmp_path)


def test_fields_of_a_json_file():
    task = task_from_fields("my.json", LISTS)
    assert isinstance(task, MultipleChoiceTask)
    assert task.architecture == "ConvBertForMultipleChoice"
    assert (task.name, task.metrics, task.model_fields()) == ("my", ("accuracy",), {})
    assert (task.context_column, task.choice_columns) == ("question", ("choices",))
    assert task.paths("D", "dev") == [f"D/my/dev{ending}" for ending in (".tsv", ".csv", ".jsonl")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_column": "a", "label_column": "b"}, "`choice_columns` is missing"),
        (SWAG | {"choice_columns": ["a"]}, "`choice_columns` must be a list of two or more"),
        (SWAG | {"choice_columns": 3}, "`choice_columns` .* Received: 3"),
        (SWAG | {"stem_column": "sent1"}, "`choice_columns` must be different"),
        (SWAG | {"label_column": 1}, "`choice_columns` .* all names or all numbers"),
        (SWAG | {"labels": ["A", "B"]}, "`labels` must be a list of 4"),
    ],
)
def test_field_errors(fields, message):
    with pytest.raises(InputError, match=message):
        task_from_fields("t.json", fields)
