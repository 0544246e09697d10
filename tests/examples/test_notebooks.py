import csv
import json
import re

import nbformat
import pytest

from tests.support.finetuning import read_results
from tests.support.pages import Page
from tests.support.processes import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
CSV_NOTEBOOK = ROOT / "examples" / "fine_tune_your_csv.ipynb"


def cells(path):
    """The code cells: what they hold, and their tags."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            yield cell.source, cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_has_no_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert notebook["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


def test_from_csv_to_predictions(tmp_path, monkeypatch, capsys):
    """All cells in this process, where TensorFlow is loaded already, with smaller settings."""
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend("")  # the notebook puts the project on the path
    names = {}
    for source, tags in cells(CSV_NOTEBOOK):
        exec(compile(source, str(CSV_NOTEBOOK), "exec"), names)
        if "parameters" in tags:
            names["data_dir"] = tmp_path
            names["counts"] = {"train": 4, "dev": 2, "test": 2}
            small = {"num_hidden_layers": 1, "embedding_size": 16, "hidden_size": 16}
            names["hparams"] |= {"max_seq_length": 16, "num_train_epochs": 1.0}
            names["hparams"] |= {"model_hparam_overrides": small | {"intermediate_size": 16}}
    novels = sorted(names["paragraphs"])
    assert len(novels) == 8
    printed = capsys.readouterr().out
    for split, count in (("train", 32), ("dev", 16), ("test", 16)):
        assert f"{split} {count}\n" in printed
        with (names["folder"] / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            labels = [row["novel"] for row in csv.DictReader(file)]
        assert sorted(labels) == sorted(novels * (count // 8))
    (trial,) = read_results(tmp_path / "models" / names["model_name"], "novels")
    assert trial["num_examples"] == 16
    assert len(trial["evaluations"]) == 1
    page = Page(names["report"].read_text(encoding="utf-8"))
    assert {"scores", "labels-dev", "confusion-dev", "lengths"} <= set(page.ids())
    assert re.search(r"^\d+ of 16 test paragraphs are right$", printed, re.MULTILINE)
    assert len(names["found"]) == 2
    assert set(names["found"].answers) <= set(novels)
