"""build_data.sh and build_data.py as a user runs them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import build_data
from data import command_line
from data.building import build_records
from data.corpus import find_corpus
from data.shards import BuildOptions
from errors import InputError
from tests.corpora import openwebtext_of, random_archives, write_vocab

ROOT = pathlib.Path(build_data.__file__).parent


def command(data_dir, *arguments):
    environment = os.environ | {
        "DATA_DIR": str(data_dir),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {"args": ["bash", str(ROOT / "build_data.sh"), *arguments], "env": environment}


def run(data_dir, *arguments):
    return subprocess.run(
        **command(data_dir, *arguments), capture_output=True, text=True, check=False
    )


def run_main(monkeypatch, data_dir, *arguments):
    """Runs the script in this process; what it sets in the environment is undone."""
    options = ["--data-dir", str(data_dir), "--num-processes", "1", *arguments]
    monkeypatch.setattr(sys, "argv", ["build_data.py", *options])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    build_data.main()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_and_run_again_with_two_processes(tmp_path):
    """The second run keeps finished shards; the bytes are those of one undisturbed process."""
    write_vocab(tmp_path / "vocab.txt")
    archives = random_archives(60, 50, lines_each=40)
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    options = ("--num-processes", "2", "--max-seq-length", "64")
    records = tmp_path / "pretrain_tfrecords"
    progress = records / "build_progress.jsonl"
    alone = ("--num-processes", "1", "--max-seq-length", "64")
    with subprocess.Popen(
        **command(tmp_path, *alone), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as first:
        while first.poll() is None and not (
            progress.exists() and progress.read_bytes().count(b"\n") > 2
        ):
            time.sleep(0.002)
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert not (records / "metadata.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in finished_shards(progress)}
    assert len(kept) >= 2

    second = run(tmp_path, *options)
    assert second.returncode == 0, second.stderr
    assert f"{60 - len(kept)} of 60 shards to build" in second.stderr
    assert "3,000 documents" in second.stdout and "0.0% thrown away" in second.stdout
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    same = BuildOptions(str(tmp_path / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(tmp_path), same, tmp_path / "alone")
    assert contents(tmp_path / "alone") == contents(records)

    before = contents(records)
    third = run(tmp_path, *options)
    assert third.returncode == 0 and "already built with these options" in third.stdout
    refused = run(tmp_path, "--max-seq-length", "32")
    assert refused.returncode == 1 and "Use --overwrite" in refused.stderr
    assert "Traceback" not in refused.stderr and contents(records) == before


def finished_shards(progress):
    lines = progress.read_text().splitlines(keepends=True)[1:]
    names = [line.split('"')[3] for line in lines if line.endswith("\n")]
    return [progress.parent / name for name in names]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no corpus: none of"),
        (["--cased"], "--cased needs a cased vocabulary: name one with --vocab-file"),
        (["--max-seq-length", "4"], "`max_seq_length` must be at least 5. Received: 4"),
        (["--corpus", "TEXT", "--num-processes", "0"], "`num_processes` must be at least 1"),
        (["--corpus", "TEXT", "--vocab-file", "nowhere.txt"], "cannot read the vocabulary nowhere"),
    ],
)
def test_errors_change_nothing(tmp_path, monkeypatch, arguments, message):
    (tmp_path / "t.txt").write_text("text\n")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    arguments = [str(tmp_path / "t.txt") if word == "TEXT" else word for word in arguments]
    with pytest.raises(InputError, match=message):
        run_main(monkeypatch, data_dir, *arguments)
    assert list(data_dir.iterdir()) == []


def test_a_missing_data_folder_is_one_message(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"error: the data folder {tmp_path / 'nowhere'} does not exist.\n"
    assert run(tmp_path, "--segment-rule", "bert").returncode == 2


def test_the_vocabulary_is_placed_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "t.txt").write_text("Ba da.\n")
    named = write_vocab(tmp_path / "words.txt")
    for arguments in (["--vocab-file", str(named)], []):
        run_main(monkeypatch, tmp_path, "--corpus", str(tmp_path / "t.txt"), *arguments)
        # The second time, vocab.txt is found, and the records are its own.
        assert (tmp_path / "vocab.txt").read_bytes() == named.read_bytes()

    data_dir = tmp_path / "fresh"
    data_dir.mkdir()
    assert command_line.find_vocab(data_dir, None, cased=False) == command_line.BERT_VOCAB
    command_line.place_vocab(data_dir, command_line.BERT_VOCAB)
    assert len((data_dir / "vocab.txt").read_text().splitlines()) == 30_522
    command_line.place_vocab(data_dir, named)
    assert len((data_dir / "vocab.txt").read_text().splitlines()) == 30_522
    assert "set its `vocab_file`" in caplog.text
