"""Continued pre-training: initial weights from a saved model."""

import os

from absl import logging

from common import files, hub, remote, remote_cache
from common.errors import InputError
from model.weights import pretrained

MAIN = ("discriminator", "encoder")  # a run writes one of these, depending on its objective


def locate(path: str, data_dir: str) -> str:
    """Where `init_checkpoint` is: a URL, a name on the hub, or a path, perhaps below `data_dir`."""
    try:
        return files.find_path("init_checkpoint", path, data_dir)
    except InputError:
        folder = path.partition("/")[0]
        is_path = hub.looks_like_path(path) or os.path.isdir(folder)
        if is_path or os.path.isdir(os.path.join(data_dir, folder)):
            raise
        return path


def find_models(path: str | os.PathLike) -> dict[str, str]:
    """Finds the directories of saved models.

    `path` is a directory, here or in an object store, or a name on the hub. A directory may be that
    of a run, or of one saved model, this project's or Hugging Face's. Raises an `InputError` if
    `path` is none of these.

    Returns:
        "main": the directory of the discriminator, or of the encoder if there is no discriminator;
        and "generator": the directory of the generator, if there is one.
    """
    path = os.fspath(path)
    if remote.is_url(path):
        path = remote_cache.fetch(
            path, lambda names: hub.model_files(names, ("", *MAIN, "generator"))
        ).path
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
        f"`init_checkpoint`: {path} is neither the directory of a run (with discriminator/ or "
        "encoder/ in it) nor that of a saved model (with config.json and weights)"
    )


def initialize(
    networks: dict[str, tuple], found: dict[str, str], same_vocabulary: bool = False
) -> None:
    """Loads the weights that `find_models` found into `ConvBertForPreTraining.saved_models`.

    The saved encoder becomes the encoder of the discriminator or of masked language modeling. If
    heads or a generator were not saved, they keep their random values, and warnings list them. With
    `same_vocabulary`, a saved table may have more rows than there are tokens: the spare rows are
    left out.

    Raises:
        InputError: a file is damaged, or the vocabulary or tensors do not fit; the message lists
            such tensors with their shapes.
    """
    config, tensors, _ = next(networks[name] for name in MAIN if name in networks)
    _load(found["main"], config, tensors, same_vocabulary)
    if "generator" not in networks:
        return
    if "generator" in found:
        config, generator_tensors, _ = networks["generator"]
        loaded = {id(row.variable) for row in tensors}
        _load(found["generator"], config, generator_tensors, same_vocabulary, loaded)
    else:
        logging.warning(
            "%s: no generator/ found; the generator is initialized randomly, except for the "
            "embeddings that it shares with the discriminator",
            found["main"],
        )


def _load(directory, config, tensors, same_vocabulary, loaded=frozenset()):
    """Loads a saved model into those of `tensors` whose variables' ids are not in `loaded`."""
    source = pretrained.read(directory)
    spare = source.config.vocab_size - config.vocab_size
    if spare > 0 and same_vocabulary:
        logging.info("%s: left out %d rows of its table that have no token", directory, spare)
        for name in pretrained.ROW_PER_TOKEN & source.arrays.keys():
            source.arrays[name] = source.arrays[name][: config.vocab_size]
    elif spare:
        raise InputError(
            f"{directory} has a vocabulary of {source.config.vocab_size:,} tokens, but this run "
            f"has {config.vocab_size:,}. Build the records with its vocab.txt (--vocab-file)"
        )
    for row in tensors:
        if id(row.variable) in loaded:
            source.arrays.pop(row.hf_name, None)
    source.load_into(row for row in tensors if id(row.variable) not in loaded)
    for name in ("num_heads", "hidden_act"):  # shapes do not always show these
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise InputError(f"`{name}` is {theirs!r} in {directory}, but {ours!r} in this run")
    logging.info("initial weights: %s", source.path)
