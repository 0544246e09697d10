"""What the benchmark measures, on commands and corpora of known size."""

import json
import os
import resource
import sys

import pytest

from benchmarks import __main__, data, machine, peers
from benchmarks.data import Measurement
from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.metadata import SHARD_PREFIX
from tests.support.corpora import archive_of, write_vocab

LINES = "Ba da\n\nfa   ga xyzzy\n"  # 5 and 13 bytes, of 2 and 3 words


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "openwebtext"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}_data.xz").write_bytes(archive_of([LINES] * 10))
    return folder


def python(code):
    return [sys.executable, "-c", code]


def test_commands_are_measured_together():
    waiting = "import sys, time; time.sleep(0.2); print('all begun', file=sys.stderr, flush=True)"
    working = "\ntime.sleep(0.1); print(6 * 7)"
    large = "\nx = b'x' * 100_000_000"
    commands = [python(waiting + working), python(waiting + large)]
    measured, outputs = data.measure(commands, started="begun")
    assert outputs == ["42\n", ""]
    assert 0.2 < measured.start_seconds < measured.seconds < 10
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # a child begins with it
    assert 100e6 < measured.peak_bytes < max(ours, 200e6) + 1e6
    assert 0 < measured.cpu_seconds < 10


def test_a_failed_command_is_an_error():
    failing = python("import sys; sys.exit('no text in here')")
    with pytest.raises(InputError, match=r"(?s)ended with exit code 1:.*no text in here"):
        data.measure([python("pass"), failing])


def test_runs_alternate():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    assert data.in_turn(runs, 2).keys() == {"a", "b", "c"}
    assert "".join(order) == "abccba"


def test_cores_are_given_back():
    before = os.sched_getaffinity(0)
    with machine.on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_medians_and_ratios():
    def run(seconds, start=0.0):
        return Measurement(seconds, start, 1.5 * seconds, 300_000_000, 80_000_000, 50_000, 20_000)

    results = {
        "build, processes: 1": [run(12, 2), run(99, 2), run(10, 2)],
        "build, processes: 2": [run(7, 2), run(6, 2), run(1, 0.5)],
        "tokenizers": [Measurement(16, 0, 16, 1_000_000, 80_000_000)] * 3,
        "build, processes: 2, original's records": [run(8)] * 3,
    }
    assert data.data_table(results).splitlines()[2:] == [
        "| build, processes: 1 | 12.0 | 6.67 | 8.00 | 1.50 | 300 | 2.50 |",
        "| build, processes: 2 | 6.0 | 13.33 | 20.00 | 1.50 | 300 | 2.50 |",
        "| tokenizers | 16.0 | 5.00 | 5.00 | 1.00 | 1 |  |",
        "| build, processes: 2, original's records | 8.0 | 10.00 | 10.00 | 1.50 | 300 | 2.50 |",
    ]
    ratios = data.data_ratios(results, "build, processes: 2")
    assert {name.partition(" / ")[2]: round(ratio, 3) for name, ratio in ratios.items()} == {
        "build, processes: 1": 2.0,
        "build, processes: 1, start not counted": 2.5,
        "tokenizers": 2.667,
        "tokenizers, start not counted": 4.0,
    }


def test_the_stand_in_builds_the_original_s_records(tmp_path, corpus):
    sources = find_corpus(tmp_path, corpus).sources
    vocab = write_vocab(tmp_path / "vocab.txt")
    sizes = peers.build_plainly(sources[:2], str(vocab), str(tmp_path / "shard"))
    # A document makes one example: [CLS] and [SEP] around one or two segments.
    text_bytes, record_bytes, tokens = sizes
    assert text_bytes == 20 * (5 + 13) and 20 * (5 + 2) <= tokens <= 20 * (5 + 3)
    assert record_bytes == (tmp_path / "shard").stat().st_size > 20 * 128


def test_tokenizers_sees_the_same_text(tmp_path, corpus, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    found = find_corpus(tmp_path, corpus)
    told = peers.run_tokenizers(found, str(write_vocab(tmp_path / "vocab.txt")), 1)
    assert told["text_bytes"] == 30 * (5 + 13) and 0 < told["seconds"] < 10


def test_a_corpus_beside_the_original(tmp_path, corpus, monkeypatch, capsys):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / data.ORIGINAL_BUILDER).write_text(
        "import os, sys\n"
        "_, _, folder, _, count = sys.argv\n"
        "archives = sorted(os.listdir(folder + '/openwebtext'))\n"
        "os.makedirs(folder + '/pretrain_tfrecords', exist_ok=True)\n"
        f"with open(folder + '/pretrain_tfrecords/{SHARD_PREFIX}0-of-1', 'w') as file:\n"
        "    file.write('x' * len(archives) * int(count))\n"
    )
    arguments = ["data", "--corpus", str(corpus), "--num-processes", "1", "--repeats", "1"]
    arguments += ["--peers", "original", "--original", str(tmp_path / "release")]
    arguments += ["--output", str(tmp_path / "report.json")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    __main__.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["text_bytes"] == 30 * (5 + 13) and report["corpus"] == "openwebtext"
    (ours,), (original,) = (
        report["runs"][name] for name in (data.build_name(1), "original's builder")
    )
    (padded,) = report["runs"]["build, processes: 1, original's records"]
    assert original["text_bytes"] == ours["text_bytes"] and original["record_bytes"] == 3
    assert padded["record_tokens"] == ours["record_tokens"]
    assert padded["record_bytes"] > 3 * ours["record_bytes"]
    assert 0 < ours["start_seconds"] < ours["seconds"]
    assert "| original's builder |" in capsys.readouterr().out


def test_the_original_reads_archives_only(tmp_path):
    (tmp_path / "t.txt").write_text("text\n")
    with pytest.raises(InputError, match="archives only"):
        data.stage_original(str(tmp_path / "t.txt"), "vocab.txt", tmp_path)
