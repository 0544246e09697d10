"""Shared by all benchmarks: workers, the rounds that alternate between them, and the report."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import InputError
from common.files import write_json
from common.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
OURS = "ours"
PAUSE = 0.3  # seconds before each measurement: threads of the previous one stop spinning
MODEL_FIELDS = ("cpu family", "model", "stepping")  # of x86; the next line: of Arm
MODEL_FIELDS += ("CPU implementer", "CPU variant", "CPU part", "CPU revision")
INSTRUCTION_SETS = ("avx", "amx", "fma", "asimd", "sve", "bf16")  # how their names start
COLUMNS = (  # field, title, divisor, format
    ("seconds", "s per {unit}", 1, ".4g"),
    ("least", "least", 1, ".4g"),
    ("most", "most", 1, ".4g"),
    ("examples_per_second", "examples/s", 1, ",.1f"),
    ("tokens_per_second", "tokens/s", 1, ",.0f"),
    ("text_bytes_per_second", "MB of text/s", 1e6, ".2f"),
    ("tokens_per_row", "tokens per row", 1, ".1f"),
    ("flops_per_second", "GFLOP/s", 1e9, ",.1f"),
    ("share_of_peak", "% of peak", 0.01, ".1f"),
    ("bytes_per_token", "bytes per token", 1, ".2f"),
    ("cores_busy", "cores busy", 1, ".2f"),
    ("peak_bytes", "peak MB", 1e6, ",.0f"),
    ("device_peak_bytes", "device peak MB", 1e6, ",.0f"),
    ("first_step_seconds", "s to end of first step", 1, ".1f"),
    ("first_loss", "first loss", 1, ".2f"),
    ("parameters", "parameters", 1, ",.0f"),
    ("file_bytes", "MB on disk", 1e6, ".1f"),
)


class Worker:
    """A process that builds a model and then works on request; see `benchmarks.session`.

    The process ends when `stack` closes. `framework` and `interpreter` are set for a peer's worker.
    """

    def __init__(
        self,
        job: dict,
        stack: contextlib.ExitStack,
        environment: dict,
        framework: str = "keras",
        interpreter: str = sys.executable,
    ):
        self.job = job
        python = shutil.which(interpreter)
        if python is None:
            option = "--garden-python" if framework == "garden" else "--peer-python"
            raise InputError(f"{option}: no such program: {interpreter}")
        print("starting a worker", file=sys.stderr, flush=True)
        self.stderr = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        begin = time.monotonic()
        process = subprocess.Popen(
            [os.path.abspath(python), "-m", f"benchmarks.worker_{framework}", json.dumps(job)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            cwd=ROOT,
            env=os.environ | environment,
        )
        self.process = stack.enter_context(process)
        self.ask(1)
        self.facts = {"first_step_seconds": time.monotonic() - begin}
        # A round to warm up. The peaks of later rounds would include the matrix products.
        self.facts["device_peak_bytes"] = self.ask(job["steps"])["device_peak_bytes"]

    def ask(self, steps: int) -> dict:
        """Has the worker take steps, or measure matrix products for 0; returns the reply."""
        with contextlib.suppress(BrokenPipeError):  # there will be no reply
            self.process.stdin.write(b"%d\n" % steps)
        reply = self.process.stdout.readline()
        if not reply:
            status = self.process.wait()
            self.stderr.seek(0)
            text = self.stderr.read().decode(errors="replace").strip()
            raise InputError(f"a worker ended with exit code {status}:\n{text[-2000:]}")
        return json.loads(reply)

    def run_round(self) -> dict:
        """Measures the steps of a round, and then the products."""
        products = "products" in self.job
        return self.ask(self.job["steps"]) | self.facts | (self.ask(0) if products else {})


def measure(
    args: argparse.Namespace, jobs: dict[str, dict], peers: dict[str, dict], scratch: str
) -> tuple[dict[str, dict], list[str]]:
    """Starts workers one after the other, and measures them in alternating rounds.

    Returns measurements by worker, as `alternate` does, and notes. There is a note for each of
    `peers`, the workers of other implementations, that did not work and was left out.
    """
    use_cores(args.threads)
    environment = {
        "KERAS_BACKEND": args.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # leaves memory to the other workers
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",  # empty: compilation counts
    }
    runs, notes = {}, []
    with contextlib.ExitStack() as stack:
        for name, job in jobs.items():
            runs[name] = Worker(job, stack, environment).run_round
        for name, job in peers.items():
            python = args.garden_python if job["framework"] == "garden" else args.peer_python
            try:
                worker = Worker(job, stack, environment, job["framework"], python)
                runs[name] = worker.run_round
            except InputError as error:
                notes.append(f"{name} was left out: {str(error).splitlines()[-1]}")
        return alternate(runs, args.rounds), notes


def use_cores(count: int) -> None:
    """Restricts this process and the processes that it starts to `count` of the cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def alternate(runs: dict[str, Callable[[], dict]], rounds: int) -> dict[str, dict]:
    """Calls each function once per round, in reverse order in every other round.

    Each function returns fields, including `seconds`. The result has the medians of fields that are
    floats, and the last values of the others. It also has the `least` and the `most` seconds, and
    all `rounds`.
    """
    measured = {name: [] for name in runs}
    for index in range(rounds):
        print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in list(runs)[:: -1 if index % 2 else 1]:
            time.sleep(PAUSE)
            measured[name].append(runs[name]())
    rows = {}
    for name, results in measured.items():
        floats = [field for field, value in results[-1].items() if isinstance(value, float)]
        medians = {field: statistics.median(r[field] for r in results) for field in floats}
        seconds = [result["seconds"] for result in results]
        extremes = {"least": min(seconds), "most": max(seconds)}
        rows[name] = results[-1] | medians | extremes | {"rounds": results}
    return rows


def report(
    args: argparse.Namespace,
    rows: dict[str, dict],
    unit: str,
    rate: str,
    baseline: str = OURS,
    notes: Iterable[str] = (),
) -> None:
    """Prints a table of the medians, ratios and notes, and writes `--output`.

    `seconds` are per `unit`. Ratios compare the field `rate` of `baseline` with each other row.
    """
    machine = describe_machine()
    options = {name: value for name, value in vars(args).items() if name != "output"}
    others = {name: row for name, row in rows.items() if name != baseline}
    ratios = {f"{baseline} / {name}": rows[baseline][rate] / r[rate] for name, r in others.items()}
    columns = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows.values())]
    cells = []
    for name, row in rows.items():
        values = [(row.get(field), divisor, form) for field, _, divisor, form in columns]
        cells.append([name, *(None if v is None else format(v / d, form) for v, d, form in values)])
    header = ["", *(title.format(unit=unit) for _, title, _, _ in columns)]
    print(*(f"{name}={value}" for name, value in options.items() if value is not None))
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction_sets']}\n")
    print(markdown_table(header, cells))
    print(*(f"{name}: {ratio:.3g}" for name, ratio in ratios.items()), *notes, sep="\n")
    if args.output:
        result = {"machine": machine, "options": options, "rows": rows, "ratios": ratios}
        write_json(args.output, result | {"notes": notes}, indent=1)


def describe_machine() -> dict:
    """The processor, its exact model, its instruction sets, and the load."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {key.strip(): text.split() for key, _, text in (line.partition(":") for line in lines)}
    flags = fields.get("flags") or fields.get("Features", [])
    return {
        "cpu": " ".join(fields.get("model name", [platform.machine()])),
        "model": ", ".join(f"{f} {fields[f][0]}" for f in MODEL_FIELDS if fields.get(f)),
        "instruction_sets": " ".join(flag for flag in flags if flag.startswith(INSTRUCTION_SETS)),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
