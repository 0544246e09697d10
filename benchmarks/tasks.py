"""`benchmark.py finetune` and `benchmark.py predict`: a task's own examples, by length.

Ours as finetune.py works, with batches of examples of like length; ours with every example padded
to the most that it may be; and the class of transformers that learns such a task, as it is commonly
used, in random or in the file's order, each batch padded to its longest. All get the same examples.

An example of a tagging task is a sentence, and one of question answering a window of a context. For
equal work "ours" answers questions with Hugging Face's head; the original's, finetune.py's default,
comes beside it.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, on_cores
from benchmarks.model import (
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
from common.errors import InputError
from common.fields import require
from common.files import write_text
from configure_finetuning import FinetuningConfig
from data.tasks.base import Task
from data.tasks.registry import get_task
from model.config import ConvBertConfig

PADDED, JOINT = "ours, all padded", "ours, joint head"
VOCABULARY = Path(__file__).resolve().parents[1] / "data" / "vocab" / "bert_uncased.txt"
# Training steps of the padded contender, a share of the others': they are all alike, and long.
PADDED_SHARE = 8


def benchmark_task(args: argparse.Namespace) -> None:
    """Times training steps, or predictions for the dev set."""
    check(args)
    task = get_task(args.task).complete(args.tasks_dir)
    hparams = {} if args.length is None else {"max_seq_length": args.length}
    config = FinetuningConfig.for_tasks((task.name,), hparams)
    network = ConvBertConfig.from_size(args.size, vocab_size=VOCAB_SIZE, **task.model_fields())
    length, longest = config.max_seq_length, network.max_position_embeddings
    require(length <= longest, "--length", f"at most {longest}", length)
    batching = read_features(args, task, config)
    with tempfile.TemporaryDirectory() as scratch, on_cores(args.threads):
        job = base_job(args, task, config, network)
        job["features"] = save_features(Path(scratch, "features.npz"), batching)
        planned = plan(args, job)
        turns = {name: args.steps for name, _, _ in planned}
        if args.benchmark == "finetune":
            turns[PADDED] = max(1, args.steps // PADDED_SHARE)
        # A turn to warm up: every shape has been seen before the first round.
        contenders, left_out = start(planned, environment(args, scratch), warm_up_steps=turns)
        named = {contender.name: contender for contender in contenders}
        try:
            for contender in in_turn(contenders, args.rounds):
                contender.take_turn(turns[contender.name])
            reports = {name: contender.ask("report") for name, contender in named.items()}
            outputs = {} if args.benchmark == "finetune" else ask_outputs(named, scratch)
        finally:
            for contender in contenders:
                contender.close()
    result = summarize(named, reports, outputs, args.batch_size)
    options = {name: value for name, value in vars(args).items() if name != "output"}
    options |= {"task": task.name, "length": length}
    result = {"machine": machine(), "options": options, "left_out": left_out} | result
    print(report_text(result))
    if args.output:
        write_text(args.output, json.dumps(result, indent=1) + "\n")


def base_job(
    args: argparse.Namespace, task: Task, config: FinetuningConfig, network: ConvBertConfig
) -> dict[str, Any]:
    """What every contender must know, but for where the examples are."""
    options = task.model_options(config)
    if "joint_prediction" in options:
        options["joint_prediction"] = False
    return {
        "kind": args.benchmark,
        "architecture": task.architecture,
        "options": options,
        "network": dataclasses.asdict(network),
        "networks": {"with_head": network.to_hf_dict(task.architecture)},
        "batch_size": args.batch_size,
        "pad_to_max": False,
        "threads": args.threads,
    }


def plan(args: argparse.Namespace, job: dict) -> list[tuple[str, list[str], dict]]:
    """Each contender's name, command and job."""
    planned = [
        (OURS, OUR_COMMAND, job),
        (PADDED, OUR_COMMAND, job | {"pad_to_max": True}),
        *((PEERS[peer], peer_command(args), job) for peer in args.peers),
    ]
    if "joint_prediction" in job["options"]:
        options = job["options"] | {"joint_prediction": True}
        planned.insert(2, (JOINT, OUR_COMMAND, job | {"options": options}))
    return planned


def ask_outputs(contenders: dict[str, Contender], scratch: str) -> dict[str, dict]:
    """What the model computed for all examples, by length and padded: arrays by output's name."""
    outputs = {}
    for name in (OURS, PADDED):
        path = str(Path(scratch, "outputs.npz"))
        contenders[name].ask("outputs", path=path)
        with np.load(path) as arrays:
            outputs[name] = dict(arrays)
    return outputs


def read_features(args: argparse.Namespace, task: Task, config: FinetuningConfig):
    """The examples of `--steps` batches of the training file, or of the dev file."""
    from data import ConvBertTokenizer
    from data.tasks import batching

    training = args.benchmark == "finetune"
    examples = task.load(args.tasks_dir, "train" if training else "dev")
    if training:
        examples = task.training_examples(examples, config)
    found = task.make_features(ConvBertTokenizer(VOCABULARY), examples, config, training)
    drawn = batching.epoch_order(len(found), seed=0, epoch=0)
    if training:
        drawn = drawn[: batching.POOL_BATCHES * args.batch_size]
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

    Returns:
        `data.tasks.features.Features`.
    """
    from data.tasks.batching import Features

    pool = drawn[: len(drawn) - len(drawn) % batch_size]
    batches = pool[np.argsort(features.lengths[pool], kind="stable")].reshape(-1, batch_size)
    require(num_batches <= len(batches), "--steps", f"at most {len(batches)}", num_batches)
    places = (np.arange(num_batches) + 0.5) * len(batches) / num_batches
    is_chosen = np.zeros(len(features), bool)
    is_chosen[batches[places.astype(int)]] = True
    is_row = np.repeat(is_chosen, features.rows_per_example)
    lengths = np.diff(features.row_splits)
    is_token = np.repeat(is_row, lengths)

    def chosen(array):
        return array[is_token if features.is_token_level(array) else is_chosen]

    targets = features.targets
    if isinstance(targets, dict):
        targets = {name: chosen(array) for name, array in targets.items()}
    else:
        targets = chosen(targets)
    return Features(
        chosen(features.input_ids),
        chosen(features.segment_ids),
        np.concatenate([[0], np.cumsum(lengths[is_row])]),
        targets,
        features.max_seq_length,
        inputs={name: chosen(array) for name, array in features.inputs.items()},
        rows_per_example=features.rows_per_example,
    )


def save_features(path: Path, features) -> str:
    """Writes features for the contenders, targets and inputs by name as "targets.NAME"."""
    single = ("input_ids", "segment_ids", "row_splits", "max_seq_length", "rows_per_example")
    arrays = {name: getattr(features, name) for name in single}
    for name in ("targets", "inputs"):
        value = getattr(features, name)
        if isinstance(value, dict):
            arrays |= {f"{name}.{key}": array for key, array in value.items()}
        else:
            arrays[name] = value
    np.savez(path, **arrays)
    return str(path)


def summarize(
    contenders: dict[str, Contender],
    reports: dict[str, dict],
    outputs: dict[str, dict[str, np.ndarray]],
    batch_size: int,
) -> dict:
    """Medians over the rounds, ratios, and how far apart our outputs are with more padding."""
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
    if outputs:
        pairs = [(array, outputs[PADDED][name]) for name, array in outputs[OURS].items()]
        result["outputs"] = {
            "largest": max(float(np.abs(ours).max()) for ours, _ in pairs),
            "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
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
    if "outputs" in result:
        found = result["outputs"]
        lines.append(
            f"outputs by length and all padded: up to {found['largest']:.2g}, largest difference "
            f"{found['largest_difference']:.1e}"
        )
    for name, row in result["contenders"].items():
        lines.append(f"{name}: {row['parameters']:,} parameters")
    lines += [f"{name}: left out ({reason})" for name, reason in result["left_out"].items()]
    return "\n".join(lines)
