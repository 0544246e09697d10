"""The ratios of `smoke`, their records, and its errors; nothing is measured."""

import argparse
import json
import sys

import pytest

from benchmarks import models, rounds, smoke
from common.errors import InputError

MACHINE = rounds.describe_machine() | {"cpu": "A", "model": "model 1", "load": 0.0}
ROWS = {
    "infer": {"ours": {"seconds": 1.0}, "transformers": {"seconds": 3.0}},
    "pretrain": {
        "ours": {"seconds": 1.0, "first_step_seconds": 10.0},
        "transformers": {"seconds": 2.0, "first_step_seconds": 4.0},
    },
}


@pytest.fixture
def smoke_test(monkeypatch, tmp_path, capsys):
    """Runs it on a machine: the cells of the printed table by row, and all that is printed."""
    (tmp_path / "smoke.json").write_text('{"records": []}')
    monkeypatch.setattr(smoke, "RECORDS", tmp_path / "smoke.json")
    monkeypatch.setattr(models, "measure", lambda args: (ROWS[args.benchmark], []))

    def run(record, factor=1.0, **machine):
        monkeypatch.setattr(rounds, "describe_machine", lambda: MACHINE | machine)
        for rows in ROWS.values():
            monkeypatch.setitem(rows["ours"], "seconds", 1.0 / factor)
        smoke.run(argparse.Namespace(threads=2, peer_python=sys.executable, record=record))
        printed = capsys.readouterr().out
        rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
        return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}, printed

    return run


def test_ratios_are_compared_with_the_same_processor(smoke_test, tmp_path):
    rows, printed = smoke_test(record=True)
    assert rows["training step"] == ["2.00", "–", "–"]
    assert rows["forward pass"] == ["3.00", "–", "–"]
    assert rows["time to the first step"] == ["0.40", "–", "–"]
    assert str(smoke.RECORDS) in printed
    rows, printed = smoke_test(record=False, factor=0.8)
    assert rows["training step"] == ["1.60", "2.00", "-20 %"] and "--record" not in printed
    assert rows["time to the first step"] == ["0.40", "0.40", "+0 %"]

    # Another stepping, or fewer instructions, is another processor with a record of its own.
    for other in ({"model": "model 2"}, {"instruction_sets": "avx"}):
        assert "--record" in smoke_test(record=False, **other)[1]
        rows, _ = smoke_test(record=True, **other)
        assert rows["training step"] == ["2.00", "–", "–"]
    smoke_test(record=True, factor=2.0)
    records = json.loads((tmp_path / "smoke.json").read_text())["records"]
    assert [r["ratios"]["forward pass"] for r in records] == [3.0, 3.0, 6.0]
    assert records[-1]["processor"]["model"] == "model 1"


def test_a_busy_machine_is_mentioned(smoke_test):
    assert "load 1.5" in smoke_test(record=False, load=1.5)[1]
    assert "load" not in smoke_test(record=False, load=0.1)[1]


def test_a_missing_environment(smoke_test, monkeypatch):
    args = argparse.Namespace(threads=2, peer_python="nowhere", record=False)
    with pytest.raises(InputError, match=r"nowhere; .*make_venv \.venv-peers"):
        smoke.run(args)
    args.peer_python = sys.executable
    monkeypatch.setattr(models, "measure", lambda _: ({}, ["No module named 'torch'"]))
    with pytest.raises(InputError, match=r"'torch'; .*make_venv \.venv-peers"):
        smoke.run(args)


def test_the_recorded_file_is_valid():
    for record in json.loads(smoke.RECORDS.read_text())["records"]:
        assert set(record["processor"]) == {*smoke.PROCESSOR, "threads"}
        assert all(ratio > 0 for ratio in record["ratios"].values()) and record["date"]
