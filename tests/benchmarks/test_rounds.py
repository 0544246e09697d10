"""Rounds that alternate, their medians, the table, and the errors of workers."""

import argparse
import contextlib
import json

import pytest

from benchmarks import rounds
from common.errors import InputError


def test_rounds_alternate_and_have_medians(monkeypatch):
    monkeypatch.setattr(rounds, "PAUSE", 0)
    order, seconds = [], iter([3.0, 1.0, 0.5, 4.0, 2.0, 1.0])

    def measure(name):
        order.append(name)
        return {"seconds": next(seconds), "steps": len(order)}

    rows = rounds.alternate({name: lambda name=name: measure(name) for name in "ab"}, 3)
    assert "".join(order) == "abbaab"
    names = ("seconds", "least", "most", "steps")
    assert [rows["a"][name] for name in names] == [3.0, 2.0, 4.0, 5]
    assert rows["b"]["seconds"] == 1.0 and len(rows["b"]["rounds"]) == 3


def test_report(tmp_path, capsys):
    path = tmp_path / "report.json"
    args = argparse.Namespace(benchmark="infer", output=str(path))
    ours = {"seconds": 0.25, "tokens_per_second": 8192.0, "share_of_peak": 0.125}
    rows = {"ours": ours, "other": {"seconds": 0.5, "tokens_per_second": 4096.0}}
    rounds.report(args, rows, "step", "tokens_per_second", notes=["a note"])
    lines = [line.replace(" ", "") for line in capsys.readouterr().out.splitlines()]
    assert "||sperstep|tokens/s|%ofpeak|" in lines and "|other|0.5|4,096|–|" in lines
    assert "|ours|0.25|8,192|12.5|" in lines and lines[-2:] == ["ours/other:2", "anote"]
    written = json.loads(path.read_text())
    assert written["ratios"] == {"ours / other": 2.0} and written["rows"] == rows


def test_a_worker_that_fails(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"No module named 'torch'\" >&2\nexit 3\n")
    python.chmod(0o755)
    with contextlib.ExitStack() as stack:
        with pytest.raises(InputError, match=r"exit code 3:\nNo module named 'torch'"):
            rounds.Worker({}, stack, {}, "torch", str(python))
        for framework, option in (("torch", "--peer-python"), ("garden", "--garden-python")):
            with pytest.raises(InputError, match=rf"{option}: .*nowhere"):
                rounds.Worker({}, stack, {}, framework, str(tmp_path / "nowhere"))
