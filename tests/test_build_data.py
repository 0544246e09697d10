"""build_data.sh and build_data.py, run as a user does."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import build_data
from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records import command_line
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from data.records.metadata import load_metadata
from tests.support.corpora import contents, openwebtext_of, random_archives, write_vocab

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


def test_killed_and_run_again_gives_the_same_bytes(tmp_path, monkeypatch, caplog, capsys):
    """Kills all processes, then one of two; the bytes are those of an uninterrupted build."""
    write_vocab(tmp_path / "vocab.txt")
    archives = random_archives(60, 50, lines_each=40)
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    records = tmp_path / "pretrain_tfrecords"
    options = ("--num-processes", "2", "--max-seq-length", "64")
    kept = {}
    for victim, num_finished in (("all", 3), ("a worker", 5)):
        printed = run_and_kill(tmp_path, victim, len(kept) + num_finished, *options)
        assert not (records / "metadata.json").exists()
        assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
        if victim == "a worker":
            assert f"{60 - len(kept)} of 60 shards to build" in printed
            message = r"error: a process was killed .* being built: (pretrain_data.*-of-00060)\. "
            assert not set(re.search(message, printed)[1].split(", ")) & {p.name for p in kept}
        kept = {path: path.stat().st_mtime_ns for path in finished_shards(records)}
        assert kept

    run_main(monkeypatch, tmp_path, "--max-seq-length", "64")  # one process, and this one
    printed = capsys.readouterr()
    assert f"{60 - len(kept)} of 60 shards to build" in caplog.text
    assert "3,000 documents" in printed.out and "0.0% were dropped" in printed.out
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    same = BuildOptions(str(tmp_path / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(tmp_path), same, tmp_path / "alone")
    assert contents(tmp_path / "alone") == contents(records)

    before = contents(records)
    again = run(tmp_path, *options)
    assert again.returncode == 0 and "already built with these options" in again.stdout
    refused = run(tmp_path, "--max-seq-length", "32")
    assert refused.returncode == 1 and "max_seq_length 64 != 32" in refused.stderr
    assert "Traceback" not in refused.stderr and contents(records) == before


def run_and_kill(data_dir, victim, num_finished, *options):
    """Kills the build after `num_finished` shards; returns its stderr."""
    progress = data_dir / "pretrain_tfrecords" / "build_progress.jsonl"
    with subprocess.Popen(
        **command(data_dir, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (
            progress.exists() and progress.read_bytes().count(b"\n") > num_finished
        ):
            time.sleep(0.002)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(process.pid if victim == "all" else workers[0], signal.SIGKILL)
        _, printed = process.communicate(timeout=60)
        deadline = time.monotonic() + 10  # the workers notice, and end
        while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return printed


def workers_of(pid):
    """The processes that build shards for a process."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def finished_shards(records):
    lines = (records / "build_progress.jsonl").read_text().splitlines(keepends=True)[1:]
    names = [line.split('"')[3] for line in lines if line.endswith("\n")]
    return [records / name for name in names]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no corpus: none of"),
        (["--cased"], "--cased needs a cased vocabulary: choose one with --vocab-file"),
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


def test_a_missing_data_directory_is_one_message(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"error: the data directory {tmp_path / 'nowhere'} does not exist.\n"
    assert run(tmp_path, "--segment-rule", "bert").returncode == 2


def test_the_vocabulary_is_copied_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "t.txt").write_text("Ba da.\n")
    named = write_vocab(tmp_path / "words.txt")
    for arguments in (["--vocab-file", str(named)], []):
        run_main(monkeypatch, tmp_path, "--corpus", str(tmp_path / "t.txt"), *arguments)
        # The second build uses that copy.
        assert (tmp_path / "vocab.txt").read_bytes() == named.read_bytes()

    data_dir = tmp_path / "fresh"
    data_dir.mkdir()
    assert command_line.find_vocab(data_dir, None, cased=False) == command_line.BERT_VOCAB
    command_line.copy_vocab(data_dir, command_line.BERT_VOCAB)
    assert len((data_dir / "vocab.txt").read_text().splitlines()) == 30_522
    command_line.copy_vocab(data_dir, named)
    assert len((data_dir / "vocab.txt").read_text().splitlines()) == 30_522
    assert "set its `vocab_file`" in caplog.text


@pytest.mark.parametrize(
    "config, options, lower, strip",
    [
        (None, [], True, True),
        (None, ["--cased"], False, False),
        ({}, ["--no-strip-accents"], True, False),
        ({"do_lower_case": False}, [], False, False),
        ({"do_lower_case": False, "strip_accents": None}, ["--cased"], False, False),
        ({"do_lower_case": True, "strip_accents": False}, [], True, False),
    ],
)
def test_the_tokenizer_config_beside_a_vocabulary_is_used(
    tmp_path, monkeypatch, config, options, lower, strip
):
    (tmp_path / "t.txt").write_text("Ba da.\n")
    folder, data_dir = tmp_path / "vocabulary", tmp_path / "data"
    folder.mkdir()
    data_dir.mkdir()
    vocab = write_vocab(folder / "vocab.txt")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    corpus = ("--corpus", str(tmp_path / "t.txt"))
    run_main(monkeypatch, data_dir, *corpus, "--vocab-file", str(vocab), *options)
    records_dir = data_dir / "pretrain_tfrecords"
    metadata = load_metadata(records_dir)
    assert (metadata.do_lower_case, metadata.strip_accents) == (lower, strip)
    # The file is copied with the vocabulary: the next build is the same without options.
    built = (records_dir / "metadata.json").read_bytes()
    run_main(monkeypatch, data_dir, *corpus, *options)
    assert (records_dir / "metadata.json").read_bytes() == built


@pytest.mark.parametrize(
    "config, option, message",
    [
        ({"do_lower_case": True}, "--cased", "--cased does not fit .* `do_lower_case` is true"),
        ({"strip_accents": True}, "--no-strip-accents", "`strip_accents` is true in"),
        ({"do_lower_case": 1}, "--cased", "config.json: do_lower_case must be true or false"),
    ],
)
def test_an_option_against_the_tokenizer_config_is_an_error(
    tmp_path, monkeypatch, config, option, message
):
    (tmp_path / "t.txt").write_text("Ba da.\n")
    write_vocab(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        run_main(monkeypatch, tmp_path, "--corpus", str(tmp_path / "t.txt"), option)
    assert not (tmp_path / "pretrain_tfrecords").exists()


def test_the_summary_counts_what_was_skipped_and_warns_of_unknown_words(
    tmp_path, monkeypatch, caplog, capsys
):
    vocab = ("--vocab-file", str(write_vocab(tmp_path / "words.txt")))
    texts = [b"ba da fa " * 9, b"\xff", b"ga ka " * 30, b"ba xyzzy " * 20]
    (tmp_path / "t.txt").write_bytes(b"\n\n".join(texts))
    corpus = ("--corpus", str(tmp_path / "t.txt"), "--max-seq-length", "32")
    run_main(monkeypatch, tmp_path, *vocab, *corpus)
    # 27 + 60 + 40 tokens, 20 of them unknown, in examples of 30 and 2 or 3 special ones.
    printed = capsys.readouterr().out
    assert "3 documents" in printed and "127 tokens: 15.748% are [UNK]" in printed
    assert "bytes per token" in printed and "% have one" in printed
    assert "skipped   1 not UTF-8 (see metadata.json)" in printed
    assert "15.7 % of the tokens are [UNK]" in caplog.text and "train_vocab.py" in caplog.text

    caplog.clear()
    (tmp_path / "t.txt").write_bytes(b"ba da " * 60 + b"xyzzy")  # 1 of 121
    run_main(monkeypatch, tmp_path, *vocab, *corpus, "--overwrite")
    assert "0.826% are [UNK]" in capsys.readouterr().out and "[UNK]" not in caplog.text


def test_options_on_reading_reach_the_build(tmp_path, monkeypatch, capsys):
    vocab = ("--vocab-file", str(write_vocab(tmp_path / "words.txt")))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"body": "ba\\n\\nda"}\n{"text": "fa"}\n')
    (tmp_path / "texts" / "b.txt").write_text("ba\n\nda")
    (tmp_path / "texts" / "c.xz").write_bytes(b"damaged")
    options = ("--corpus", str(tmp_path / "texts"), *vocab, "--text-field", "body")
    with pytest.raises(InputError, match=r"c\.xz .*: damaged.*--skip-damaged"):
        run_main(monkeypatch, tmp_path, *options)
    run_main(monkeypatch, tmp_path, *options, "--skip-damaged", "--no-blanks-separate-docs")
    printed = capsys.readouterr().out
    assert "2 documents" in printed and "4 tokens" in printed
    assert "1 no such field, or no text in it; 1 damaged file" in printed
