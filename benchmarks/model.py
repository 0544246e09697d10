"""`benchmark.py pretrain` and `benchmark.py infer`: our models and PyTorch's, in turn.

Each contender is a process of its own, which builds its model, takes its first steps, and then
works on request: rounds alternate, so that a machine whose speed drifts is as slow to one as to
another. All get the same batches.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import flops as benchmark_flops
from benchmarks.machine import machine, on_cores
from common.errors import InputError
from common.fields import require
from common.files import write_text
from configure_pretraining import PretrainingConfig
from model.config import ConvBertConfig, max_predictions_per_seq

SCRIPTS = Path(__file__).resolve().parent
OUR_COMMAND = [sys.executable, str(SCRIPTS / "worker_keras.py")]
OURS, READER = "ours", "input pipeline"
PEERS = {"torch": "transformers", "torch-compiled": "transformers, torch.compile"}
NUM_BATCHES = 8  # that the contenders go through, over and over
WARM_UP_STEPS = 2
PAUSE = 0.3  # seconds before a turn, in which the threads of the turn before stop spinning
VOCAB_SIZE = 30522  # where no records say otherwise


class Contender:
    """A process that works on request, and what it answered.

    Args:
        name: in tables.
        command: starts the process.
        job: what it shall build, in JSON's terms.
        environment: beside this process's own.
    """

    def __init__(self, name: str, command: list[str], job: dict, environment: dict[str, str]):
        self.name = name
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 (`close` does)
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env=os.environ | environment,
            text=True,
        )
        self.send(job)
        self.first: dict = {}
        self.steps = 0
        """Of a round."""
        self.rounds: list[float] = []
        """Seconds a step."""
        self.products: dict[str, list[float]] = {}
        """Operations a second, by name of the product."""

    def send(self, message: dict) -> None:
        """Writes to the process, which may be dead: then no answer will come."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), file=self.process.stdin, flush=True)

    def ask(self, request: str, **arguments) -> dict:
        """Returns the answer to a request.

        Raises:
            InputError: the process died; with the end of what it printed.
        """
        self.send({"do": request} | arguments)
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            self.complaints.seek(0)
            text = self.complaints.read().decode(errors="replace").strip()
            raise InputError(f"{self.name} ended with exit code {status}:\n{text[-2000:]}")
        return json.loads(answer)

    def take_first_step(self, warm_up_steps: int = WARM_UP_STEPS) -> None:
        """Waits for the first step, timed from the start of the process, and warms up."""
        self.first = self.ask("steps", count=1)
        self.first["since_start"] = time.monotonic() - self.begin
        self.ask("steps", count=warm_up_steps)

    def take_turn(
        self, steps: int, products: dict[str, tuple] | None = None, dtype: str = "float32"
    ) -> None:
        """Measures some steps, and the machine's peak as this process reaches it."""
        time.sleep(PAUSE)
        answer = self.ask("steps", count=steps)
        self.steps = answer["steps"]
        self.rounds.append(answer["seconds"] / answer["steps"])
        for name, (m, k, n) in (products or {}).items():
            rate = self.ask("multiply", m=m, k=k, n=n, dtype=dtype)["flops_per_second"]
            self.products.setdefault(name, []).append(rate)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.complaints.close()


def benchmark_pretrain(args: argparse.Namespace) -> None:
    """Times steps of pre-training."""
    check(args)
    vocab_size, length = VOCAB_SIZE, args.length or 128
    if args.records:
        from data.records.metadata import load_metadata

        metadata = load_metadata(args.records)
        vocab_size = metadata.vocab_size or VOCAB_SIZE
        length = args.length or metadata.max_seq_length
    hparams = {
        "model_size": args.size,
        "train_batch_size": args.batch_size,
        "max_seq_length": length,
        "precision": args.precision,
        "steps_per_execution": args.steps_per_execution,
        "num_devices": 1,
        "jit_compile": args.jit_compile,
    }
    config = PretrainingConfig.from_hparams(hparams)
    network, objective = config.model_config(vocab_size), config.objective()
    generator = network.generator(objective.generator_hidden_size, objective.generator_layers)
    job = base_job(args, "pretrain", network, length) | {
        "hparams": hparams,
        "records": args.records and os.path.abspath(args.records),
        "objective": {name: getattr(objective, name) for name in ("mask_prob", "disc_weight")},
    }
    job["networks"]["generator"] = generator.to_hf_dict("ConvBertForMaskedLM")
    predictions = args.batch_size * max_predictions_per_seq(length, objective.mask_prob)
    flops = benchmark_flops.pretraining_flops(network, objective, args.batch_size, length)
    products = {"predictions x E x V": (predictions, network.embedding_size, vocab_size)}
    race(args, job, network, flops, products)


def benchmark_infer(args: argparse.Namespace) -> None:
    """Times the encoder's forward pass."""
    check(args)
    length = args.length or 128
    network = ConvBertConfig.from_size(args.size, vocab_size=VOCAB_SIZE)
    job = base_job(args, "infer", network, length)
    job |= {"size": args.size, "jit_compile": args.jit_compile}
    race(args, job, network, benchmark_flops.encoder_flops(network, args.batch_size, length), {})


def check(args: argparse.Namespace) -> None:
    """Refuses impossible counts."""
    for name in ("batch_size", "rounds", "steps", "threads"):
        require(getattr(args, name) >= 1, f"--{name.replace('_', '-')}", "at least 1",
                getattr(args, name))  # fmt: skip


def base_job(args: argparse.Namespace, kind: str, network: ConvBertConfig, length: int) -> dict:
    """What every contender must know."""
    require(
        8 <= length <= network.max_position_embeddings,
        "--length",
        f"from 8 to {network.max_position_embeddings}",
        length,
    )
    return {
        "kind": kind,
        "vocab_size": network.vocab_size,
        "batch_size": args.batch_size,
        "length": length,
        "num_batches": NUM_BATCHES,
        "threads": args.threads,
        "precision": args.precision,
        "networks": {"discriminator": network.to_hf_dict("ConvBertModel")},
    }


def race(
    args: argparse.Namespace,
    job: dict,
    network: ConvBertConfig,
    flops: int,
    products: dict[str, tuple[int, int, int]],
) -> None:
    """Starts the contenders, has them work in turn, and reports.

    Args:
        args: the options.
        job: what each shall build.
        network: the encoder's configuration.
        flops: of a step.
        products: what the peak is measured with, beside a feed-forward layer and a square.
    """
    with tempfile.TemporaryDirectory() as scratch, on_cores(args.threads):
        job["batches"] = str(Path(scratch, "batches.npz"))
        planned = plan(args, job)
        contenders, left_out = start(planned, environment(args, scratch))
        named = {contender.name: contender for contender in contenders}
        try:
            reports = {name: contender.ask("report") for name, contender in named.items()}
            side = 8192 if reports[OURS]["device"] != "cpu" else 2048
            tokens, hidden = args.batch_size * job["length"], network.hidden_size
            products = products | {
                "tokens x H x 4 H": (tokens, hidden, 4 * hidden),
                "square": (side, side, side),
            }
            dtype = args.precision.removeprefix("mixed_")
            for contender in in_turn(contenders, args.rounds):
                used = {} if contender.name == READER else products
                contender.take_turn(args.steps, used, dtype)
            # A device's memory is what it was before the large products.
            reports = {
                name: contender.ask("report")
                | {"device_peak_bytes": reports[name]["device_peak_bytes"]}
                for name, contender in named.items()
            }
        finally:
            for contender in contenders:
                contender.close()
    result = summarize(named, reports, flops, tokens, products)
    options = {name: value for name, value in vars(args).items() if name != "output"}
    options["length"] = job["length"]
    result = {"machine": machine(), "options": options, "left_out": left_out} | result
    print(report_text(result))
    if args.output:
        write_text(args.output, json.dumps(result, indent=1) + "\n")


def plan(args: argparse.Namespace, job: dict) -> list[tuple[str, list[str], dict]]:
    """Leaves the batches where the job says; returns each contender's name, command and job."""
    planned = []
    if job.get("records"):
        planned.append((READER, OUR_COMMAND, job | {"kind": "read"}))
    else:
        np.savez(job["batches"], **random_batches(job))
    planned.append((OURS, OUR_COMMAND, job))
    for peer in args.peers:
        its_job = job | {"compiled": peer == "torch-compiled"}
        planned.append((PEERS[peer], peer_command(args), its_job))
    return planned


def peer_command(args: argparse.Namespace) -> list[str]:
    """What starts a contender in PyTorch."""
    return [args.peer_python, str(SCRIPTS / "worker_torch.py")]


def environment(args: argparse.Namespace, scratch: str) -> dict[str, str]:
    """The contenders' environment, beside this process's own."""
    return {
        "KERAS_BACKEND": args.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # it would leave the peer no memory
        # Nothing compiled before, which would hide what compiling costs.
        "TORCHINDUCTOR_CACHE_DIR": str(Path(scratch, "inductor")),
    }


def start(
    planned: list[tuple[str, list[str], dict]],
    environment: dict[str, str],
    warm_up_steps: dict[str, int] | None = None,
) -> tuple[list[Contender], dict[str, str]]:
    """Starts all contenders, one after the other, each to the end of its warm-up.

    Args:
        planned: name, command and job of each.
        environment: beside this process's own.
        warm_up_steps: by name, where it is not `WARM_UP_STEPS`.

    Returns:
        The contenders; and for each peer that could not start, why.

    Raises:
        InputError: one of our own could not.
    """
    contenders, left_out = [], {}
    for name, command, job in planned:
        print(f"starting {name}", file=sys.stderr, flush=True)
        contender = Contender(name, command, job, environment)
        contenders.append(contender)
        try:
            contender.take_first_step((warm_up_steps or {}).get(name, WARM_UP_STEPS))
        except InputError as error:
            contenders.pop().close()
            if name not in PEERS.values():
                for other in contenders:
                    other.close()
                raise
            left_out[name] = str(error).splitlines()[-1]
            print(f"{name} is left out: {left_out[name]}", file=sys.stderr, flush=True)
    return contenders, left_out


def in_turn(contenders: list[Contender], rounds: int) -> Iterator[Contender]:
    """Each contender once a round, every other round in the opposite order."""
    for turn in range(rounds):
        print(f"[{turn + 1}/{rounds}]", file=sys.stderr, flush=True)
        yield from contenders[:: 1 - 2 * (turn % 2)]


def random_batches(job: dict) -> dict[str, np.ndarray]:
    """Full rows of random words in two segments: int32 [batches, B, T] each."""
    shape = (job["num_batches"], job["batch_size"], job["length"])
    ids = np.random.default_rng(0).integers(min(1000, job["vocab_size"] // 2), job["vocab_size"],
                                            shape, np.int32)  # fmt: skip
    half = job["length"] // 2
    ids[:, :, 0], ids[:, :, [half, -1]] = 101, 102
    segments = np.zeros(shape, np.int32)
    segments[:, :, half + 1 :] = 1
    return {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": segments}


def summarize(
    contenders: dict[str, Contender],
    reports: dict[str, dict],
    flops: int,
    tokens: int,
    products: dict[str, tuple],
) -> dict:
    """Medians over the rounds, the machine's peak, and ratios."""
    reached = [
        {
            "flops_per_second": statistics.median(rates),
            "product": product,
            "shape": products[product],
            "by": name,
        }
        for name, contender in contenders.items()
        for product, rates in contender.products.items()
    ]
    peak = max(reached, key=lambda product: product["flops_per_second"])
    rows = {}
    for name, contender in contenders.items():
        seconds = statistics.median(contender.rounds)
        rows[name] = (
            reports[name]
            | contender.first
            | {
                "steps": contender.steps,
                "rounds": contender.rounds,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
            }
        )
        if name != READER:
            rate = flops / seconds
            share = rate / peak["flops_per_second"]
            rows[name] |= {"flops_per_second": rate, "share_of_peak": share}
    ours = rows[OURS]["tokens_per_second"]
    return {
        "flops": flops,
        "tokens": tokens,
        "peak": peak,
        "products": reached,
        "contenders": rows,
        "ratios": {
            f"{OURS} / {name}": ours / row["tokens_per_second"]
            for name, row in rows.items()
            if name not in (OURS, READER)
        }
        | {
            f"{name} / {OURS}": row["tokens_per_second"] / ours
            for name, row in rows.items()
            if name == READER
        },
    }


def report_text(result: dict) -> str:
    """The measurements as Markdown."""
    options, peak = result["options"], result["peak"]
    m, k, n = peak["shape"]
    scale, unit = (1e12, "TFLOP") if peak["flops_per_second"] > 1e13 else (1e9, "GFLOP")
    lines = [
        f"{options['benchmark']}, {options['size']}, {options['batch_size']} x "
        f"{options['length']}, {options['precision']}, Keras on {options['backend']}; "
        f"{result['machine']['cpu']}, {options['threads']} cores; "
        f"medians of {options['rounds']} rounds of {options['steps']} steps (least to most)",
        "",
        f"| | s a step | tokens/s | {unit}/s | of the peak | peak MB | device's peak MB "
        "| s to the first step's end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        rounds, device = row["rounds"], row["device_peak_bytes"]
        model = [""] * 2
        if name != READER:
            model = [f"{row['flops_per_second'] / scale:.1f}", f"{row['share_of_peak']:.1%}"]
        cells = (
            f"{row['seconds']:.4g} ({min(rounds):.4g} to {max(rounds):.4g})",
            f"{row['tokens_per_second']:,.0f}",
            *model,
            f"{row['peak_bytes'] / 1e6:,.0f}",
            "" if device is None or name == READER else f"{device / 1e6:,.0f}",
            f"{row['since_start']:.1f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"a step: {result['flops'] / 1e9:.1f} GFLOP (matrix products; of the forward pass, times "
        f"{benchmark_flops.BACKWARD_AND_FORWARD if options['benchmark'] == 'pretrain' else 1})",
        f"peak: {peak['flops_per_second'] / scale:.1f} {unit}/s, [{m}, {k}] x [{k}, {n}] in "
        f"{options['precision'].removeprefix('mixed_')} ({peak['product']}), by {peak['by']}",
        *(f"{name}: {ratio:.2f}" for name, ratio in result["ratios"].items()),
    ]
    for name, row in result["contenders"].items():
        if name != READER:
            loss = (
                f", loss of the first step {row['first_loss']:.2f}" if "first_loss" in row else ""
            )
            lines.append(f"{name}: {row['parameters']:,} parameters{loss}")
    lines += [f"{name}: left out ({reason})" for name, reason in result["left_out"].items()]
    return "\n".join(lines)
