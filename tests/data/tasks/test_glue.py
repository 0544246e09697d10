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

# For each task: a labeled file, and the texts, pairs and labels it holds.
LABELLED = {
    "cola": (
        "gj04\t1\t\tThe dog barked.\nks08\t0\t*\tDog the barked.\n",
        ["The dog barked.", "Dog the barked."],
        None,
        [1, 0],
    ),
    "sst": (
        "sentence\tlabel\na fine film \t1\nnot so fine \t0\n",
        ["a fine film ", "not so fine "],
        None,
        [1, 0],
    ),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t70\t71\tHe said " no " .\tNo .\r\n',
        ['He said " no " .'],
        ["No ."],
        [1],
    ),
    "sts": (
        STS + "\tscore\n0\tmain\tvid\t2012\t1\tnone\tnone\tA man sings.\tA man eats.\t3.800\n",
        ["A man sings."],
        ["A man eats."],
        [3.8],
    ),
    "qqp": (
        QQP + "\n7\t8\t9\tWhat is tea?\tWhat is coffee?\t0\n",
        ["What is tea?"],
        ["What is coffee?"],
        [0],
    ),
    "mnli": (
        MNLI + "\tlabel1\tgold_label\n"
        "0\t1\t1n\tfiction\t(a)\t(b)\t(c)\t(d)\tIt rained.\tIt was dry.\tneutral\tcontradiction\n",
        ["It rained."],
        ["It was dry."],
        [0],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tWho won?\tAnn won.\tentailment\n",
        ["Who won?"],
        ["Ann won."],
        [0],
    ),
    "rte": (
        ENTAILMENT + "\tlabel\n0\tAnn won.\tAnn lost.\tnot_entailment\n",
        ["Ann won."],
        ["Ann lost."],
        [1],
    ),
    "wnli": (
        ENTAILMENT + "\tlabel\n0\tIt fell on it.\tThe cup fell.\t1\n",
        ["It fell on it."],
        ["The cup fell."],
        [1],
    ),
}

# For each test file: its content, the texts and the pairs.
TESTS = {
    ("cola", "test"): ("index\tsentence\n0\tIt is so.\n", ["It is so."], None),
    ("sst", "test"): ("index\tsentence\n0\tdull .\n", ["dull ."], None),
    ("mrpc", "test"): (
        'index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\t"Say ""no""."\tNo.\n',
        ['"Say ""no""."'],
        ["No."],
    ),
    ("sts", "test"): (STS + "\n0\ta\tb\tc\td\te\tf\tOne.\tTwo.\n", ["One."], ["Two."]),
    ("qqp", "test"): ("id\tquestion1\tquestion2\n0\tWhy?\tHow?\n", ["Why?"], ["How?"]),
    ("mnli", "test_matched"): (MNLI + "\n0\t1\t1\tf\ta\tb\tc\td\tA.\tB.\n", ["A."], ["B."]),
    ("mnli", "test_mismatched"): (MNLI + "\n0\t1\t1\tf\ta\tb\tc\td\tC.\tD.\n", ["C."], ["D."]),
    ("mnli", "diagnostic"): (ENTAILMENT + "\n0\tE.\tF.\n", ["E."], ["F."]),
    ("qnli", "test"): ("index\tquestion\tsentence\n0\tWho?\tAnn.\n", ["Who?"], ["Ann."]),
    ("rte", "test"): (ENTAILMENT + "\n0\tYes.\tNo.\n", ["Yes."], ["No."]),
    ("wnli", "test"): (ENTAILMENT + "\n0\tYes.\tNo.\n", ["Yes."], ["No."]),
}


def write(directory, folder, split, content):
    path = directory / folder / f"{split}.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode())
    return path


def load_tests(task, directory):
    return task.load_if_there(str(directory), task.test_splits)


def test_nine_tasks():
    assert " ".join(glue.TASKS) == "cola sst mrpc sts qqp mnli qnli rte wnli"
    assert {task.name: task.metrics for task in glue.TASKS.values()} == {
        "cola": ("mcc",),
        "sst": ("accuracy",),
        "mrpc": ("accuracy", "f1"),
        "sts": ("pearson", "spearman"),
        "qqp": ("accuracy", "f1"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }
    assert {name for name, task in glue.TASKS.items() if task.unordered} == {"mrpc", "sts"}
    widths = {name: task.model_fields()["num_labels"] for name, task in glue.TASKS.items()}
    assert widths == dict.fromkeys(glue.TASKS, 2) | {"sts": 1, "mnli": 3}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("glue_folder", [False, True])
def test_reads_labeled_files(tmp_path, name, glue_folder):
    task = glue.TASKS[name]
    content, texts, pairs, labels = LABELLED[name]
    folder = task.glue_name if glue_folder else name
    write(tmp_path, folder, "train", content)
    write(tmp_path, folder, task.dev_files["dev"], content)
    for split in ("train", "dev"):
        examples = task.load(str(tmp_path), split)
        assert (examples.texts, examples.text_pairs) == (texts, pairs)
        np.testing.assert_array_equal(examples.labels, np.array(labels, examples.labels.dtype))
        assert examples.labels.dtype == (np.float64 if name == "sts" else np.int32)


@pytest.mark.parametrize(("name", "split"), TESTS)
def test_reads_test_files(tmp_path, name, split):
    content, texts, pairs = TESTS[name, split]
    write(tmp_path, name, split, content)
    examples = load_tests(glue.TASKS[name], tmp_path)[split]
    assert (examples.texts, examples.text_pairs, examples.labels) == (texts, pairs, None)


def test_every_test_file_is_covered():
    assert {(n, s) for n, task in glue.TASKS.items() for s in task.test_splits} == set(TESTS)


def test_dev_labels_of_mnli_are_in_the_last_column(tmp_path):
    votes = "\tneutral\tneutral\tneutral\tneutral\tneutral"
    header = MNLI + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    row = "0\t1\t1\tf\ta\tb\tc\td\tA.\tB." + votes + "\tentailment\n"
    write(tmp_path, "MNLI", "dev_matched", header + row)
    assert glue.TASKS["mnli"].load(str(tmp_path), "dev").labels.tolist() == [1]


def test_mismatched_dev_set_of_mnli(tmp_path, caplog):
    task = glue.TASKS["mnli"]
    assert task.more_dev_splits == ("dev_mismatched",) and glue.TASKS["rte"].more_dev_splits == ()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert task.load_if_there(str(tmp_path), task.more_dev_splits) == {}
    assert f"no scores on dev_mismatched: {tmp_path}" in caplog.text
    write(tmp_path, "MNLI", "dev_mismatched", LABELLED["mnli"][0])
    (examples,) = task.load_if_there(str(tmp_path), task.more_dev_splits).values()
    assert (examples.texts, examples.text_pairs) == LABELLED["mnli"][1:3]


def test_diagnostic_file_may_have_its_own_folder(tmp_path):
    write(tmp_path, "diagnostic", "diagnostic", TESTS["mnli", "diagnostic"][0])
    assert list(load_tests(glue.TASKS["mnli"], tmp_path)) == ["diagnostic"]


def test_missing_test_file_is_a_warning_that_names_it(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert load_tests(glue.TASKS["cola"], tmp_path) == {}
    assert str(tmp_path / "cola" / "test.tsv") in caplog.text


def test_only_a_line_feed_ends_a_row(tmp_path):
    write(tmp_path, "cola", "train", "a\t1\t\tone\u2028 still \x0bone\x85\na\t0\t\ttwo\n\n")
    examples = glue.TASKS["cola"].load(str(tmp_path), "train")
    assert examples.texts == ["one\u2028 still \x0bone\x85", "two"]


def test_swapped_pairs(tmp_path):
    rows = "1\t1\t2\ta\tb\n0\t3\t4\tc\td\n"
    write(tmp_path, "mrpc", "train", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + rows)
    examples = glue.TASKS["mrpc"].load(str(tmp_path), "train")
    doubled = glue.TASKS["mrpc"].training_examples(
        examples, types.SimpleNamespace(double_unordered=True)
    )
    assert doubled.texts == ["a", "c", "b", "d"]
    assert doubled.text_pairs == ["b", "d", "a", "c"]
    assert doubled.labels.tolist() == [1, 0, 1, 0]
    assert len(doubled) == 4


ERRORS = {
    "too few columns": ("cola", "a\t1\t\tyes\na\t1\n", "line 2: expected 4 columns", "got 2"),
    "fewer than the header": (
        "sts",
        STS + "\tscore\n0\tA man sings.\tA man eats.\t3.8\n",
        "line 2: expected 10 columns",
        "got 4",
    ),
    "unknown label": ("cola", "a\t2\t\tyes\n", "line 1: expected one of the labels 0, 1", '"2"'),
    "label of another task": (
        "rte",
        ENTAILMENT + "\tlabel\n0\tA\tB\tneutral\n",
        "line 2: expected one of the labels entailment, not_entailment in column 4",
        '"neutral"',
    ),
    "score too high": (
        "sts",
        LABELLED["sts"][0].replace("3.800", "5.1"),
        "line 2: expected a score from 0 to 5 in column 10",
        '"5.1"',
    ),
    "score not a number": ("sts", LABELLED["sts"][0].replace("3.800", "nan"), "a score", '"nan"'),
    "empty text": ("wnli", ENTAILMENT + "\tlabel\n0\tA\t \t1\n", "line 2", "text in column 3"),
    "blank line": ("cola", "a\t1\t\tyes\n\na\t1\t\tno\n", "line 2", "got 1"),
    "no header": ("sst", "a fine film\t1\n", "line 1: expected a header", '"1"'),
    "header of another task": ("qqp", "sentence\tlabel\nfine\t1\n", "line 1", "got 2 columns"),
    "header where none belongs": ("cola", "a\tlabel\tb\tc\n", "line 1", '"label"'),
    "empty file": ("rte", "", "no examples", "train.tsv"),
    "header only": ("rte", ENTAILMENT + "\tlabel\n", "no examples", "train.tsv"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_unusable_training_file(tmp_path, case):
    name, content, *expected = ERRORS[case]
    path = write(tmp_path, name, "train", content)
    with pytest.raises(InputError) as error:
        glue.TASKS[name].load(str(tmp_path), "train")
    for text in (str(path), *expected):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("index\tsentence\n0\tfine\n1\n", "line 3: expected 2 columns separated by tabs, got 1"),
        ("index\tsentence\n0\t\n", "line 2: expected text in column 2, got none"),
        ("0\tfine\n", 'line 1: expected a header, got a row of data ("0")'),
    ],
)
def test_unusable_test_file(tmp_path, content, expected):
    write(tmp_path, "sst", "test", content)
    with pytest.raises(InputError, match=r"test\.tsv") as error:
        load_tests(glue.TASKS["sst"], tmp_path)
    assert expected in str(error.value)


def test_other_encoding_names_the_line(tmp_path):
    path = tmp_path / "cola" / "dev.tsv"
    path.parent.mkdir()
    path.write_bytes(b"a\t1\t\tyes\na\t1\t\tcaf\xe9\n")
    with pytest.raises(InputError, match=r"dev\.tsv, line 2: expected UTF-8"):
        glue.TASKS["cola"].load(str(tmp_path), "dev")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_missing_file_names_both_folders(tmp_path, split):
    with pytest.raises(InputError) as error:
        glue.TASKS["sst"].load(str(tmp_path), split)
    assert str(tmp_path / "sst" / f"{split}.tsv") in str(error.value)
    assert str(tmp_path / "SST-2" / f"{split}.tsv") in str(error.value)


@pytest.mark.parametrize("name", ["squadv1", "squad", "newsqa", "naturalqs", "chunk", "SST-2"])
def test_unknown_task_lists_the_tasks(name):
    with pytest.raises(InputError, match="cola, sst, mrpc, sts, qqp, mnli, qnli, rte, wnli"):
        glue.get_task(name)


def test_known_damage_of_qqp_is_left_out_and_told(tmp_path, caplog):
    rows = [f"{i}\t1\t2\tWhat is {i}?\tWhat was {i}?\t0" for i in range(2100)]
    rows[5:6] = ["5\t1\t2\tWhat is", 'five?"\tWhat was 5?\t0']  # a line break within the question
    write(tmp_path, "qqp", "train", "\n".join([QQP, *rows]) + "\n")
    with caplog.at_level(logging.WARNING, logger="absl"):
        examples = glue.TASKS["qqp"].load(str(tmp_path), "train")
    assert len(examples) == 2099
    assert "What is 5?" not in examples.texts
    assert "left out 2 unusable rows" in caplog.text
    assert "line 7: expected 6 columns" in caplog.text

    rows[20] = "20\t1\t2\t\tWhat was 20?\t0"
    write(tmp_path, "qqp", "train", "\n".join([QQP, *rows]) + "\n")
    with pytest.raises(InputError, match="line 7: expected 6 columns"):
        glue.TASKS["qqp"].load(str(tmp_path), "train")
