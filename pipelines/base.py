"""What all pipelines share: loading, checks of what they are given, and running the network."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from common import hub
from common.errors import InputError
from common.fields import override
from configure_finetuning import FinetuningConfig
from data import ConvBertTokenizer
from data.tasks.batching import Arrays, Features, gather_outputs
from data.tasks.examples import parse_text
from data.tokenizer.saved_files import vocabulary_file
from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_max_length
from model import ConvBertConfig
from pipelines.saved import check_architecture

# Without XLA, on CPUs, the small operations of one batch leave cores to another.
BATCHES_AT_ONCE = 2


def load_tokenizer(
    directory: str | os.PathLike, config: ConvBertConfig
) -> tuple[ConvBertTokenizer, int]:
    """A saved model's tokenizer, and the most tokens that a text may have.

    Raises:
        InputError: there is none, or it is not the model's.
    """
    tokenizer = ConvBertTokenizer.from_pretrained(directory)
    if tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"{vocabulary_file(directory)} has {tokenizer.vocab_size} tokens, but the "
            f"model's `vocab_size` is {config.vocab_size}"
        )
    stated = stated_max_length(pathlib.Path(directory) / CONFIG_FILE)
    longest = config.max_position_embeddings
    return tokenizer, min(stated or longest, longest)


def load(
    kind: Any, name_or_directory: str | os.PathLike, what: str, **hub_options: Any
) -> tuple[Any, ConvBertTokenizer, int]:
    """A saved model of the class `kind`, with what `load_tokenizer` returns.

    Args:
        kind: a class of `model`.
        name_or_directory: that `save_pretrained`, or transformers, wrote; or a name of the hub.
        what: what such a model is called in an error.
        **hub_options: of `hub.resolve`.

    Raises:
        InputError: there is no such model, or a file of it is missing or damaged.
    """
    directory = hub.resolve(name_or_directory, **hub_options)
    check_architecture(directory, kind.architecture, what)
    model = kind.from_pretrained(directory)
    return model, *load_tokenizer(directory, model.config)


def saved_options(config: ConvBertConfig, kind: str) -> dict[str, Any]:
    """What fine-tuning kept for predictions of a kind of task; see `Task.saved_options`.

    Raises:
        InputError: the configuration has something else there.
    """
    found = (config.task_specific_params or {}).get(kind, {})
    if not isinstance(found, dict):
        raise InputError(
            f"config.json: `task_specific_params`, `{kind}`: expected an object, got {found!r}"
        )
    return found


def reading_options(max_seq_length: int, changes: dict[str, Any]) -> FinetuningConfig:
    """How text is read: what fine-tuning does by default, but for `changes`.

    Raises:
        InputError: an unknown name, or an impossible value.
    """
    return override(FinetuningConfig(), {"max_seq_length": max_seq_length} | changes)


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list, all of them with something in them; `name` is for errors."""
    if isinstance(texts, str):
        raise InputError(f"`{name}` must be a list of strings: write [text] for a single one")
    return [parse_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]


def check_equal_numbers(**lists: Sequence) -> None:
    """Refuses lists, named as the arguments they are, that have not all equally many items."""
    (first, firsts), *others = lists.items()
    for name, items in others:
        if len(items) != len(firsts):
            raise InputError(f"{len(firsts)} `{first}`, but {len(items)} `{name}`")


def check_positive(name: str, value: int) -> None:
    """Refuses a number below one."""
    if value < 1:
        raise InputError(f"`{name}` must be a positive integer. Received: {value}")


def compute_outputs(
    model: Any, features: Features, batch_size: int, token_outputs: tuple[str, ...] | None = None
) -> Arrays:
    """A model's outputs for all examples, in their order; see `data.tasks.batching.gather_outputs`.

    Args:
        model: compiled, with its configuration as `config`.
        features: the examples.
        batch_size: of how many examples a batch is.
        token_outputs: names of the outputs that are `[B, T, …]`; None is `model.token_outputs`.

    Raises:
        InputError: the model computes no finite numbers.
    """
    outputs = gather_outputs(
        features,
        model.predict_on_batch,
        model.token_outputs if token_outputs is None else token_outputs,
        batch_size,
        pad_to_max=not model.config.mask_padding,
        bucket_lengths=model.jit_compile,
        num_threads=1 if model.jit_compile else BATCHES_AT_ONCE,
    )
    for array in outputs.values() if isinstance(outputs, dict) else [outputs]:
        if not np.isfinite(array).all():
            raise InputError(
                "the model's outputs are not finite numbers: its training has failed. Train with a "
                "lower `learning_rate`"
            )
    return outputs
