"""GLUE's table and files. What labeled files and test files hold: see test_original_ids.py."""

import types

import pytest

from common.errors import InputError
from data.tasks import glue
from tests.support.files import write

ENTAILMENT = "index\tsentence1\tsentence2"
STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
SNLI = (
    "index\tcaptionID\tpairID\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label"
)
MNLI = SNLI.replace("captionID", "promptID").replace("pairID", "pairID\tgenre")
STS_ROW = STS + "\tscore\n0\tmain\tvid\t2012\t1\tnone\tnone\tA man sings.\tA man eats.\t3.800\n"


def mnli(*labels):
    return "".join(f"{line}\n" for line in [MNLI, *("0" + "\tn/a" * 10 + f"\t{x}" for x in labels)])


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
    tests = {name: task.test_splits for name, task in glue.TASKS.items()}
    of_mnli = ("test_matched", "test_mismatched", "diagnostic")
    assert tests == dict.fromkeys(glue.TASKS, ("test",)) | {"mnli": of_mnli}
    more = {name: task.more_dev_splits for name, task in glue.TASKS.items()}
    assert more == dict.fromkeys(glue.TASKS, ()) | {"mnli": ("dev_mismatched",)}


@pytest.mark.parametrize("name", glue.TASKS)
def test_files_may_be_in_glues_folder_or_the_originals(tmp_path, name):
    task = glue.TASKS[name]
    for folder in (task.glue_name, name):  # the original's is looked at first
        path = write(tmp_path / folder / f"{task.dev_file}.tsv", "")
        assert task.find_file(str(tmp_path), "dev") == path


def test_mismatched_dev_set_of_mnli_may_be_missing(tmp_path, caplog):
    task = glue.TASKS["mnli"]
    assert task.load_if_there(str(tmp_path), task.more_dev_splits) == {}
    assert f"no scores on dev_mismatched: {tmp_path}" in caplog.text


def test_diagnostic_file_may_have_its_own_folder(tmp_path):
    write(tmp_path / "diagnostic/diagnostic.tsv", ENTAILMENT + "\n0\tE.\tF.\n")
    assert list(load_tests("mnli", tmp_path)) == ["diagnostic"]


def test_only_a_line_feed_ends_a_row(tmp_path):
    write(tmp_path / "cola/train.tsv", "a\t1\t\tone\u2028 still \x0bone\x85\na\t0\t\ttwo\n\n")
    assert load("cola", tmp_path).texts == ["one\u2028 still \x0bone\x85", "two"]


def test_pairs_are_doubled_only_on_request(tmp_path):
    write(tmp_path / "mrpc/train.tsv", MRPC + "1\t1\t2\ta\tb\n0\t3\t4\tc\td\n")
    examples = load("mrpc", tmp_path)
    options = types.SimpleNamespace(double_unordered=False)
    assert glue.TASKS["mrpc"].training_examples(examples, options) is examples


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cola", "a\t2\t\tyes\n", 'line 1: .* labels 0, 1 in column 2, got "2"'),
        ("sts", STS_ROW.replace("3.800", "5.1"), 'line 2: .* 0 to 5 in column 10, got "5.1"'),
        ("sts", STS_ROW.replace("3.800", "nan"), 'a score .* "nan"'),
        ("cola", "a\t1\t\tyes\na\na\t1\t\tno\n", "line 2: expected 4 columns .* got 1"),
        ("sst", "a fine film\t1\n", 'line 1: expected a header with "sentence" .* column 1'),
        ("sts", STS_ROW.replace("3.800", "1_0"), 'a score .* "1_0"'),
        ("mnli", mnli("neutral", "-", "-"), 'line 3: 2 rows .* "-"'),
        ("mnli", mnli("contradictory"), "labels contradiction, entailment, neutral .* column 12"),
        ("qqp", "sentence\tlabel\nfine\t1\n", "line 1: .* got 2 columns"),
        ("cola", "sentence\tlabel\tidx\n", "line 1: expected no header, .* got sentence, label"),
    ],
)
def test_unusable_training_file(tmp_path, name, content, message):
    write(tmp_path / name / "train.tsv", content)
    with pytest.raises(InputError, match=rf"{name}/train\.tsv.*{message}"):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "header", "found"),
    [
        ("sst", "test", "0\tfine", '"sentence" in column 2, got "fine"'),
        ("rte", "test", "index\tsentence2\tsentence1", '"sentence1" in column 2, got "sentence2"'),
        ("rte", "train", "sentence1\tsentence2\tlabel\tidx", "column 2"),  # Hugging Face's
        ("qnli", "dev", "index\tsentence\tquestion\tlabel", '"question" in column 2'),
        ("mrpc", "train", "Quality\t#1 ID\t#2 ID\t#2 String\t#1 String", "column 4"),
        ("sts", "test", STS.replace("sentence1\tsentence2", "sentence2\tsentence1"), "column 8"),
        ("qqp", "dev", QQP.replace("is_duplicate", "id2"), '"is_duplicate" in column 6, got "id2"'),
        ("qqp", "test", "id\tquestion2\tquestion1", "column 2"),
        ("mnli", "train", SNLI, '"sentence1" in column 9, got "sentence2"'),
        ("mnli", "diagnostic", "index\tpremise\thypothesis", 'column 2, got "premise"'),
    ],
)
def test_columns_must_have_glues_names(tmp_path, name, split, header, found):
    cells = "\t".join("0" * len(header.split("\t")))
    path = write(tmp_path / "x.tsv", f"{header}\n{cells}\n")
    with pytest.raises(InputError, match=rf"{path}, line 1: expected a header with .*{found}"):
        glue.TASKS[name].read(path, split)


def test_case_of_headers_and_labels_that_pandas_wrote(tmp_path):
    path = write(tmp_path / "x.tsv", "Sentence\tLabel\nfine\t1.0\n\nbad\t0.0\n")
    assert glue.TASKS["sst"].read(path, "train").labels.tolist() == [1, 0]


def test_missing_file_names_both_folders(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}/sst/dev\.tsv or .*SST-2/dev\.tsv"):
        load("sst", tmp_path, "dev")


def test_other_tasks_than_glues_are_unknown():
    with pytest.raises(InputError, match="cola, sst, mrpc, sts, qqp, mnli, qnli, rte, wnli"):
        glue.get_task("squadv1")


def test_damaged_rows_of_qqp_are_left_out_with_a_warning(tmp_path, caplog):
    rows = [f"{i}\t1\t2\tWhat is {i}?\tWhat was {i}?\t0" for i in range(2100)]
    rows[5:6] = ["5\t1\t2\tWhat is", 'five?"\tWhat was 5?\t0']  # a line break within the question
    write(tmp_path / "qqp/train.tsv", "\n".join([QQP, *rows]) + "\n")
    examples = load("qqp", tmp_path)
    assert len(examples) == 2099 and "What is 5?" not in examples.texts
    assert "left out 2 unusable rows" in caplog.text
    assert "line 7: expected 6 columns" in caplog.text

    rows[20] = "20\t1\t2\t\tWhat was 20?\t0"
    write(tmp_path / "qqp/train.tsv", "\n".join([QQP, *rows]) + "\n")
    with pytest.raises(InputError, match=r"train\.tsv, line 7: expected 6 columns"):
        load("qqp", tmp_path)
