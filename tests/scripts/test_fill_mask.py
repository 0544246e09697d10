import json

import numpy as np
import pytest

from common.errors import InputError
from pipelines import FillMask
from pipelines.fill_mask import FilledMask
from scripts import fill_mask


class Filler:
    """Writes the number of the mask, so that texts and places show."""

    def iterate(self, texts, top_k, batch_size):
        self.asked = (texts, top_k, batch_size)
        for text in texts:
            yield [
                FilledMask(
                    [f"{number}{letter}" for letter in "ab"[:top_k]],
                    np.float32([0.75, 0.25])[:top_k],
                    [f"{text.lower()}:{letter}" for letter in "ab"[:top_k]],
                )
                for number in range(text.count("[MASK]"))
            ]


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the script with a stand-in model: what was asked, lines printed."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setattr("data.tensorflow_setup.prepare_tensorflow", lambda *_: None)
    filler = Filler()
    monkeypatch.setattr(FillMask, "from_pretrained", lambda directory: filler)

    def run(*arguments):
        fill_mask.main(["model", *arguments])
        return filler.asked, capsys.readouterr().out.splitlines()

    return run


def test_a_line_for_each_token(run):
    asked, lines = run("A [MASK]", "[MASK], [MASK]", "--top-k", "2", "--batch-size", "8")
    assert asked == (["A [MASK]", "[MASK], [MASK]"], 2, 8)
    assert lines == [
        "index\tmask\trank\ttoken\tprobability\ttext",
        "0\t0\t1\t0a\t0.750000\ta [mask]:a",
        "0\t0\t2\t0b\t0.250000\ta [mask]:b",
        "1\t0\t1\t0a\t0.750000\t[mask], [mask]:a",
        "1\t0\t2\t0b\t0.250000\t[mask], [mask]:b",
        "1\t1\t1\t1a\t0.750000\t[mask], [mask]:a",
        "1\t1\t2\t1b\t0.250000\t[mask], [mask]:b",
    ]


def test_an_object_for_each_text(run, tmp_path):
    (tmp_path / "in.csv").write_text('n,t\n1,"a\tb\n[MASK]"\n')
    arguments = ["--input", str(tmp_path / "in.csv"), "--columns", "t", "--top-k", "1"]
    assert run(*arguments, "--output", str(tmp_path / "out.jsonl"))[1] == []
    expected = {"token": "0a", "probability": 0.75, "text": "a\tb\n[mask]:a"}
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert found == {"index": 0, "masks": [[expected]]}
    assert run(*arguments)[1][1].split("\t")[-1] == "a b [mask]:a"  # a line stays a line


ERRORS = {
    "no mask": (["[MASK]", "b [mask]"], r"argument 2: expected a text with \[MASK\], got 'b \[m"),
    "no mask in a file": (["--input", "{}"], r"a\.txt, line 2: expected a text with \[MASK\]"),
    "two texts": (["[MASK]\tb"], "argument 1: expected one text; got 2"),
    "two columns": (["--input", "{}", "--columns", "a", "b"], "--columns must be one. Received"),
    "output": (["[MASK]", "--output", "a.npy"], r"--output must end in \.tsv or \.jsonl"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input(run, tmp_path, case):
    arguments, message = ERRORS[case]
    (tmp_path / "a.txt").write_text("[MASK]\nb\n")
    with pytest.raises(InputError, match=message):
        run(*(text.replace("{}", str(tmp_path / "a.txt")) for text in arguments))
