"""DATA_DIR/models/NAME of a job whose DATA_DIR is a URL: a copy here, which is sent when it grows.

The functions do nothing, or return the directory itself, if DATA_DIR is not a URL.
"""

import os

from common import remote_cache

# In the model's directory, what each job leaves alone: the other one's, and what stays here.
PRETRAINING = ("finetuning_checkpoints", "finetuning_logs", "finetuning_models", "finetuning_runs")
FINETUNING = ("checkpoints", "finetuning_checkpoints", "generator", "tensorboard")


def open_directory(
    data_dir: str, model_name: str, writes: bool = True, without: tuple[str, ...] = PRETRAINING
) -> str:
    """Makes the copy equal to what is in the store; returns its path.

    Raises:
        InputError: another job on this machine has it, and this process `writes`.
    """
    store = os.path.join(data_dir, "models", model_name)
    if writes:
        remote_cache.hold_copy(store)
    remote_cache.open_copy(store, without)
    return remote_cache.local_path(store)


def send(data_dir: str, directory: str, without: tuple[str, ...] = PRETRAINING) -> None:
    """Sends what changed in the copy that `open_directory` returned."""
    remote_cache.send_copy(os.path.join(data_dir, "models", os.path.basename(directory)), without)
