"""Compiles the pre-training step with XLA for CUDA, without a GPU, and estimates its time.

The time is a lower bound, from a roofline: a kernel takes as long as its bytes at the peak memory
bandwidth, its products at the peak of tensor cores or its other arithmetic, whichever is longest.
Each launch adds 2 microseconds. Nothing runs, and the compiler tunes no kernel.
"""

import argparse
import collections
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import worker_compile
from benchmarks.gpu_targets import TARGETS, Target
from benchmarks.hlo import Kernel, Program
from benchmarks.rounds import ROOT
from common.errors import InputError
from common.files import write_json
from common.markdown import markdown_table
from configure_pretraining import PretrainingConfig
from model.config import load_hparams

LAUNCH_SECONDS = 2e-6
INTEGER_LANES = 64  # integer operations that a core starts in a cycle, on all targets
INTEGER_INSTRUCTIONS = 0.7  # per operation: an instruction adds or mixes three numbers
# Tuning would run kernels. Without it, Triton may find no tiles for a product, so cuBLAS does all.
XLA_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"


def run(args: argparse.Namespace) -> None:
    """Compiles the step, and prints its time and its kernels."""
    hparams = {
        "model_size": args.size,
        "train_batch_size": args.batch_size,
        "max_seq_length": args.length,
        "precision": args.precision,
        "num_devices": 1,
        "jit_compile": True,
    } | load_hparams(args.hparams)
    config, target = PretrainingConfig.from_hparams(hparams), TARGETS[args.target]
    job = {"backend": args.backend, "hparams": hparams}
    with tempfile.TemporaryDirectory() as folder:
        summary, kernels = compile_step(job | {"folder": folder}, target)
    seconds = [kernel_seconds(kernel, target, config.precision) for kernel in kernels]
    total = sum(seconds) + LAUNCH_SECONDS * len(kernels)
    tokens = config.train_batch_size * config.max_seq_length
    row = {
        "compile s": round(summary["compile_seconds"], 1),
        "peak GB": round(summary["peak_bytes"] / 1e9, 2),
        "TFLOP": round(sum(kernel.products for kernel in kernels) / 1e12, 3),
        "GB moved": round(sum(kernel.bytes for kernel in kernels) / 1e9, 2),
        "launches": len(kernels),
        "ms without launches": round(sum(seconds) * 1e3, 2),
        "ms": round(total * 1e3, 2),
        "tokens/s": round(tokens / total),
    }
    kinds = by_kind(kernels, seconds)
    peak, bandwidth = target.products_per_second(config.precision) / 1e12, target.bandwidth / 1e12
    limits = f"{peak:.0f} TFLOP/s, {bandwidth:.2f} TB/s, {LAUNCH_SECONDS * 1e6:.0f} µs a launch"
    print(f"{target.name}, {config.precision}: {limits}; {args.backend}\n")
    print_table([row])
    if args.by_kind:
        print_table(kinds)
    if args.output:
        parts = [
            dataclasses.asdict(kernel) | {"seconds": time}
            for kernel, time in zip(kernels, seconds, strict=True)
        ]
        report = {"step": job, "target": args.target, "total": row, "kinds": kinds}
        write_json(args.output, report | {"kernels": parts}, indent=1)


def compile_step(job: dict, target: Target) -> tuple[dict, list[Kernel]]:
    """Traces and compiles in workers; returns seconds and memory, and the program's kernels."""
    compiler = make_environment()
    tracer = compiler if job["backend"] == "jax" else sys.executable
    start_worker(tracer, job | {"action": "trace"})
    job = {"action": "compile", "target": target.description(), "xla_flags": XLA_FLAGS} | job
    start_worker(compiler, job)
    folder = Path(job["folder"])
    summary = json.loads((folder / worker_compile.SUMMARY).read_text(encoding="utf-8"))
    text = (folder / worker_compile.COMPILED).read_text(encoding="utf-8")
    return summary, Program(text).kernels()


def make_environment() -> str:
    """Makes .venv-compile, or brings it up to date, and returns the path of its Python."""
    folder = ROOT / ".venv-compile"
    command = f". scripts/environment.sh; make_venv {folder.name} requirements-compile.txt >&2"
    if subprocess.run(["bash", "-ec", command], cwd=ROOT, check=False).returncode:
        raise InputError(f"cannot make {folder} with requirements-compile.txt; see above")
    return str(folder / "bin" / "python")


def start_worker(python: str, job: dict) -> None:
    """Runs a worker until it ends.

    Raises:
        InputError: the worker failed; the message ends with its error output.
    """
    command = [python, worker_compile.__file__, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise InputError(f"cannot {job['action']} the step on {job['backend']}:\n{lines}")


def kernel_seconds(kernel: Kernel, target: Target, precision: str) -> float:
    """The least time of a kernel on a GPU, without its launch."""
    cycles = kernel.integers * INTEGER_INSTRUCTIONS / INTEGER_LANES + kernel.floats / target.lanes
    return max(
        kernel.bytes / target.bandwidth,
        kernel.products / target.products_per_second(precision),
        cycles / (target.cores * target.clock * 1e9),
    )


def by_kind(kernels: list[Kernel], seconds: list[float]) -> list[dict]:
    """Launches, bytes and time of each kind of kernel; the longest first."""
    sums = collections.defaultdict(lambda: [0, 0.0, 0.0])
    for kernel, time in zip(kernels, seconds, strict=True):
        for i, amount in enumerate((1, kernel.bytes / 1e9, (time + LAUNCH_SECONDS) * 1e3)):
            sums[kernel.kind][i] += amount
    return [
        {"kind": kind, "launches": count, "GB moved": round(moved, 2), "ms": round(time, 2)}
        for kind, (count, moved, time) in sorted(sums.items(), key=lambda item: -item[1][2])
    ]


def print_table(rows: list[dict]) -> None:
    """Prints rows with the same fields as a Markdown table."""
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows]
    print(markdown_table(list(rows[0]), cells))
