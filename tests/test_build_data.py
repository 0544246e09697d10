"""build_data.sh and build_data.py, run as a user does."""

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
from common.files import TEMPORARY_SUFFIX
from common.lock import locked
from data.corpus.sources import find_corpus
from data.records import command_line
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from data.records.metadata import load_metadata
from tests.support.corpora import contents, openwebtext_of, random_archives, write_vocab
from tests.support.files import write
from tests.support.processes import ROOT

NUM_SHARDS, DOCUMENTS = 24, 12


def start(data_dir, *arguments):
    """Starts the shell script."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"DATA_DIR": str(data_dir), "PATH": path}
    variables["LC_ALL"] = "C"  # bash warns of a language that is not installed
    return subprocess.Popen(
        ["bash", str(ROOT / "build_data.sh"), *arguments],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def build(monkeypatch):
    """A function that runs build_data.py here; what it sets in the environment is undone."""
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def build(data_dir, *arguments):
        options = ["--data-dir", data_dir, "--num-processes", "1", *arguments]
        monkeypatch.setattr(sys, "argv", ["build_data.py", *map(str, options)])
        build_data.main()

    return build


@pytest.fixture
def corpus(tmp_path):
    """The option for a corpus of one line."""
    (tmp_path / "t.txt").write_text("Ba da.\n")
    return ("--corpus", tmp_path / "t.txt")


def test_killed_and_run_again_gives_the_same_bytes(tmp_path, build, caplog, capsys):
    """Kills all processes, then one of two; the bytes are those of an uninterrupted build."""
    write_vocab(tmp_path / "vocab.txt")
    archives = random_archives(NUM_SHARDS, DOCUMENTS, lines_each=40)
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    records = tmp_path / "pretrain_tfrecords"
    run_and_kill(tmp_path, "all", 3)
    first = finished_shards(records)
    printed = run_and_kill(tmp_path, "a worker", len(first) + 5)
    kept = finished_shards(records)
    assert len(first) > 0 and first.items() <= kept.items()
    assert f"{NUM_SHARDS - len(first)} of {NUM_SHARDS} shards to build" in printed
    message = r"error: a process was killed .* being built: (pretrain_data.*-of-\d+)\. "
    assert not set(re.search(message, printed)[1].split(", ")) & {path.name for path in first}
    assert not (records / "metadata.json").exists()

    build(tmp_path, "--max-seq-length", "64")  # one process, and this one
    printed = capsys.readouterr()
    assert f"{NUM_SHARDS - len(kept)} of {NUM_SHARDS} shards to build" in caplog.text
    assert (
        f"{DOCUMENTS * NUM_SHARDS:,} documents" in printed.out
        and "0.0% were dropped" in printed.out
    )
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    same = BuildOptions(str(tmp_path / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(tmp_path), same, tmp_path / "alone")
    built = contents(records)
    assert contents(tmp_path / "alone") == built

    build(tmp_path, "--max-seq-length", "64")
    assert "already built with these options" in capsys.readouterr().out
    with pytest.raises(InputError, match="max_seq_length 64 != 32"):
        build(tmp_path, "--max-seq-length", "32")
    assert contents(records) == built


def test_a_small_corpus_is_built_by_few_processes(tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 5})
    monkeypatch.setattr(command_line, "BYTES_PER_PROCESS", 10)
    monkeypatch.setattr("data.records.build.build_records", lambda *args: counts.append(args[3]))
    for size, *options in ((9,), (10,), (999,), (9, "--num-processes", "2")):
        (tmp_path / "t.txt").write_text("x" * size)
        options += ["--data-dir", str(tmp_path), "--corpus", str(tmp_path / "t.txt")]
        monkeypatch.setattr(sys, "argv", ["build_data.py", *options])
        build_data.main()
    assert counts == [1, 2, 3, 2]


def run_and_kill(data_dir, victim, num_finished):
    """Kills the build after `num_finished` shards; returns its stderr."""
    progress = data_dir / "pretrain_tfrecords" / "build_progress.jsonl"
    with start(data_dir, "--num-processes", "2", "--max-seq-length", "64") as process:
        while process.poll() is None and not (
            progress.exists() and progress.read_bytes().count(b"\n") > num_finished
        ):
            time.sleep(0.002)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(process.pid if victim == "all" else workers[0], signal.SIGKILL)
        _, printed = process.communicate(timeout=300)
        deadline = time.monotonic() + 120  # the workers notice, and end
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
    """The shards that the log of the build lists, each with the time of its last change."""
    lines = (records / "build_progress.jsonl").read_text().splitlines(keepends=True)[1:]
    names = [line.split('"')[3] for line in lines if line.endswith("\n")]
    return {records / name: (records / name).stat().st_mtime_ns for name in names}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no corpus: none of"),
        (["--cased"], "--cased needs a cased vocabulary: choose one with --vocab-file"),
        (["--max-seq-length", "4"], "`max_seq_length` must be at least 5 .*Received: 4"),
        (["CORPUS", "--num-processes", "0"], "`num_processes` must be at least 1"),
        (["CORPUS", "--vocab-file", "nowhere.txt"], "cannot read the vocabulary nowhere"),
    ],
)
def test_errors_change_nothing(tmp_path, build, corpus, arguments, message):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    words = [word for each in arguments for word in (corpus if each == "CORPUS" else [each])]
    with pytest.raises(InputError, match=message):
        build(data_dir, *words)
    assert list(data_dir.iterdir()) == []


def test_only_what_a_build_wrote_is_replaced(tmp_path, build, corpus):
    records = tmp_path / "pretrain_tfrecords"
    build(tmp_path, *corpus)
    (shard,) = (path.name for path in records.glob("pretrain_data*"))
    own = [f"{shard}.bak", f"{shard}~", f".{shard}.swp", f"old_{shard}", "pretrain_data.tfrecord-x"]
    left = ["pretrain_data.tfrecord-00007-of-00009", f".{shard}.host-1-2-0{TEMPORARY_SUFFIX}"]
    for name in own + left:
        write(records / name, "precious")
    build(tmp_path, *corpus, "--overwrite", "--seed", "1")
    assert sorted(os.listdir(records)) == sorted([shard, "metadata.json", *own])


def test_one_build_at_a_time(tmp_path, build, corpus):
    records = tmp_path / "pretrain_tfrecords"
    with locked(records / ".build.lock", "records", ""):
        with pytest.raises(InputError, match=rf"{records} is in use"):
            build(tmp_path, *corpus)
        assert os.listdir(records) == [".build.lock"]
    build(tmp_path, *corpus)


def test_a_missing_data_directory_is_one_message(tmp_path):
    process = start(tmp_path / "nowhere")
    message = f"error: the data directory {tmp_path / 'nowhere'} does not exist.\n"
    assert process.communicate() == ("", message)
    assert process.returncode == 1


def test_the_vocabulary_is_copied_once(tmp_path, build, corpus, caplog):
    named = write_vocab(tmp_path / "words.txt")
    for arguments in (["--vocab-file", named], []):
        build(tmp_path, *corpus, *arguments)
        # The second build uses that copy.
        assert (tmp_path / "vocab.txt").read_bytes() == named.read_bytes()

    data_dir = tmp_path / "fresh"
    data_dir.mkdir()
    assert command_line.find_vocab(data_dir, None, cased=False) == command_line.BERT_VOCAB
    for vocab in (command_line.BERT_VOCAB, named):
        command_line.copy_vocab(data_dir, vocab)
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
    tmp_path, build, corpus, config, options, lower, strip
):
    data_dir, vocab = tmp_path / "data", write_vocab(tmp_path / "vocab.txt")
    data_dir.mkdir()
    if config is not None:
        write(tmp_path / "tokenizer_config.json", config)
    build(data_dir, *corpus, "--vocab-file", vocab, *options)
    records_dir = data_dir / "pretrain_tfrecords"
    metadata = load_metadata(records_dir)
    assert (metadata.do_lower_case, metadata.strip_accents) == (lower, strip)
    # The file is copied with the vocabulary: the next build is the same without options.
    built = (records_dir / "metadata.json").read_bytes()
    build(data_dir, *corpus, *options)
    assert (records_dir / "metadata.json").read_bytes() == built


@pytest.mark.parametrize(
    "config, option, message",
    [
        ({"do_lower_case": True}, "--cased", "--cased does not fit .* `do_lower_case` is true"),
        ({"strip_accents": True}, "--no-strip-accents", "`strip_accents` is true in"),
        ({"do_lower_case": 1}, "--cased", "config.json: `do_lower_case` must be true or false"),
    ],
)
def test_an_option_against_the_tokenizer_config_is_an_error(
    tmp_path, build, corpus, config, option, message
):
    write_vocab(tmp_path / "vocab.txt")
    write(tmp_path / "tokenizer_config.json", config)
    with pytest.raises(InputError, match=message):
        build(tmp_path, *corpus, option)
    assert not (tmp_path / "pretrain_tfrecords").exists()


def test_a_tokenizer_config_of_another_vocabulary_stays(tmp_path, build, corpus):
    data_dir, vocab = tmp_path / "data", write_vocab(tmp_path / "vocab.txt")
    write(data_dir / "tokenizer_config.json", {"do_lower_case": False})
    for config in (None, {"do_lower_case": True}):
        if config:
            write(tmp_path / "tokenizer_config.json", config)
        with pytest.raises(InputError, match=f"{data_dir}/tokenizer_config.json is not that of"):
            build(data_dir, *corpus, "--vocab-file", vocab)
    assert [path.name for path in data_dir.iterdir()] == ["tokenizer_config.json"]
    write(tmp_path / "tokenizer_config.json", {"do_lower_case": False})
    build(data_dir, *corpus, "--vocab-file", vocab)  # as after an interrupted copy


def test_the_summary_counts_what_was_skipped_and_warns_of_unknown_words(
    tmp_path, build, corpus, caplog, capsys
):
    options = (*corpus, "--vocab-file", write_vocab(tmp_path / "words.txt"))
    texts = [b"ba da fa " * 9, b"\xff", b"ga ka " * 30, b"ba xyzzy " * 20]
    (tmp_path / "t.txt").write_bytes(b"\n\n".join(texts))
    build(tmp_path, *options, "--max-seq-length", "32")
    # 27 + 60 + 40 tokens, 20 of them unknown, in examples of 30 and 2 or 3 special ones.
    printed = capsys.readouterr().out
    assert "3 documents" in printed and "127 tokens: 15.748% are [UNK]" in printed
    assert "bytes per token" in printed and "% have one" in printed
    assert "skipped   1 not UTF-8 (see metadata.json)" in printed
    assert "15.7 % of the tokens are [UNK]" in caplog.text and "train_vocab.py" in caplog.text

    caplog.clear()
    (tmp_path / "t.txt").write_bytes(b"ba da " * 60 + b"xyzzy")  # 1 of 121
    build(tmp_path, *options, "--overwrite")
    assert "0.826% are [UNK]" in capsys.readouterr().out and "[UNK]" not in caplog.text


def test_options_on_reading_reach_the_build(tmp_path, build, capsys):
    folder = tmp_path / "texts"
    write(folder / "a.jsonl", '{"body": "ba\\n\\nda"}\n{"text": "fa"}\n')
    write(folder / "b.txt", "ba\n\nda")
    write(folder / "c.xz", b"damaged")
    vocab = write_vocab(tmp_path / "words.txt")
    options = ("--corpus", folder, "--vocab-file", vocab, "--text-field", "body")
    with pytest.raises(InputError, match=r"c\.xz .*: damaged.*--skip-damaged"):
        build(tmp_path, *options)
    build(tmp_path, *options, "--skip-damaged", "--no-blanks-separate-docs")
    printed = capsys.readouterr().out
    assert "2 documents" in printed and "4 tokens" in printed
    assert "1 no such field, or no text in it; 1 damaged file" in printed


def test_parts_at_the_same_time_one_of_them_killed(tmp_path, build, capsys):
    write_vocab(tmp_path / "vocab.txt")
    archives = random_archives(NUM_SHARDS, 50, lines_each=40)
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    records = tmp_path / "pretrain_tfrecords"
    options = ("--max-seq-length", "64", "--num-processes", "1")
    one, two = (start(tmp_path, *options, "--part", part) for part in ("1/2", "2/2"))
    with one, two:
        for part, process in enumerate((one, two), start=1):
            progress = records / f"build_progress-{part}-of-2.jsonl"
            while not (progress.exists() and progress.read_bytes().count(b"\n") > 3):
                assert process.poll() is None
                time.sleep(0.002)
            one.send_signal(signal.SIGSTOP)  # while the other part comes so far, too
        one.kill()
        one.communicate()
        _, printed = two.communicate(timeout=600)
    assert two.returncode == 0, printed
    with pytest.raises(InputError, match=r"are missing or cut: .* --part 1/2: run"):
        build(tmp_path, *options, "--finish")
    for arguments in (["--part", "1/2"], ["--finish"]):
        build(tmp_path, *options, *arguments)
    printed = capsys.readouterr().out
    assert (
        f"part 1/2, {NUM_SHARDS // 2} shards" in printed
        and f"{50 * NUM_SHARDS:,} documents" in printed
    )
    same = BuildOptions(str(tmp_path / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(tmp_path), same, tmp_path / "alone")
    assert contents(tmp_path / "alone") == contents(records)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--part", "0/4"], "argument --part: expected K/N with K from 1 to N, got '0/4'"),
        (["--part", "5/4"], "got '5/4'"),
        (["--part", "x"], "got 'x'"),
        (["--part", "1/-1"], "got '1/-1'"),
        (["--part", "1/2", "--finish"], "--finish: not allowed with argument --part"),
    ],
)
def test_impossible_parts(tmp_path, build, capsys, arguments, message):
    with pytest.raises(SystemExit):
        build(tmp_path, *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--part", "1/2"), ("--finish",)])
def test_a_part_overwrites_nothing(tmp_path, build, corpus, arguments):
    with pytest.raises(InputError, match=rf"--overwrite .*{tmp_path}/pretrain_tfrecords before"):
        build(tmp_path, *corpus, *arguments, "--overwrite")


def test_the_script_for_slurm(tmp_path):
    """As Slurm runs it, with a Python that shows its arguments."""
    text = (ROOT / "docs/cluster.md").read_text()
    scripts = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", text, re.S)
    (script,) = (each for each in scripts if "build_data.py" in each)
    os.chmod(write(tmp_path / ".venv/bin/python", '#!/bin/sh\necho "$@"'), 0o755)
    task = {"SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_TASK_ID": "3"}
    common = "build_data.py --data-dir /shared/convbert --corpus /shared/texts"
    for arguments, rest in ([], "--num-processes 4 --part 3/64"), (["finish"], "--finish"):
        command = ["bash", "-c", script, "build_records.sh", *arguments]
        shown = subprocess.check_output(command, cwd=tmp_path, env=os.environ | task, text=True)
        assert shown == f"{common} {rest}\n"
    assert "#SBATCH --array=1-64\n" in script
