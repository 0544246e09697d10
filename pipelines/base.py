"""What all pipelines share: loading a saved model, checking texts, and running the network."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from absl import logging

from common import hub
from common.errors import InputError
from common.fields import require, unknown
from data import ConvBertTokenizer
from data.tasks.batching import Arrays, Features, gather_outputs
from data.tasks.examples import parse_text
from data.tokenizer.saved_files import vocabulary_file
from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_max_length
from model import ConvBertConfig
from model.backends import backend
from pipelines.saved import find_architecture

# Without XLA, the small operations of one batch on a CPU leave cores idle for another batch.
BATCHES_AT_ONCE = 2
# Texts that are tokenized, and sorted by length, together.
TEXTS_AT_ONCE = 1024


class Pipeline:
    """A saved model with its tokenizer.

    Args:
        model: a model of the class `model_class`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: the most tokens in a row that the model reads.
    """

    model_class: ClassVar[Any]
    what: ClassVar[str]  # the model in words, for errors
    # Whether a padded text has the outputs of the text alone, however the model was trained.
    always_masks_padding: ClassVar[bool] = False
    # Arguments of the class that fine-tuning saves in `task_specific_params`, under `task_kind`.
    saved_arguments: ClassVar[tuple[str, ...]] = ()
    task_kind: ClassVar[str] = ""

    def __init__(self, model: Any, tokenizer: ConvBertTokenizer, max_seq_length: int):
        # [CLS], a token of each of two texts, and two [SEP].
        require(max_seq_length >= 5, "max_seq_length", "at least 5", max_seq_length)
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Self:
        """Loads a model that this project or transformers saved.

        Args:
            name_or_directory: a directory, or a name on the Hugging Face hub.
            revision, cache_dir, local_files_only: see `hub.resolve`.
            **options: further arguments of the class. They override those that fine-tuning saved.

        Raises:
            InputError: the model does not exist or is of another kind, a file is missing or
                damaged, the tokenizer has another vocabulary than the model, or an option has an
                impossible value.
        """
        directory = hub.resolve(name_or_directory, revision, cache_dir, local_files_only)
        cls.check_directory(directory)
        changes = {"mask_padding": True} if cls.always_masks_padding else {}
        model = cls.model_class.from_pretrained(directory, **changes)
        config, tokenizer = model.config, ConvBertTokenizer.from_pretrained(directory)
        if tokenizer.vocab_size != config.vocab_size:
            raise InputError(
                f"{vocabulary_file(directory)} has {tokenizer.vocab_size} tokens, but the "
                f"model's `vocab_size` is {config.vocab_size}"
            )
        longest = config.max_position_embeddings
        stated = stated_max_length(pathlib.Path(directory) / CONFIG_FILE) or longest
        options = cls._saved_options(config) | options
        return cls(model, tokenizer, min(stated, longest), **options)

    @classmethod
    def check_directory(cls, directory: str) -> None:
        """Raises an `InputError` if the directory holds another kind of model."""
        find_architecture(directory, [cls.model_class.architecture], cls.what)

    @classmethod
    def _saved_options(cls, config):
        """The arguments that fine-tuning saved in config.json, where others may add fields."""
        saved = (config.task_specific_params or {}).get(cls.task_kind, {})
        source = "config.json, `task_specific_params`"
        require(isinstance(saved, dict), cls.task_kind, "an object", saved, source)
        for name in saved.keys() - set(cls.saved_arguments):
            error = unknown("field", name, cls.saved_arguments, f"{source}, `{cls.task_kind}`")
            logging.warning("%s. The field is ignored", error)
        return {name: value for name, value in saved.items() if name in cls.saved_arguments}

    def warn_of_cut(self, num_cut: int, num_texts: int, effect: str = " and have been cut") -> None:
        """Logs how many texts were too long, if any, and the effect."""
        if num_cut:
            message = "%d of %d texts were longer than %d tokens%s"
            logging.warning(message, num_cut, num_texts, self.max_seq_length, effect)


def label_names(config: ConvBertConfig) -> tuple[str, ...]:
    """A model's labels, or LABEL_0, LABEL_1 and so on if they have no names."""
    return config.id2label or tuple(f"LABEL_{i}" for i in range(config.num_labels))


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts of the argument `name` as a list; an empty text is an `InputError`."""
    if isinstance(texts, str):
        raise InputError(f"`{name}` must be a list of strings. For a single text, write [text]")
    return [parse_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]


def check_inputs(batch_size: int, **texts: Sequence[str] | None) -> list[Any]:
    """Checks `batch_size`, and lists of texts by the names of their arguments.

    Returns:
        The lists, which have the same length, or None for None; see `check_texts`.
    """
    require(batch_size >= 1, "batch_size", "a positive integer", batch_size)
    lists: list[Any] = []
    for name, items in texts.items():
        lists.append(items if items is None else check_texts(items, name))
        if items is not None and len(items) != len(lists[0]):
            raise InputError(f"{len(lists[0])} `{next(iter(texts))}`, but {len(items)} `{name}`")
    return lists


def chunks(texts: Sequence[str]) -> Iterator[slice]:
    """Slices of at most `TEXTS_AT_ONCE` texts."""
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        yield slice(begin, begin + TEXTS_AT_ONCE)


def compute_outputs(
    model: Any, features: Features, batch_size: int, token_outputs: tuple[str, ...] | None = None
) -> Arrays:
    """A compiled model's outputs for all examples, in order; see `gather_outputs`.

    `token_outputs` are the names of outputs `[B, T, …]`; None is `model.token_outputs`. An output
    that is not a finite number is an `InputError`.
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
                "the model's outputs are not finite numbers: its training diverged. Train with a "
                "lower `learning_rate`"
            )
    return outputs
