"""The cluster's builder as a user runs it; with Spark, on a cluster of this machine."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from scripts import build_data_spark
from tests.support import object_store
from tests.support.corpora import contents, openwebtext_of, random_archives, write_vocab

SCRIPT = pathlib.Path(build_data_spark.__file__)
NUM_SHARDS = 60
# All addresses are of this machine; Spark would have its web pages on all of them. Java compiles
# quickly, as its programs are short.
SETTINGS = {
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_PYTHON": sys.executable,
    "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


def test_without_spark_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data_spark.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["build_data_spark.py", "--data-dir", str(tmp_path)])
    with pytest.raises(InputError, match=r"Spark is missing.*requirements-spark\.txt"):
        build_data_spark.main()
    assert list(tmp_path.iterdir()) == []


def start(program, *arguments, log):
    """Starts a program of Spark in a session of its own."""
    import pyspark

    command = [pathlib.Path(pyspark.__file__).parent / "bin" / program, *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | SETTINGS, start_new_session=True
        )


def wait_for(find, *processes):
    """Returns what `find` finds when that is something; the processes must not end before."""
    deadline = time.monotonic() + 600
    while not (found := find()):
        assert time.monotonic() < deadline and all(each.poll() is None for each in processes)
        time.sleep(0.005)
    return found


@pytest.fixture
def cluster(tmp_path):
    """The address of a master with two workers, and the processes of the workers."""
    log, place = tmp_path / "cluster.log", ["--host", "127.0.0.1", "--webui-port", "0"]
    kind = "org.apache.spark.deploy"
    with contextlib.ExitStack() as stack:

        def serve(*arguments):
            process = start("spark-class", *arguments, log=log)
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            return process

        master = serve(f"{kind}.master.Master", *place, "--port", "0")
        starting = re.compile(r"Starting Spark master at (spark://127\.0\.0\.1:\d+)")
        address = wait_for(lambda: starting.search(log.read_text()), master)[1]
        one = ["--cores", "1", "--memory", "1g", "--work-dir", tmp_path / "work", address]
        yield address, [serve(f"{kind}.worker.Worker", *place, *one) for _ in range(2)]


def executors_of(workers):
    """The processes of executors, which are in the sessions of their workers."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            is_executor = b"CoarseGrainedExecutorBackend" in path.read_bytes()
            if is_executor and os.getsid(int(path.parent.name)) in {each.pid for each in workers}:
                found.append(int(path.parent.name))
    return found


def finished(records, but=()):
    """The shards that some worker noted, except `but`, with the times when they were written."""
    text = ""
    for file in records.glob("build_progress-*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # a new driver takes them over
            text += file.read_text()
    shards = {records / name for name in re.findall(r'"(pretrain_data[^"]*)"', text)} - set(but)
    return {path: path.stat().st_mtime_ns for path in shards}


@pytest.mark.peers
def test_killed_driver_and_killed_executor(tmp_path, cluster):
    """Finished shards are kept, and the bytes are those of one local process."""
    address, workers = cluster
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    write_vocab(data_dir / "vocab.txt")
    archives = random_archives(NUM_SHARDS, 50, lines_each=40)
    (data_dir / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    records, log = data_dir / "pretrain_tfrecords", tmp_path / "driver.log"
    submit = ["spark-submit", "--master", address, "--conf", "spark.driver.host=127.0.0.1"]
    submit += ["--conf", "spark.ui.enabled=false", "--conf", "spark.executor.memory=512m"]
    submit += [SCRIPT, "--data-dir", data_dir, "--max-seq-length", "64"]

    driver = start(*submit, log=log)
    wait_for(lambda: len(finished(records)) >= 3, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not executors_of(workers), *workers)
    kept = finished(records)
    assert 3 <= len(kept) < NUM_SHARDS and not (records / "metadata.json").exists()

    log.write_bytes(b"")
    driver = start(*submit, log=log)
    wait_for(lambda: len(finished(records, but=kept)) >= 3, driver)
    os.kill(executors_of(workers)[0], signal.SIGKILL)
    assert driver.wait() == 0, log.read_text()[-3000:]
    printed = log.read_text()
    assert f"{NUM_SHARDS - len(kept)} of {NUM_SHARDS} shards to build" in printed
    assert "Lost executor" in printed and f"{50 * NUM_SHARDS:,} documents" in printed
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    options = BuildOptions(str(data_dir / "vocab.txt"), max_seq_length=64)
    build_records(find_corpus(data_dir), options, tmp_path / "local")
    assert contents(records) == contents(tmp_path / "local")
    assert len(contents(records)) == NUM_SHARDS + 1


@pytest.mark.peers
def test_corpus_and_records_in_a_store(tmp_path, monkeypatch):
    import fsspec

    vocab = write_vocab(tmp_path / "vocab.txt")
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(random_archives(4, 20, lines_each=9)))
    log, url = tmp_path / "driver.log", "s3://spark/pretrain_tfrecords"
    with object_store.s3_server() as address:
        for name, value in (object_store.KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("spark")
        system.put_file(str(tmp_path / "openwebtext.tar"), "spark/openwebtext.tar")
        submit = [
            "spark-submit",
            "--master",
            "local[2]",
            "--conf",
            "spark.ui.enabled=false",
            SCRIPT,
        ]
        submit += ["--data-dir", "s3://spark", "--vocab-file", vocab, "--max-seq-length", "64"]
        assert start(*submit, log=log).wait() == 0, log.read_text()[-3000:]
        stored = {os.path.basename(path): system.cat(path) for path in system.find(url)}
    options = BuildOptions(str(vocab), max_seq_length=64)
    build_records(find_corpus(tmp_path), options, tmp_path / "local")
    assert stored == contents(tmp_path / "local") and len(stored) == 5


@pytest.mark.peers
def test_a_master_that_is_none(tmp_path):
    (tmp_path / "t.txt").write_text("ba da")
    log = tmp_path / "driver.log"
    options = ["--data-dir", tmp_path, "--corpus", tmp_path / "t.txt"]
    assert start("spark-submit", "--master", "local[x]", SCRIPT, *options, log=log).wait() == 1
    error = r"^error: Spark gave up: .*local\[x\](.|\n)*the address of a running cluster\.$"
    assert re.search(error, log.read_text(), re.MULTILINE)
    assert not (tmp_path / "pretrain_tfrecords").exists()
