import logging
import types

import numpy as np
import pytest

from common.errors import InputError
from data.tasks import glue

ENTAILMENT = "index\tsentence1\tsentence2"
STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
QNLI = "index\tquestion\tsentence"
STS_ROW = STS + "\tscore\n0\tmain\tvid\t2012\t1\tnone\tnone\tA man sings.\tA man eats.\t3.800\n"
MNLI_ROW = "0\t1\t1n\tfiction\t(a)\t(b)\t(c)\t(d)\tIt rained.\tIt was dry."

# For each task: a labeled file, and the texts, pairs and labels it holds.
LABELED = {
    "cola": ("gj04\t1\t\tThe dog.\nks08\t0\t*\tDog the.\n", ["The dog.", "Dog the."], None, [1, 0]),
    "sst": ("sentence\tlabel\na film \t1\nnot so \t0\n", ["a film ", "not so "], None, [1, 0]),
    "mrpc": (MRPC + '1\t7\t8\tHe said " no " .\tNo .\r\n', ['He said " no " .'], ["No ."], [1]),
    "sts": (STS_ROW, ["A man sings."], ["A man eats."], [3.8]),
    "qqp": (QQP + "\n7\t8\t9\tIs it tea?\tCoffee?\t0\n", ["Is it tea?"], ["Coffee?"], [0]),
    "mnli": (
        f"{MNLI}\tlabel1\tgold_label\n{MNLI_ROW}\tneutral\tcontradiction\n",
        *(["It rained."], ["It was dry."], [0]),
    ),
    "qnli": (QNLI + "\tlabel\n0\tWho?\tAnn.\tentailment\n", ["Who?"], ["Ann."], [0]),
    "rte": (ENTAILMENT + "\tlabel\n0\tYes.\tNo.\tnot_entailment\n", ["Yes."], ["No."], [1]),
    "wnli": (ENTAILMENT + "\tlabel\n0\tIt fell.\tA cup.\t1\n", ["It fell."], ["A cup."], [1]),
}

# For each test file: its content, the texts and the pairs.
TESTS = {
    ("cola", "test"): ("index\tsentence\n0\tIt is so.\n", ["It is so."], None),
    ("sst", "test"): ("index\tsentence\n0\tdull .\n", ["dull ."], None),
    ("mrpc", "test"): (
        'index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\t"Say ""no""."\tNo.\n',
        *(['"Say ""no""."'], ["No."]),
    ),
    ("sts", "test"): (STS + "\n0\ta\tb\tc\td\te\tf\tOne.\tTwo.\n", ["One."], ["Two."]),
    ("qqp", "test"): ("id\tquestion1\tquestion2\n0\tWhy?\tHow?\n", ["Why?"], ["How?"]),
    ("mnli", "test_matched"): (MNLI + "\n0\t1\t1\tf\ta\tb\tc\td\tA.\tB.\n", ["A."], ["B."]),
    ("mnli", "test_mismatched"): (MNLI + "\n0\t1\t1\tf\ta\tb\tc\td\tC.\tD.\n", ["C."], ["D."]),
    ("mnli", "diagnostic"): (ENTAILMENT + "\n0\tE.\tF.\n", ["E."], ["F."]),
    ("qnli", "test"): (QNLI + "\n0\tWho?\tAnn.\n", ["Who?"], ["Ann."]),
    ("rte", "test"): (ENTAILMENT + "\n0\tYes.\tNo.\n", ["Yes."], ["No."]),
    ("wnli", "test"): (ENTAILMENT + "\n0\tYes.\tNo.\n", ["Yes."], ["No."]),
}


def write(directory, folder, split, content):
    path = directory / folder / f"{split}.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(name, directory, split="train"):
    return glue.TASKS[name].load(str(directory), split)


def load_tests(name, directory):
    task = glue.TASKS[name]
    return task.load_if_there(str(directory), task.test_splits)


def test_nine_tasks():
    assert {name: " ".join(task.metrics) for name, task in glue.TASKS.items()} == {
        "cola": "mcc",
        "sst": "accuracy",
        "mrpc": "accuracy f1",
        "sts": "pearson spearman",
        "qqp": "accuracy f1",
        "mnli": "accuracy",
        "qnli": "accuracy",
        "rte": "accuracy",
        "wnli": "accuracy",
    }
    assert " ".join(glue.TASKS) == "cola sst mrpc sts qqp mnli qnli rte wnli"
    assert {name for name, task in glue.TASKS.items() if task.unordered} == {"mrpc", "sts"}
    widths = {name: task.model_fields()["num_labels"] for name, task in glue.TASKS.items()}
    assert widths == dict.fromkeys(glue.TASKS, 2) | {"sts": 1, "mnli": 3}
    assert {(n, s) for n, task in glue.TASKS.items() for s in task.test_splits} == set(TESTS)


@pytest.mark.parametrize("name", LABELED)
@pytest.mark.parametrize("glue_folder", [False, True])
def test_reads_labeled_files(tmp_path, name, glue_folder):
    task = glue.TASKS[name]
    content, texts, pairs, labels = LABELED[name]
    folder = task.glue_name if glue_folder else name
    for split, file in (("train", "train"), ("dev", task.dev_file)):
        write(tmp_path, folder, file, content)
        examples = load(name, tmp_path, split)
        assert (examples.texts, examples.text_pairs) == (texts, pairs)
        np.testing.assert_array_equal(examples.labels, np.array(labels, examples.labels.dtype))
        assert examples.labels.dtype == (np.float64 if name == "sts" else np.int32)


@pytest.mark.parametrize(("name", "split"), TESTS)
def test_reads_test_files(tmp_path, name, split):
    content, texts, pairs = TESTS[name, split]
    write(tmp_path, name, split, content)
    examples = load_tests(name, tmp_path)[split]
    assert (examples.texts, examples.text_pairs, examples.labels) == (texts, pairs, None)


def test_dev_labels_of_mnli_are_in_the_last_column(tmp_path):
    header = MNLI + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    write(tmp_path, "MNLI", "dev_matched", header + MNLI_ROW + "\tneutral" * 5 + "\tentailment\n")
    assert load("mnli", tmp_path, "dev").labels.tolist() == [1]


def test_mismatched_dev_set_of_mnli(tmp_path, caplog):
    task = glue.TASKS["mnli"]
    assert task.more_dev_splits == ("dev_mismatched",) and glue.TASKS["rte"].more_dev_splits == ()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert task.load_if_there(str(tmp_path), task.more_dev_splits) == {}
    assert f"no scores on dev_mismatched: {tmp_path}" in caplog.text
    write(tmp_path, "MNLI", "dev_mismatched", LABELED["mnli"][0])
    (examples,) = task.load_if_there(str(tmp_path), task.more_dev_splits).values()
    assert (examples.texts, examples.text_pairs) == LABELED["mnli"][1:3]


def test_diagnostic_file_may_have_its_own_folder(tmp_path):
    write(tmp_path, "diagnostic", "diagnostic", TESTS["mnli", "diagnostic"][0])
    assert list(load_tests("mnli", tmp_path)) == ["diagnostic"]


def test_a_warning_names_the_missing_test_file(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert load_tests("cola", tmp_path) == {}
    assert str(tmp_path / "cola" / "test.tsv") in caplog.text


def test_only_a_line_feed_ends_a_row(tmp_path):
    write(tmp_path, "cola", "train", "a\t1\t\tone\u2028 still \x0bone\x85\na\t0\t\ttwo\n\n")
    assert load("cola", tmp_path).texts == ["one\u2028 still \x0bone\x85", "two"]


def test_pairs_in_both_orders(tmp_path):
    write(tmp_path, "mrpc", "train", MRPC + "1\t1\t2\ta\tb\n0\t3\t4\tc\td\n")
    examples = load("mrpc", tmp_path)
    options = types.SimpleNamespace(double_unordered=True)
    doubled = glue.TASKS["mrpc"].training_examples(examples, options)
    assert (doubled.texts, doubled.text_pairs) == (["a", "c", "b", "d"], ["b", "d", "a", "c"])
    assert doubled.labels.tolist() == [1, 0, 1, 0] and len(doubled) == 4
    options.double_unordered = False
    assert glue.TASKS["mrpc"].training_examples(examples, options) is examples


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cola", "a\t1\t\tyes\na\t1\n", "line 2: expected 4 columns .* got 2"),
        ("sts", STS + "\tscore\n0\tA\tB\t3.8\n", "line 2: expected 10 columns .* got 4"),
        ("cola", "a\t2\t\tyes\n", 'line 1: .* labels 0, 1 in column 2, got "2"'),
        (
            "rte",
            ENTAILMENT + "\tlabel\n0\tA\tB\tneutral\n",
            'line 2: .* labels entailment, not_entailment in column 4, got "neutral"',
        ),
        ("sts", STS_ROW.replace("3.800", "5.1"), 'line 2: .* 0 to 5 in column 10, got "5.1"'),
        ("sts", STS_ROW.replace("3.800", "nan"), 'a score .* "nan"'),
        ("wnli", ENTAILMENT + "\tlabel\n0\tA\t \t1\n", "line 2: expected text in column 3"),
        ("cola", "a\t1\t\tyes\n\na\t1\t\tno\n", "line 2: .* got 1"),
        ("sst", "a fine film\t1\n", 'line 1: expected a header.*"1"'),
        ("qqp", "sentence\tlabel\nfine\t1\n", "line 1: .* got 2 columns"),
        ("cola", "a\tlabel\tb\tc\n", 'line 1: .*"label"'),
        ("rte", "", "no examples"),
        ("rte", ENTAILMENT + "\tlabel\n", "no examples"),
        ("cola", b"a\t1\t\tyes\na\t1\t\tcaf\xe9\n", "line 2: expected UTF-8"),
    ],
)
def test_unusable_training_file(tmp_path, name, content, message):
    write(tmp_path, name, "train", content)
    with pytest.raises(InputError, match=rf"{name}/train\.tsv.*{message}"):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tsentence\n0\tfine\n1\n", "line 3: expected 2 columns .* got 1"),
        ("index\tsentence\n0\t\n", "line 2: expected text in column 2"),
        ("0\tfine\n", r'line 1: expected a header.*\("0"\)'),
    ],
)
def test_unusable_test_file(tmp_path, content, message):
    write(tmp_path, "sst", "test", content)
    with pytest.raises(InputError, match=rf"test\.tsv, {message}"):
        load_tests("sst", tmp_path)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_missing_file_names_both_folders(tmp_path, split):
    with pytest.raises(InputError, match=rf"{tmp_path}/sst/{split}\.tsv or .*SST-2/{split}\.tsv"):
        load("sst", tmp_path, split)


@pytest.mark.parametrize("name", ["squadv1", "chunk", "SST-2"])
def test_unknown_task_lists_the_tasks(name):
    with pytest.raises(InputError, match="cola, sst, mrpc, sts, qqp, mnli, qnli, rte, wnli"):
        glue.get_task(name)


def test_damaged_rows_of_qqp_are_left_out_with_a_warning(tmp_path, caplog):
    rows = [f"{i}\t1\t2\tWhat is {i}?\tWhat was {i}?\t0" for i in range(2100)]
    rows[5:6] = ["5\t1\t2\tWhat is", 'five?"\tWhat was 5?\t0']  # a line break within the question
    write(tmp_path, "qqp", "train", "\n".join([QQP, *rows]) + "\n")
    with caplog.at_level(logging.WARNING, logger="absl"):
        examples = load("qqp", tmp_path)
    assert len(examples) == 2099 and "What is 5?" not in examples.texts
    assert "left out 2 unusable rows" in caplog.text
    assert "line 7: expected 6 columns" in caplog.text

    rows[20] = "20\t1\t2\t\tWhat was 20?\t0"
    write(tmp_path, "qqp", "train", "\n".join([QQP, *rows]) + "\n")
    with pytest.raises(InputError, match=r"train\.tsv, line 7: expected 6 columns"):
        load("qqp", tmp_path)
