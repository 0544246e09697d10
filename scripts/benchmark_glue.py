"""`benchmark.py finetune` and `benchmark.py predict`: a GLUE task's own examples, by length.

Ours as finetune.py works, with batches of examples of like length; ours with every example padded
to the most that it may be; and transformers' ConvBertForSequenceClassification as it is commonly
used, in random or in the file's order, each batch padded to its longest. All get the same examples.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from data import glue
from errors import InputError
from files import write_text
from model.config import ConvBertConfig, require
from scripts.benchmark_machine import machine, on_cores
from scripts.benchmark_model import (
    OUR_COMMAND,
    OURS,
    PEERS,
    VOCAB_SIZE,
    Contender,
    check,
    environment,
    in_turn,
    peer_command,
    start,
)

PADDED = "ours, all padded"
VOCABULARY = Path(__file__).resolve().parents[1] / "data" / "vocab" / "bert_uncased.txt"
# Training steps of the padded contender, a share of the others': they are all alike, and long.
PADDED_SHARE = 8


def benchmark_glue(args: argparse.Namespace) -> None:
    """Times training steps, or predictions for the dev set."""
    check(args)
    length, training = args.length or 128, args.benchmark == "finetune"
    task = glue.get_task(args.task)
    features = read_features(args, task, length)
    network = ConvBertConfig.from_size(
        args.size,
        vocab_size=VOCAB_SIZE,
        num_labels=task.num_labels,
        problem_type=task.problem_type,
    )
    with tempfile.TemporaryDirectory() as scratch, on_cores(args.threads):
        job = {
            "kind": args.benchmark,
            "network": dataclasses.asdict(network),
            "networks": {"classifier": network.to_hf_dict("ConvBertForSequenceClassification")},
            "features": str(Path(scratch, "features.npz")),
            "batch_size": args.batch_size,
            "pad_to_max": False,
            "threads": args.threads,
        }
        np.savez(job["features"], **dataclasses.asdict(features))
        planned = [
            (OURS, OUR_COMMAND, job),
            (PADDED, OUR_COMMAND, job | {"pad_to_max": True}),
            *((PEERS[peer], peer_command(args), job) for peer in args.peers),
        ]
        turns = {name: args.steps for name, _, _ in planned}
        if training:
            turns[PADDED] = max(1, args.steps // PADDED_SHARE)
        # A turn to warm up: every shape has been seen before the first round.
        contenders, left_out = start(planned, environment(args, scratch), warm_up_steps=turns)
        named = {contender.name: contender for contender in contenders}
        try:
            for contender in in_turn(contenders, args.rounds):
                contender.take_turn(turns[contender.name])
            reports = {name: contender.ask("report") for name, contender in named.items()}
            logits = {} if training else {name: named[name].ask("logits")["logits"]
                                          for name in (OURS, PADDED)}  # fmt: skip
        finally:
            for contender in contenders:
                contender.close()
    result = summarize(named, reports, logits, args.batch_size)
    options = {name: value for name, value in vars(args).items() if name != "output"}
    options["length"] = length
    result = {"machine": machine(), "options": options, "left_out": left_out} | result
    print(report_text(result))
    if args.output:
        write_text(args.output, json.dumps(result, indent=1) + "\n")


def read_features(args: argparse.Namespace, task: glue.GlueTask, length: int):
    """The examples of `--steps` batches of the training file, or of the dev file."""
    from data import ConvBertTokenizer, features

    training = args.benchmark == "finetune"
    examples = task.load(args.glue_dir, "train" if training else "dev")
    found = features.make_features(ConvBertTokenizer(VOCABULARY), examples, length)
    drawn = features.epoch_order(len(found), seed=0, epoch=0)
    if training:
        drawn = drawn[: features.POOL_BATCHES * args.batch_size]
    try:
        return subset(found, drawn, args.batch_size, args.steps)
    except InputError as error:
        raise InputError(f"{examples.path}: {error}") from None


def subset(features, drawn: np.ndarray, batch_size: int, num_batches: int):
    """Some of the batches that a pool of examples comes to, evenly from the shortest on.

    Dealt out by length, they come to the same batches again.

    Args:
        features: of all examples.
        drawn: the pool: indices in random order.
        batch_size: examples in a batch.
        num_batches: how many of the pool's.
    """
    pool = drawn[: len(drawn) - len(drawn) % batch_size]
    batches = pool[np.argsort(features.lengths[pool], kind="stable")].reshape(-1, batch_size)
    require(num_batches <= len(batches), "--steps", f"at most {len(batches)}", num_batches)
    places = (np.arange(num_batches) + 0.5) * len(batches) / num_batches
    indices = np.sort(batches[places.astype(int)], axis=None)
    lengths = features.lengths[indices]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(starts[-1]) + np.repeat(features.starts[indices] - starts[:-1], lengths)
    return dataclasses.replace(
        features,
        input_ids=features.input_ids[tokens],
        segment_ids=features.segment_ids[tokens],
        starts=starts,
        targets=features.targets[indices],
    )


def summarize(
    contenders: dict[str, Contender],
    reports: dict[str, dict],
    logits: dict[str, list],
    batch_size: int,
) -> dict:
    """Medians over the rounds, ratios, and how far apart the logits of both of ours are."""
    rows = {}
    for name, contender in contenders.items():
        seconds = statistics.median(contender.rounds)
        rows[name] = reports[name] | contender.first
        rows[name] |= {
            "steps": contender.steps,
            "rounds": contender.rounds,
            "seconds": seconds,
            "examples_per_second": batch_size / seconds,
        }
    ours = rows[OURS]["examples_per_second"]
    ratios = {
        f"{OURS} / {name}": ours / row["examples_per_second"]
        for name, row in rows.items()
        if name != OURS
    }
    result = {"contenders": rows, "ratios": ratios}
    if logits:
        arrays = [np.array(logits[name]) for name in (OURS, PADDED)]
        result["logits"] = {
            "largest": float(np.abs(arrays[0]).max()),
            "largest_difference": float(np.abs(arrays[0] - arrays[1]).max()),
        }
    return result


def report_text(result: dict) -> str:
    """The measurements as Markdown."""
    options = result["options"]
    lines = [
        f"{options['benchmark']}, {options['task']}, {options['size']}, batches of "
        f"{options['batch_size']}, at most {options['length']} tokens, Keras on "
        f"{options['backend']}; {result['machine']['cpu']}, {options['threads']} cores; medians "
        f"of {options['rounds']} rounds of {options['steps']} steps (least to most)",
        "",
        "| | examples/s | s a step | tokens a row | peak MB | device's peak MB "
        "| s to the first step's end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        rounds, device = row["rounds"], row["device_peak_bytes"]
        cells = (
            f"{row['examples_per_second']:,.1f}",
            f"{row['seconds']:.4g} ({min(rounds):.4g} to {max(rounds):.4g})",
            f"{row['tokens_a_row']:.1f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            "" if device is None else f"{device / 1e6:,.0f}",
            f"{row['since_start']:.1f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(f"{name}: {ratio:.2f}" for name, ratio in result["ratios"].items())]
    if "logits" in result:
        found = result["logits"]
        lines.append(
            f"logits by length and all padded: up to {found['largest']:.2g}, largest difference "
            f"{found['largest_difference']:.1e}"
        )
    for name, row in result["contenders"].items():
        lines.append(f"{name}: {row['parameters']:,} parameters")
    lines += [f"{name}: left out ({reason})" for name, reason in result["left_out"].items()]
    return "\n".join(lines)
