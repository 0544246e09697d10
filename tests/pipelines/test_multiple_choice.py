import numpy as np
import pytest

from common.errors import InputError
from model import ConvBertForMultipleChoice
from pipelines import MultipleChoice
from scripts import predict
from tests.support.files import as_lines
from tests.support.random_models import (
    finetune_at_random,
    from_lines,
    rows_of,
    run_with,
    save,
    softmax,
)

pytestmark = pytest.mark.usefixtures("eager")
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


NAMES = ("text", "stem", "one", "two", "three", "right")
TEST = as_lines(dict(zip(NAMES, row, strict=False)) for row in ROWS)
TRAIN = as_lines(dict(zip(NAMES, [*row, "B"], strict=True)) for row in ROWS[:2])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    files = {"train.jsonl": TRAIN, "test.jsonl": TEST}
    return finetune_at_random(tmp_path_factory.mktemp("choice"), FIELDS, files, max_seq_length=13)


@pytest.fixture(scope="module")
def chooser(tuned):
    return MultipleChoice.from_pretrained(tuned[0])


def test_choices_are_those_that_fine_tuning_wrote(tuned, chooser, tmp_path, monkeypatch, capsys):
    directory, path = tuned
    written = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    logits = np.array([[float(number) for number in row[2].split()] for row in written])
    shares = softmax(logits)
    contexts = [row[0] for row in ROWS]
    choices = [[f"{row[1]} {choice}" for choice in row[2:]] for row in ROWS]
    found = chooser.predict(contexts, choices, batch_size=4)
    assert found.answers == [row[1] for row in written]
    assert len(set(found.answers)) > 1
    np.testing.assert_allclose(found.probabilities, shares, atol=1e-5)
    pairs = [(c, d) for c, row in zip(contexts, choices, strict=True) for d in row]
    lengths = [3 + len(c.split()) + len(d.split()) for c, d in pairs]
    assert found.num_cut == sum(length > 13 for length in lengths) > 0

    (tmp_path / "t.jsonl").write_text(TEST)
    arguments = ["--input", tmp_path / "t.jsonl", "--stem-column", "stem"]
    run = run_with(chooser, predict, directory, monkeypatch, capsys)
    objects = from_lines(run(*arguments, "--columns", "text", "one", "two", "three"))
    assert [[str(row["index"]), row["choice"]] for row in objects] == [row[:2] for row in written]
    np.testing.assert_allclose([row["probabilities"] for row in objects], shares, atol=1e-5)


def test_a_model_of_transformers_reads_the_last_token(tmp_path):
    model = save(tmp_path, ConvBertForMultipleChoice, summary_type="last", num_hidden_layers=1)
    scores = []
    for ids in rows_of("a b [SEP] c", "a b [SEP] d e"):
        segments = (np.arange(ids.size) >= 4).astype(np.int32)[None]
        inputs = {"input_ids": ids[None], "segment_ids": segments[None]}
        scores.append(float(np.asarray(model(inputs))[0, 0]))
    found = MultipleChoice.from_pretrained(tmp_path).predict(["a b"], [["c", "d e"]])
    assert found.answers == [np.argmax(scores)]  # the choices have no names
    np.testing.assert_allclose(found.probabilities, [softmax(scores)], atol=1e-5)


def test_other_numbers_of_choices(chooser):
    with pytest.raises(InputError, match=r"choices\[1\]: expected 3 .* A, B, C; got 2"):
        chooser.predict(["a", "b"], [["a", "b", "c"], ["a", "b"]])
