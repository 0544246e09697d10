"""Whether a training step fits into the device's memory, and what to do if it does not."""

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from model.backends import backend, devices
from model.config import ConvBertConfig

# How many numbers a layer keeps for the backward pass, for each token and unit of its width. The
# value is fitted to the memory that XLA's compiler plans for steps; see
# tests/model/training/test_memory.py. Each attention head also keeps one number for each pair of
# tokens.
KEPT_PER_UNIT = 16


def estimate_gib(
    config: Any, network: ConvBertConfig, length: int, num_parameters: int, num_devices: int = 1
) -> float:
    """A rough estimate of the memory of a pre-training step on each device.

    `config` is the run's `PretrainingConfig`, and `network` describes the discriminator.
    """
    rows = config.train_batch_size / (num_devices * config.gradient_accumulation_steps)
    networks = [network]
    if config.has_separate_generator:
        networks.append(network.generator(config.generator_hidden_size, config.generator_layers))
    itemsize = 4 if config.precision == "float32" else 2

    def kept_by(each):
        return each.hidden_size * KEPT_PER_UNIT + each.num_heads * length

    kept = sum(each.num_hidden_layers * kept_by(each) for each in networks)
    if config.remat:  # the input of each layer, and everything in one layer
        inputs = sum(each.num_hidden_layers * each.hidden_size for each in networks)
        kept = inputs + kept_by(network)
    activations = rows * length * kept * itemsize
    logits = 2 * 4 * rows * length * config.mask_prob * network.vocab_size
    state = 4 * 4 * num_parameters  # weights, two moments, gradients
    return (activations + logits + state) / 2**30


def warn_if_large(
    config: Any, network: ConvBertConfig, length: int, num_parameters: int, num_devices: int = 1
) -> None:
    """Warns if a step will probably not fit the GPU's memory; see `estimate_gib`."""
    needed = estimate_gib(config, network, length, num_parameters, num_devices)
    memory = devices.memory_gib()
    if memory and needed > memory:
        logging.warning(
            "%s may need about %.0f GiB, and the GPU has %.0f GiB. If it does not fit, %s",
            _batch(config, length),
            needed,
            memory,
            _advice(config),
        )


@contextlib.contextmanager
def explained(config: Any, length: int) -> Iterator[None]:
    """Turns an out-of-memory error inside the block into an `InputError` with advice.

    `config` has the hyper-parameters of pre-training or of fine-tuning.
    """
    with devices.lack_of_memory_explained(_batch(config, length), _advice(config)):
        yield


def _batch(config, length):
    rows = f"`train_batch_size` {config.train_batch_size}"
    return f"a step of {rows} x {length} tokens in {config.precision}"


def _advice(config):
    """Ways to make a step need less memory, the simplest first."""
    batch_size, found = config.train_batch_size, []
    more_parts = range(config.gradient_accumulation_steps + 1, batch_size + 1)
    if parts := next((n for n in more_parts if batch_size % n == 0), None):
        found.append(f'"gradient_accumulation_steps": {parts} (the result stays the same)')
    if config.precision == "float32":
        _, capability = backend.accelerator() or (None, None)
        half = "mixed_float16" if float(capability or 8) < 8 else "mixed_bfloat16"
        found.append(f'"precision": "{half}" (in a new run)')
    if not config.remat:
        found.append('"remat": true')
    return f"set {', or '.join([*found, 'a smaller `train_batch_size`'])}"
