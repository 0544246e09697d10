import json

import numpy as np
import pytest

from common.errors import InputError
from pipelines import command_line
from pipelines.fill_mask import FilledMask
from scripts import fill_mask


class Filler:
    """Fills each mask with its number and a letter."""

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
def run(tmp_path, monkeypatch, capsys):
    """Runs the script with a stand-in for the model; returns what it asks and prints."""
    filler = Filler()
    monkeypatch.setattr(command_line, "load_pipeline", lambda *_: filler)

    def run(*arguments):
        fill_mask.main([str(tmp_path), *arguments])
        return filler.asked, list(map(json.loads, capsys.readouterr().out.splitlines()))

    return run


def test_an_object_per_text(run, tmp_path):
    asked, found = run("A [MASK]", "[MASK], [MASK]", "--top-k", "2", "--batch-size", "8")
    assert asked == (["A [MASK]", "[MASK], [MASK]"], 2, 8)
    tokens = [[[item["token"] for item in mask] for mask in row["masks"]] for row in found]
    assert tokens == [[["0a", "0b"]], [["0a", "0b"], ["1a", "1b"]]]
    first = {"token": "0a", "probability": 0.75, "text": "a [mask]:a"}
    assert found[0]["index"] == 0 and found[0]["masks"][0][0] == first
    (tmp_path / "in.csv").write_text('n,t\n1,"a\tb\n[MASK]"\n')
    arguments = ["--input", str(tmp_path / "in.csv"), "--columns", "t", "--top-k", "1"]
    assert run(*arguments, "--output", str(tmp_path / "out.jsonl"))[1] == []
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert found == {"index": 0, "masks": [[first | {"text": "a\tb\n[mask]:a"}]]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["[MASK]", "b [mask]"], r"argument 2: .* \[MASK\], got 'b \[m"),
        (["[MASK]\tb"], "argument 1: expected one text; got 2"),
        (["[MASK]", "--output", "a.npy"], r"`--output` .*\.jsonl"),
    ],
)
def test_wrong_input(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run(*arguments)
