"""The cluster's builder as a user runs it; its pipeline only where Beam is installed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from scripts import build_data_beam
from tests.support.corpora import contents, openwebtext_of, random_archives, write_vocab

SCRIPT = pathlib.Path(build_data_beam.__file__)
TWO_WORKERS = ["--runner=DirectRunner", "--direct_num_workers=2"]
TWO_WORKERS += ["--direct_running_mode=multi_processing"]


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["build_data_beam.py", *arguments])
    return build_data_beam.parse_arguments()


def test_beams_options_come_after_two_dashes(monkeypatch, capsys):
    args = parse(monkeypatch, "--data-dir", "D", "--seed", "7", "--", *TWO_WORKERS)
    assert (args.data_dir, args.seed, args.pipeline_options) == ("D", 7, TWO_WORKERS)
    assert parse(monkeypatch, "--data-dir", "D").pipeline_options == []
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--data-dir", "D", *TWO_WORKERS)
    assert "--runner=DirectRunner" in capsys.readouterr().err


def test_without_beam_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data_beam.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["build_data_beam.py", "--data-dir", str(tmp_path)])
    with pytest.raises(InputError, match=r"Apache Beam is missing.*requirements-beam\.txt"):
        build_data_beam.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peers
def test_killed_and_run_again_with_two_workers(tmp_path):
    """Finished shards are kept, and the bytes are those of one local process."""
    write_vocab(tmp_path / "vocab.txt")
    archives = random_archives(60, 50, lines_each=40)
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    records = tmp_path / "pretrain_tfrecords"
    arguments = ["--data-dir", ".", "--max-seq-length", "64", "--", *TWO_WORKERS]
    command = [sys.executable, str(SCRIPT), *arguments]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
        while first.poll() is None and len(list(records.glob("*.note.json"))) < 3:
            time.sleep(0.002)
        os.killpg(first.pid, signal.SIGKILL)  # the workers, too
        first.wait()
    assert not (records / "metadata.json").exists()
    notes = records.glob("*.note.json")
    kept = [note.with_suffix("").with_suffix("") for note in notes]
    kept = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) >= 3

    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    assert f"{60 - len(kept)} of 60 shards to build" in second.stderr
    assert "3,000 documents" in second.stdout
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    options = BuildOptions(str(tmp_path / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(tmp_path), options, tmp_path / "local")
    assert contents(records) == contents(tmp_path / "local")
    assert len(contents(records)) == 61
