import numpy as np
import pytest
from huggingface_hub import HfFileSystem, constants

from common.errors import InputError
from data.tasks import glue, glue_hub
from scripts import download_glue
from tests.support import hub_server
from tests.support.files import parquet

NAME = "datasets/nyu-mll/glue"
# By the copy's folder: the columns of texts, and the labels of the rows. The first row is in doubt
# if labels were numbered in another order.
COPY = {
    "cola": (["sentence"], [1, 0]),
    "sst2": (["sentence"], [0, 1]),
    "mrpc": (["sentence1", "sentence2"], [1, 0]),
    "stsb": (["sentence1", "sentence2"], [3.2, 5.0]),
    "qqp": (["question1", "question2"], [0, 1]),
    "mnli": (["premise", "hypothesis"], [0, 1, 2]),
    "ax": (["premise", "hypothesis"], []),
    "qnli": (["question", "sentence"], [0, 1]),
    "rte": (["sentence1", "sentence2"], [1, 0]),
    "wnli": (["sentence1", "sentence2"], [0, 1]),
}
WORDS = {
    "sts": ["3.2", "5.0"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["not_entailment", "entailment"],
}


def rows(folder, start, is_test):
    """A parquet file of the copy; texts say where they are from."""
    names, labels = COPY[folder]
    labels = labels or [0, 0]
    texts = {name: [f'{name} "{start}" {i}' for i in range(len(labels))] for name in names}
    kind = np.float32 if folder == "stsb" else np.int64
    labels = np.array([-1] * len(labels) if is_test else labels, kind)
    return parquet(**texts, label=labels, idx=np.arange(len(labels), dtype=np.int32))


def starts(folder):
    """The beginnings of the names of a folder's files."""
    if folder == "ax":
        return ["test"]
    ends = ["_matched", "_mismatched"] if folder == "mnli" else [""]
    return ["train", *(f"{split}{end}" for split in ("validation", "test") for end in ends)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with a small copy of GLUE; the number of rows that is expected is the copy's."""
    counts = {
        name: {split: 3 if name == "mnli" else 2 for split in splits}
        for name, splits in glue.NUM_EXAMPLES.items()
    }
    counts["mnli"]["diagnostic"] = 2
    monkeypatch.setattr(glue, "NUM_EXAMPLES", counts)
    with hub_server.serve() as server:
        server.files[NAME] = {
            "main": {
                f"{folder}/{start}-00000-of-00001.parquet": rows(folder, start, "test" in start)
                for folder in COPY
                for start in starts(folder)
            }
            | {"README.md": b"about"}
        }
        hub_server.connect(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        HfFileSystem.clear_instance_cache()
        yield server


def download(tmp_path, *tasks):
    arguments = ["--data-dir", str(tmp_path), "--source", "hub", *tasks]
    download_glue.main(arguments)
    return tmp_path / "finetuning_data"


def test_every_file_of_every_task(hub, tmp_path):
    folder = download(tmp_path, "all")
    for name, task in glue.TASKS.items():
        source = glue_hub.FOLDERS[task.glue_name]
        _, labels = COPY[source.name]
        words = WORDS.get(name, [str(label) for label in labels])
        splits = ["train", "dev", *task.more_dev_splits, *task.test_splits]
        assert list(glue.NUM_EXAMPLES[name]) == splits
        for split in splits:
            examples = task.load(str(folder), split)
            is_diagnostic = split == "diagnostic"
            start = "test" if is_diagnostic else split.replace("dev", "validation")
            start += "_matched" if (name, split) == ("mnli", "dev") else ""
            count = 2 if is_diagnostic else len(words)
            texts = [[f'{c} "{start}" {i}' for i in range(count)] for c in source.texts]
            assert [examples.texts, examples.text_pairs][: len(texts)] == texts
            if split in task.test_splits:
                assert examples.labels is None
            elif task.is_regression:
                assert examples.labels.tolist() == [float(word) for word in words]
            else:
                assert [task.labels[label] for label in examples.labels] == words
    lines = (folder / "MNLI" / "train.tsv").read_text().splitlines()
    assert lines[0].split("\t")[8:] == ["sentence1", "sentence2", "label1", "gold_label"]
    assert lines[2] == "1" + "\t" * 8 + 'premise "train" 1\thypothesis "train" 1\t\tneutral'
    assert (folder / "CoLA" / "train.tsv").read_text().startswith('\t1\t\tsentence "train" 0\n')


def test_what_is_there_is_kept(hub, tmp_path, capsys):
    folder = download(tmp_path, "rte")
    (folder / "RTE" / "dev.tsv").unlink()
    (folder / "RTE" / "test.tsv").write_text("mine")
    sent = len(hub.downloads())
    capsys.readouterr()
    download(tmp_path, "rte")
    assert capsys.readouterr().out == f"{folder / 'RTE'}: dev.tsv\n"
    assert (folder / "RTE" / "test.tsv").read_text() == "mine"
    assert len(hub.downloads()) == sent == 3


def test_a_cut_connection(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    texts = np.random.default_rng(0).bytes(20_000).hex()
    columns = {"sentence1": [texts, "a"], "sentence2": ["b", "c"], "label": [1, 0], "idx": [0, 1]}
    hub.files[NAME]["main"]["wnli/train-00000-of-00001.parquet"] = parquet(**columns)
    hub.cut_after = 15_500
    folder = download(tmp_path, "wnli")
    assert glue.get_task("wnli").load(str(folder), "train").texts == [texts, "a"]
    ranges = [asked for method, _, asked in hub.requests if method == "GET" and asked]
    assert ranges in (["bytes=15000-"], ["bytes=15500-"])


def test_missing_files_do_not_stop_other_tasks(hub, tmp_path):
    files = hub.files[NAME]["main"]
    del files["cola/validation-00000-of-00001.parquet"]
    for name in [name for name in files if name.startswith("rte/")]:
        del files[name]
    with pytest.raises(InputError) as caught:
        download(tmp_path, "cola", "rte", "wnli")
    first, second = str(caught.value).split("\n")
    assert "glue/cola: expected a file validation-*.parquet, found test-00000-of-" in first
    assert "glue/rte: expected a file train-*.parquet, found none" in second
    folder = tmp_path / "finetuning_data"
    assert [path.name for path in (folder / "CoLA").iterdir()] == ["train.tsv"]
    assert not list((folder / "RTE").glob("*"))
    assert len(list((folder / "WNLI").iterdir())) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 2]}, r'line 2: expected a number from 0 to 1 in "label", got 2'),
        ({"sentence1": ["a", "b\tc"]}, r'line 2: expected a text .* in "sentence1", got "b\\tc"'),
        ({"sentence2": ["a", None]}, r'line 2: expected a text .* in "sentence2", got null'),
        ({"idx": None}, 'line 1: expected a field "idx"'),
        ({"label": [0], "sentence1": ["a"], "sentence2": ["b"], "idx": [0]}, r"2 rows, got 1"),
    ],
)
def test_wrong_content(hub, tmp_path, change, message):
    right = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1], "idx": [0, 1]}
    columns = {name: values for name, values in (right | change).items() if values is not None}
    hub.files[NAME]["main"]["rte/train-00000-of-00001.parquet"] = parquet(**columns)
    with pytest.raises(InputError, match=message):
        download(tmp_path, "rte")
    assert not (tmp_path / "finetuning_data" / "RTE" / "train.tsv").exists()


def test_labels_of_a_test_set(hub, tmp_path):
    hub.files[NAME]["main"]["rte/test-00000-of-00001.parquet"] = rows("rte", "test", False)
    with pytest.raises(InputError, match=r'test-.*line 1: expected -1, .* in "label", got 1'):
        download(tmp_path, "rte")


def test_several_files_of_a_split_are_in_the_order_of_their_indices(hub, tmp_path):
    files = hub.files[NAME]["main"]
    del files["sst2/test-00000-of-00001.parquet"]
    for part, index in ((0, 1), (1, 0)):
        content = parquet(sentence=[f"text {index}"], label=[-1], idx=[index])
        files[f"sst2/test-0000{part}-of-00002.parquet"] = content
    folder = download(tmp_path, "sst")
    assert glue.get_task("sst").load(str(folder), "test").texts == ["text 0", "text 1"]
