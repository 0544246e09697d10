"""Continued pre-training: a model's first weights, from one that was saved."""

import dataclasses
import os
from collections.abc import Iterable

from absl import logging

from common import hub
from common.errors import InputError
from model.config import ConvBertConfig
from model.pretraining import ConvBertForPreTraining
from model.weights import pretrained

MAIN = ("discriminator", "encoder")  # what a run leaves to go on from, by its objective


def find_models(path: str | os.PathLike) -> dict[str, str]:
    """The directories of the saved models in `path`.

    Args:
        path: a run's directory, or that of one saved model, this project's or Hugging Face's; or a
            name of the hub.

    Returns:
        "main": the discriminator, or whatever encoder is there; and "generator", if there is one.

    Raises:
        InputError: `path` is neither.
    """
    path = os.fspath(path)
    for name in MAIN:
        found = {"main": os.path.join(path, name), "generator": os.path.join(path, "generator")}
        if os.path.isdir(found["main"]):
            return {key: directory for key, directory in found.items() if os.path.isdir(directory)}
    if os.path.isfile(os.path.join(path, "config.json")):
        return {"main": path}
    pretrained.refuse_tf1_checkpoint(path)
    if not hub.looks_like_path(path):
        return {"main": hub.resolve(path)}
    raise InputError(
        f"`init_checkpoint`: {path} is neither the directory of a run, with discriminator/ or "
        "encoder/ in it, nor that of a saved model, with config.json and weights"
    )


def initialize(model: ConvBertForPreTraining, found: dict[str, str]) -> None:
    """Sets a model's weights to those saved in the directories that `find_models` found.

    The encoder that is there becomes the discriminator's, or that of masked language modeling.
    Heads and a generator that are not there stay as drawn, and warnings list them.

    Raises:
        InputError: a file is damaged, or the vocabulary or tensors do not fit; tensors are listed
            with their shapes.
    """
    networks = model.saved_models()
    config, tensors, _ = next(networks[name] for name in MAIN if name in networks)
    _load(found["main"], config, tensors)
    if "generator" not in networks:
        return
    if "generator" in found:
        config, generator_tensors, _ = networks["generator"]
        _load(found["generator"], config, generator_tensors, shared_with=tensors)
    else:
        logging.warning(
            "%s has no generator/: the generator is newly initialized, but for the embeddings "
            "it shares with the discriminator",
            found["main"],
        )


def _load(
    directory: str,
    config: ConvBertConfig,
    tensors: list[pretrained.Tensor],
    shared_with: Iterable[pretrained.Tensor] = (),
) -> None:
    """Loads one saved model into those of `tensors` that are not shared with a loaded one."""
    source = pretrained.read(directory)
    if source.config.vocab_size != config.vocab_size:
        raise InputError(
            f"{directory} has a vocabulary of {source.config.vocab_size:,} tokens, and this run "
            f"one of {config.vocab_size:,}. Build the records with its vocab.txt (--vocab-file)"
        )
    loaded = {id(row.variable) for row in shared_with}
    shared = {row.hf_name for row in tensors if id(row.variable) in loaded}
    arrays = {name: array for name, array in source.arrays.items() if name not in shared}
    dataclasses.replace(source, arrays=arrays).load_into(
        row for row in tensors if row.hf_name not in shared
    )
    for name in ("num_heads", "hidden_act"):  # what shapes do not always tell
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise InputError(f"{directory} has {name} {theirs!r}, and this model {ours!r}")
    logging.info("weights from %s", source.path)
