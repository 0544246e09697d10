"""`benchmark.py data`: building records, beside other ways to do it."""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import machine, on_cores
from common.errors import InputError
from common.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers.py"
ORIGINAL_BUILDER = "build_openwebtext_pretraining_dataset.py"
ORIGINAL = "original's builder"
ORIGINAL_RECORDS = ", original's records"


@dataclasses.dataclass
class Measurement:
    """One run: one command, or several at once."""

    seconds: float
    """From the start to the end of the last command."""
    start_seconds: float
    """Of these, what passed until the work began, where that is known; else 0."""
    cpu_seconds: float
    peak_bytes: int
    """Resident memory of the largest process; at least this one's own, which is small."""
    text_bytes: int = 0
    """Text, without white space at the ends of lines; how every run counts it."""
    record_bytes: int = 0
    record_tokens: int = 0

    @property
    def rate(self) -> float:
        """Megabytes of text a second."""
        return self.text_bytes / 1e6 / self.seconds

    @property
    def steady_rate(self) -> float:
        """The same, the start not counted: what a large corpus comes to."""
        return self.text_bytes / 1e6 / (self.seconds - self.start_seconds)


def measure(commands: list[list[str]], started: str | None = None) -> tuple[Measurement, list[str]]:
    """Runs commands at once, to their end.

    Args:
        commands: each a program and its arguments.
        started: a text in a line on stderr that says that the start is over.

    Returns:
        what was measured, and each command's standard output.

    Raises:
        InputError: a command failed; with the end of what it printed.
    """
    begin = time.monotonic()
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    starts, outputs, complaints = (
        [0.0] * len(commands),
        [b""] * len(commands),
        [b""] * len(commands),
    )

    def read_output(index):
        outputs[index] = processes[index].stdout.read()

    def read_complaints(index):
        for line in processes[index].stderr:
            if started and started.encode() in line:
                starts[index] = time.monotonic() - begin
            complaints[index] = (complaints[index] + line)[-2000:]

    readers = [
        threading.Thread(target=read, args=[index])
        for index in range(len(commands))
        for read in (read_output, read_complaints)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    cpu_seconds, peak_bytes = 0.0, 0
    for process in processes:
        # Of the process and of those it waited for: the sum of the times, the largest memory.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_seconds += usage.ru_utime + usage.ru_stime
        peak_bytes = max(peak_bytes, usage.ru_maxrss * 1024)
    seconds = time.monotonic() - begin
    for process, complaint in zip(processes, complaints, strict=True):
        if process.returncode:
            command = " ".join(map(str, process.args))
            raise InputError(
                f"{command}\nended with exit code {process.returncode}:\n{complaint.decode()}"
            )
    measured = Measurement(seconds, max(starts), cpu_seconds, peak_bytes)
    return measured, [output.decode() for output in outputs]


def in_turn(runs: dict[str, Callable[[], Measurement]], repeats: int) -> dict[str, list]:
    """Runs each, then each again, in the opposite order; returns the measurements by name."""
    results = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: 1 - 2 * (repeat % 2)]:
            print(f"[{repeat + 1}/{repeats}] {name}", file=sys.stderr, flush=True)
            results[name].append(runs[name]())
    return results


def benchmark_data(args: argparse.Namespace) -> None:
    """Builds a corpus with one process, with several, with copies of one; and runs the peers."""
    for name in ("num_processes", "repeats"):
        if getattr(args, name) < 1:
            raise InputError(f"`{name}` must be at least 1. Received: {getattr(args, name)}")
    vocab_file = os.path.abspath(args.vocab_file or ROOT / "data" / "vocab" / "bert_uncased.txt")
    corpus = os.path.abspath(args.corpus)
    with tempfile.TemporaryDirectory() as scratch, on_cores(args.num_processes):
        runs = data_runs(args, corpus, vocab_file, Path(scratch))
        results = in_turn(runs, args.repeats)
    text_bytes = results[build_name(1)][0].text_bytes
    for measured in results.get(ORIGINAL, []):
        measured.text_bytes = text_bytes
    report = {
        "machine": machine(),
        "corpus": os.path.basename(corpus),
        "num_processes": args.num_processes,
        "text_bytes": text_bytes,
        "runs": {
            name: [dataclasses.asdict(measured) for measured in repeats]
            for name, repeats in results.items()
        },
        "ratios": data_ratios(results, build_name(args.num_processes)),
    }
    print(
        f"{report['corpus']}, {text_bytes / 1e6:.1f} MB of text; {report['machine']['cpu']}, "
        f"{args.num_processes} cores; medians of {args.repeats}\n"
    )
    print(data_table(results))
    print(*(f"{name}: {value:.2f}" for name, value in report["ratios"].items()), sep="\n")
    if args.output:
        write_text(args.output, json.dumps(report, indent=1) + "\n")


def data_runs(
    args: argparse.Namespace, corpus: str, vocab_file: str, scratch: Path
) -> dict[str, Callable[[], Measurement]]:
    """Returns what to run, by name."""
    count = args.num_processes

    def build(num_processes=1, copies=1, record_format="compact"):
        return lambda: run_builds(corpus, vocab_file, num_processes, copies, record_format)

    runs = {build_name(1): build()}
    if count > 1:
        runs[build_name(count)] = build(count)
        runs[f"{build_name(1)}, {count} of them at once"] = build(copies=count)
    runs[f"{build_name(count)}{ORIGINAL_RECORDS}"] = build(count, record_format="original")
    if "tokenizers" in args.peers:
        if "tokenizers" in machine()["packages"]:
            name = f"tokenizers, tokenizing alone, threads: {count}"
            runs[name] = lambda: run_peer("tokenizers", corpus, vocab_file, count)
        else:
            print("tokenizers is not installed: left out", file=sys.stderr)
    if "original" in args.peers and args.original:
        stage_original(corpus, vocab_file, scratch)
        runs[ORIGINAL] = lambda: run_original(args, scratch)
    elif "original" in args.peers:
        name = f"stand-in for the {ORIGINAL}, processes: {count}"
        runs[name] = lambda: run_peer("plain", corpus, vocab_file, count)
    return runs


def build_name(num_processes: int) -> str:
    """Names a run of our builder."""
    return f"build, processes: {num_processes}"


def run_builds(
    corpus: str, vocab_file: str, num_processes: int, copies: int, record_format: str
) -> Measurement:
    """Runs build_data.py, or several at once."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, str(index)) for index in range(copies)]
        commands = []
        for folder in folders:
            folder.mkdir()
            options = {
                "--data-dir": folder,
                "--corpus": corpus,
                "--vocab-file": vocab_file,
                "--num-processes": num_processes,
                "--record-format": record_format,
            }
            words = [str(word) for option in options.items() for word in option]
            commands.append([sys.executable, str(ROOT / "build_data.py"), *words])
        measured, _ = measure(commands, started="shards to build")
        for folder in folders:
            metadata = json.loads((folder / "pretrain_tfrecords" / "metadata.json").read_text())
            measured.text_bytes += metadata["totals"]["text_bytes"]
            measured.record_bytes += metadata["totals"]["bytes"]
            measured.record_tokens += metadata["totals"]["tokens"]
    return measured


def run_peer(name: str, corpus: str, vocab_file: str, count: int) -> Measurement:
    """Runs one of peers.py, which says itself how long its work took."""
    command = [sys.executable, str(PEERS), name, corpus, vocab_file, str(count)]
    measured, (output,) = measure([command])
    told = json.loads(output.splitlines()[-1])
    measured.start_seconds = measured.seconds - told.pop("seconds")
    return dataclasses.replace(measured, **told)


def stage_original(corpus: str, vocab_file: str, folder: Path) -> None:
    """Lays out OpenWebText as the release wants it."""
    from data.corpus.sources import find_corpus

    found = find_corpus(folder, corpus)
    if found.is_stream or any(source.kind != "archive" for source in found.sources):
        raise InputError(
            "the original's builder reads OpenWebText's archives only, from a folder or a plain "
            f"tar. Received: {corpus}. Leave --original out."
        )
    (folder / "openwebtext").mkdir()
    for index, source in enumerate(found.sources):
        with open(source.path, "rb") as file:
            file.seek(source.offset)
            content = file.read(source.size)
        (folder / "openwebtext" / f"{index:05d}_data.xz").write_bytes(content)
    (folder / "vocab.txt").write_bytes(Path(vocab_file).read_bytes())


def run_original(args: argparse.Namespace, folder: Path) -> Measurement:
    """Runs the release's builder."""
    script = Path(args.original).absolute() / ORIGINAL_BUILDER
    words = ["--data-dir", str(folder), "--num-processes", str(args.num_processes)]
    measured, _ = measure([[args.original_python, str(script), *words]])
    shards = list((folder / "pretrain_tfrecords").iterdir())
    measured.record_bytes = sum(shard.stat().st_size for shard in shards)
    if not measured.record_bytes:
        raise InputError(f"{script} wrote no records; its processes may have failed unseen.")
    return measured


def data_table(results: dict[str, list[Measurement]]) -> str:
    """Lays the medians out as a table in Markdown."""
    lines = [
        "| | seconds | MB of text/s | start not counted | cores busy | peak MB a process "
        "| record bytes/token |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, repeats in results.items():
        first = repeats[0]
        per_token = first.record_bytes / first.record_tokens if first.record_tokens else None
        cells = (
            f"{median(repeats, lambda run: run.seconds):.1f}",
            f"{median(repeats, lambda run: run.rate):.2f}",
            f"{median(repeats, lambda run: run.steady_rate):.2f}",
            f"{median(repeats, lambda run: run.cpu_seconds / run.seconds):.2f}",
            f"{median(repeats, lambda run: run.peak_bytes) / 1e6:.0f}",
            f"{per_token:.2f}" if per_token else "",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def data_ratios(results: dict[str, list[Measurement]], ours: str) -> dict[str, float]:
    """Compares the rate of one run with each other's."""
    ratios = {}
    for name, repeats in results.items():
        if name == ours or name.endswith(ORIGINAL_RECORDS):
            continue
        for label, rate in (
            ("", lambda run: run.rate),
            (", start not counted", lambda run: run.steady_rate),
        ):
            ratios[f"{ours} / {name}{label}"] = median(results[ours], rate) / median(repeats, rate)
    return ratios


def median(repeats: list[Measurement], value: Callable[[Measurement], float]) -> float:
    """Returns the median of a value over the repeats."""
    return statistics.median(map(value, repeats))
