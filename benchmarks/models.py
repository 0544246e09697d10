"""The benchmarks of models: what their workers build and compute.

`finetune` and `predict` use a task's own examples. "ours" works as finetune.py does, in batches of
about the same length. "all padded" pads every example to the most tokens it may have. transformers
pads each batch to its longest example. In question answering, "ours" has Hugging Face's head, so
that the work is equal; "joint head" is finetune.py's default.
"""

import argparse
import dataclasses
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import flops, rounds
from benchmarks.rounds import OURS
from common.errors import InputError
from configure_finetuning import FinetuningConfig
from configure_pretraining import PretrainingConfig
from model.config import ConvBertConfig, load_hparams, max_predictions_per_seq

READER, PADDED, JOINT = "input pipeline", "ours, all padded", "ours, joint head"
PEERS = {  # the names of peers in tables, and how their jobs differ from ours
    "torch": ("transformers", {"framework": "torch"}),
    "torch-compiled": ("transformers, torch.compile", {"framework": "torch", "compiled": True}),
    "torch-autocast": (
        "transformers, bfloat16 autocast",
        {"framework": "torch", "precision": "mixed_bfloat16"},
    ),
    "garden": ("Model Garden", {"framework": "garden"}),
}
READER_EXAMPLES = 1 << 17  # per round: two of the blocks that are read ahead between rounds
NUM_BATCHES = 8  # batches of random tokens, used again and again
VOCAB_SIZE = 30522  # BERT's
PADDED_SHARE = 8  # "all padded" takes an eighth of the training steps: all are long and alike


def run(args: argparse.Namespace) -> None:
    """Measures our model next to its peers, and reports."""
    rows, notes = measure(args)
    rounds.report(args, rows, "step", "examples_per_second", notes=notes)


def measure(args: argparse.Namespace) -> tuple[dict[str, dict], list[str]]:
    """Measurements by worker, with shares of the peak, and notes; see `rounds.measure`."""
    with tempfile.TemporaryDirectory() as scratch:
        shared = {
            "kind": args.benchmark,
            "steps": args.steps,
            "threads": args.threads,
            "batches": f"{scratch}/batches",
        }
        plan = plan_task if args.benchmark in ("finetune", "predict") else plan_pretraining
        jobs = {name: shared | job for name, job in plan(args, scratch).items()}
        peers = {name: peer_job(jobs[OURS], job) for name, job in map(PEERS.get, args.peers)}
        rows, notes = rounds.measure(args, jobs, peers, scratch)
    products = [(row[field], field) for row in rows.values() for field in row if field[0] == "["]
    if products:
        peak, shape = max(products)
        notes.append(f"peak: {peak / 1e9:,.1f} GFLOP/s, the fastest matrix product, {shape}")
        for row in rows.values():
            if "flops_per_second" in row and any(field[0] == "[" for field in row):
                row["share_of_peak"] = row["flops_per_second"] / peak
    return rows, notes


def peer_job(ours: dict, differences: dict) -> dict:
    """A peer's job; products in another precision than ours are not measured.

    Raises:
        InputError: the peer has no such network.
    """
    job = {"compiled": False} | ours | differences
    if job["precision"] != ours["precision"]:
        job.pop("products", None)
    if job["framework"] == "garden":
        network = job["network"]
        if network["model_type"] != "electra" or network["num_groups"] > 1:
            raise InputError(
                "--peers garden: the Model Garden has only ELECTRA's network: add --hparams "
                """'{"conv_type": "noconv", "head_ratio": 1, "linear_groups": 1}'"""
            )
    return job


def plan_pretraining(args: argparse.Namespace, scratch: str) -> dict[str, dict]:
    """The jobs for `pretrain` and `infer` by worker, and their batches in `scratch`."""
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
        "steps_per_execution": 1,
        "num_devices": 1,
    } | load_hparams(args.hparams)
    config = PretrainingConfig.from_hparams(hparams)
    if not config.has_separate_generator:
        raise InputError("--hparams: peers have only ELECTRA's objective with two networks")
    batch_size, length = config.train_batch_size, config.max_seq_length
    network, objective = config.model_config(vocab_size), config.objective()
    generator = network.generator(objective.generator_hidden_size, objective.generator_layers)
    shape, hidden = (batch_size, length), network.hidden_size
    operations = flops.encoder_flops(network, *shape)
    if args.benchmark == "pretrain":
        operations = flops.pretraining_flops(network, objective, *shape)
    amounts = {"examples": batch_size, "tokens": batch_size * length}
    job = {
        "architecture": "AutoModel",
        "network": for_transformers(network, "ConvBertModel"),
        "precision": config.precision,
        "products": [(batch_size * length, hidden, 4 * hidden)],
        "amounts": amounts | {"flops": operations},
        "hparams": hparams,
        "vocab_size": vocab_size,
        "records": args.records and os.path.abspath(args.records),
        "generator": for_transformers(generator, "ConvBertForMaskedLM"),
        "mask_prob": objective.mask_prob,
        "max_predictions": max_predictions_per_seq(length, objective.mask_prob),
        "disc_weight": objective.disc_weight,
    }
    if args.records:  # the reader comes first: it writes batches for the peers
        reader = {name: value for name, value in job.items() if name != "products"}
        steps = max(1, READER_EXAMPLES // batch_size)
        return {READER: reader | {"kind": "read", "amounts": amounts, "steps": steps}, OURS: job}
    save(f"{scratch}/batches", random_batches(batch_size, length, vocab_size))
    return {OURS: job}


def for_transformers(network: ConvBertConfig, architecture: str) -> dict[str, Any]:
    """`config.json`; without convolutions it describes an ELECTRA, which has the same fields."""
    fields = network.to_hf_dict(architecture)
    if network.conv_type == "noconv":
        fields["model_type"] = "electra"
    return fields


def random_batches(batch_size: int, length: int, vocab_size: int) -> list[dict[str, np.ndarray]]:
    """Full rows of random tokens in two segments, int32 [B, T]."""
    shape, half = (NUM_BATCHES, batch_size, length), length // 2
    lowest = min(1000, vocab_size // 2)
    ids = np.random.default_rng(0).integers(lowest, vocab_size, shape, np.int32)
    ids[:, :, 0], ids[:, :, [half, -1]] = 101, 102
    segments = np.tile((np.arange(length) > half).astype(np.int32), (batch_size, 1))
    rest = {"input_mask": np.ones_like(segments), "segment_ids": segments}
    return [{"input_ids": batch} | rest for batch in ids]


def plan_task(args: argparse.Namespace, scratch: str) -> dict[str, dict]:
    """The jobs for `finetune` and `predict` by worker, and their examples in `scratch`."""
    from data import ConvBertTokenizer
    from data.records.command_line import BERT_VOCAB
    from data.tasks.registry import get_task
    from data.tensorflow_setup import prepare_tensorflow

    prepare_tensorflow(trains_the_model=False)
    training = args.benchmark == "finetune"
    task = get_task(args.task).complete(args.tasks_dir)
    hparams = {"max_seq_length": args.length} if args.length else {}
    joint = FinetuningConfig.for_tasks((task.name,), hparams)
    single = dataclasses.replace(joint, joint_prediction=False)
    network = ConvBertConfig.from_size(args.size, vocab_size=VOCAB_SIZE, **task.model_fields())
    examples = task.load(args.tasks_dir, "train" if training else "dev")
    if training:
        examples = task.training_examples(examples, single)
    tokenizer = ConvBertTokenizer(BERT_VOCAB)

    def job_for(name, options):
        features = task.make_features(tokenizer, examples, options, training)
        features = sample(features, args.steps * args.batch_size)
        save(f"{scratch}/{name}", features)
        if name == OURS:
            batches = transformers_batches(features, args.batch_size, training)
            save(f"{scratch}/batches", batches)
        return {
            "architecture": task.architecture,
            "network": network.to_hf_dict(task.architecture),
            "steps": -(-len(features) // args.batch_size),
            "precision": "float32",
            "amounts": {"examples": args.batch_size},
            "features": f"{scratch}/{name}",
            "batch_size": args.batch_size,
            "pad_to_max": False,
            "config": dataclasses.asdict(network),
            "options": task.model_options(options),
        }

    jobs = {OURS: job_for(OURS, single)}
    if "joint_prediction" in task.model_options(joint):
        jobs[JOINT] = job_for(JOINT, joint)
    steps = jobs[OURS]["steps"] // PADDED_SHARE if training else jobs[OURS]["steps"]
    jobs[PADDED] = jobs[OURS] | {"pad_to_max": True, "steps": max(1, steps)}
    return jobs


def sample(features: Any, count: int) -> Any:
    """Up to `count` of the examples, drawn at random; both are `data.tasks.batching.Features`."""
    from data.tasks import batching

    examples = np.sort(batching.epoch_order(len(features), seed=0, epoch=0)[:count])
    rows, tokens = features.rows_of(examples), features.tokens_of(examples)

    def select(value):
        if isinstance(value, dict):
            return {name: select(array) for name, array in value.items()}
        return value[tokens if features.is_token_level(value) else examples]

    names = ("input_ids", "segment_ids", "targets", "inputs")
    selected = {name: select(getattr(features, name)) for name in names}
    row_splits = np.concatenate([[0], np.cumsum(np.diff(features.row_splits)[rows])])
    return dataclasses.replace(features, row_splits=row_splits, **selected)


def transformers_batches(features: Any, batch_size: int, training: bool) -> list[dict]:
    """Batches for transformers: each padded to its longest example, shuffled for training."""
    from data.tasks.batching import Batches

    order, batches = np.arange(len(features)), []
    if training:
        order = np.random.default_rng(0).permutation(order)
    for indices in np.split(order, range(batch_size, len(order), batch_size)):
        padded = dataclasses.replace(features, max_seq_length=int(features.lengths[indices].max()))
        inputs, targets = Batches(padded, [indices], pad_to_max=True)[0]
        batch = {name: inputs[name] for name in ("input_ids", "input_mask", "segment_ids")}
        if training and isinstance(targets, dict):
            batch |= {f"{name}_positions": targets[f"{name}_logits"] for name in ("start", "end")}
        elif training:
            batch["labels"] = targets
        batches.append(batch)
    return batches


def save(path: str, value: Any) -> None:
    """Pickles a value for the workers, one of which may have an older Python."""
    Path(path).write_bytes(pickle.dumps(value, protocol=4))
