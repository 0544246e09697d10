"""One pre-training run in a directory: its lock, and what must be the same when it resumes."""

import contextlib
import dataclasses
import os
from typing import Any

from absl import logging

from common.errors import InputError
from common.lock import locked
from configure_pretraining import PretrainingConfig
from jobs import run_record
from model.config import Execution

# A resumed run may change these: they change neither the order of the data nor the shape of the
# state. (More steps stretch the rest of the learning-rate schedule.)
CHANGEABLE = {field.name for field in dataclasses.fields(Execution)} - {"precision"}
CHANGEABLE |= {
    "do_train",
    "do_eval",
    "num_train_steps",
    "steps_per_execution",
    "iterations_per_loop",
    "save_checkpoints_steps",
    "keep_checkpoints",
    "eval_batch_size",
    "eval_every",
    "eval_tfrecords",
    "num_eval_steps",
    "init_checkpoint",
    "pretrain_tfrecords",
    "vocab_file",
}


def lock(directory: str) -> contextlib.AbstractContextManager:
    """A context in which no other job can write to the run."""
    from model.backends import distribution

    if not distribution.writes():
        return contextlib.nullcontext()
    return locked(
        os.path.join(directory, ".pretrain.lock"),
        f"the run {directory}",
        "End that job first, or choose another --model-name",
    )


def check_new(directory: str) -> None:
    """Refuses to replace models that no pre-training run wrote."""
    if not os.path.exists(os.path.join(directory, run_record.FILE)):
        for name in ("discriminator", "generator", "encoder"):
            path = os.path.join(directory, name)
            if os.path.exists(path):
                raise InputError(
                    f"{path} exists, but no pre-training run wrote it. Choose another "
                    "--model-name. To start from its weights, set `init_checkpoint`"
                )


def check_resumed(config: PretrainingConfig, data: dict[str, Any], state: Any) -> None:
    """Refuses to resume with hyper-parameters or data that would make it another run.

    `data` identifies this job's data. `state`, a `TrainingState`, identifies the run's.
    """
    # An older version that lacked a hyper-parameter behaved as with its default.
    saved = dataclasses.asdict(PretrainingConfig()) | state.hparams
    changed = [
        f"{name} was {saved[name]!r}, is {value!r}"
        for name, value in dataclasses.asdict(config).items()
        if name not in CHANGEABLE and saved[name] != value
    ]
    if changed:
        raise InputError(
            f"{state.path} was saved with other hyper-parameters: {'; '.join(changed)}. Use the "
            "same values, or another --model-name"
        )
    if state.data is None:
        logging.warning(
            "%s was saved by an older version, which did not note its vocabulary and records: "
            "whether they are the same cannot be checked",
            state.path,
        )
        return
    was, now = state.data, data
    differences = [
        f"{what} {was[name]}, not {now[name]}"
        for name, what in (
            ("vocab_sha256", "the vocabulary with the SHA-256"),
            ("length", "sequences of the length"),
            ("records_sha256", f"the records in {was['records']} with the SHA-256"),
        )
        # Evaluation needs the vocabulary, but not the records.
        if was[name] != now[name] and (config.do_train or name == "vocab_sha256")
    ]
    if differences:
        directory = os.path.dirname(os.path.dirname(state.path))
        raise InputError(
            f"{state.path} was trained with {'; '.join(differences)} (the records in "
            f"{now['records']}). Use the same data. For other data, start a new run: another "
            f'--model-name, with `init_checkpoint` "{directory}" to start from these weights'
        )
