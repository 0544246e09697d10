"""`smoke`: shows in about a minute whether a change costs speed.

It runs three layers of medium-small on a small batch. The table shows our speed as a multiple of
the speed of transformers in PyTorch, next to the ratio last recorded on the same kind of processor.
"""

import argparse
import datetime
import shutil
from pathlib import Path

from benchmarks import models, rounds
from benchmarks.rounds import OURS
from common.errors import InputError
from common.files import read_json_object, write_json
from common.markdown import markdown_table

RECORDS = Path(__file__).with_name("smoke.json")
PROCESSOR = ("cpu", "model", "instruction_sets", "cores")  # fields in which a record must agree
PEER = models.PEERS["torch"][0]
MAKE_PEERS = (
    "this command makes an environment with it: "
    "bash -ec '. scripts/environment.sh; "
    "make_venv .venv-peers requirements-dev.txt requirements-peers.txt'"
)
SETTINGS = {
    "size": "medium-small",
    "hparams": '{"model_hparam_overrides": {"num_hidden_layers": 3}}',
    "batch_size": 8,
    "length": 128,
    "precision": "float32",
    "records": None,
    "peers": ["torch"],
    "backend": "tensorflow",
    "rounds": 5,
}


def run(args: argparse.Namespace) -> None:
    """Prints the ratios, and records them if asked to.

    Raises:
        InputError: there is no Python with the peer; the message has the command that makes one.
    """
    if shutil.which(args.peer_python) is None:
        raise InputError(f"--peer-python: no such program: {args.peer_python}; {MAKE_PEERS}")
    machine = rounds.describe_machine()
    if machine["load"] > 0.25 * args.threads:
        print(f"The machine is not quiet (load {machine['load']:.1f}): ratios will be off.\n")
    settings = argparse.Namespace(**vars(args) | SETTINGS)
    # The forward pass comes first: it reads both frameworks' files, so that they are in memory.
    forward = measure(settings, "infer", steps=4)
    training = measure(settings, "pretrain", steps=2)

    def ratio(rows, field="seconds"):
        return rows[PEER][field] / rows[OURS][field]

    ratios = {
        "training step": ratio(training),
        "forward pass": ratio(forward),
        "time to the first step": ratio(training, "first_step_seconds"),
    }
    processor = {name: machine[name] for name in PROCESSOR} | {"threads": args.threads}
    records = read_json_object(str(RECORDS))["records"]
    last = next((r for r in records if r["processor"] == processor), None)
    print_ratios(ratios, last)
    if args.record:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        records = [r for r in records if r is not last]
        records.append({"processor": processor, "date": today, "ratios": ratios})
        write_json(str(RECORDS), {"records": records}, indent=1)
        print(f"Recorded in {RECORDS}.")
    elif last is None:
        print("Nothing is recorded for this processor yet; --record records it.")


def measure(settings: argparse.Namespace, benchmark: str, steps: int) -> dict[str, dict]:
    """Measures a benchmark of models and returns its rows."""
    args = argparse.Namespace(**vars(settings) | {"benchmark": benchmark, "steps": steps})
    rows, notes = models.measure(args)
    if PEER not in rows:
        raise InputError(f"{notes[0]}; {MAKE_PEERS}")
    return rows


def print_ratios(ratios: dict[str, float], last: dict | None) -> None:
    """Prints a table: now, as recorded, and the change."""
    cells = []
    for name, ratio in ratios.items():
        recorded = last and last["ratios"][name]
        change = recorded and f"{100 * (ratio / recorded - 1):+.0f} %"
        cells.append([name, f"{ratio:.2f}", recorded and f"{recorded:.2f}", change])
    title = f"recorded on {last['date']}" if last else "recorded"
    print(markdown_table([f"speed / {PEER}'s", "now", title, "change"], cells))
