"""The encoder that fine-tuning starts from: a saved model, or random weights."""

import dataclasses
import hashlib
import os
from typing import Any

from common import files
from common.errors import InputError
from common.fields import override, require
from common.remote import as_path
from configure_finetuning import FinetuningConfig
from model.config import MODEL_SIZES, ConvBertConfig

# Where an encoder may be below models/MODEL_NAME: written by replaced-token detection, written by
# masked language modeling alone, or a saved model that a user put there.
ENCODER_DIRECTORIES = ("discriminator", "encoder", ".")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The initial state of every trial."""

    directory: str | None  # None for random weights
    config: ConvBertConfig  # with `model_hparam_overrides`
    tokenizer: Any
    sha256: str  # of the weights (if random: of the configuration) and the tokenizer


def find_encoder(config: FinetuningConfig, model_dir: str) -> Encoder:
    """The encoder saved below `model_dir`, checked against `config` and its own tokenizer.

    Raises:
        InputError: no encoder was found, one of its files is missing or damaged, or it does not
            fit.
    """
    from data import ConvBertTokenizer
    from data.tokenizer.saved_files import check_vocab_size
    from model.weights import pretrained

    found = saved_encoder(model_dir)
    if found is None:
        raise InputError(
            f"no pre-trained model: config.json is in none of {', '.join(_places(model_dir))}. Run "
            "pretrain.sh first, or start from random weights with --from-scratch"
        )
    saved = pretrained.read(found)
    _check_size(config.model_size, saved.config, found)
    network = override(saved.config, config.model_hparam_overrides)
    tokenizer = ConvBertTokenizer.from_pretrained(found)
    check_vocab_size(found, tokenizer.vocab_size, network.vocab_size)
    paths = (os.path.join(found, "config.json"), *saved.paths)
    weights = b"".join(bytes.fromhex(files.sha256_of(path)) for path in paths)
    return _make_encoder(found, network, tokenizer, weights, config)


def random_encoder(config: FinetuningConfig, data_dir: str, model_dir: str) -> Encoder:
    """Random weights for a model like the one saved below `model_dir`, with its vocabulary.

    If there is none, or `model_size` is set, the model has that size (default: medium-small) and
    the vocabulary `data_dir`/vocab.txt.
    """
    from data import ConvBertTokenizer
    from model.weights import pretrained

    found = saved_encoder(model_dir)
    if found and config.model_size is None:
        tokenizer = ConvBertTokenizer.from_pretrained(found)
        network = override(pretrained.read(found).config, config.model_hparam_overrides)
    else:
        tokenizer = ConvBertTokenizer.from_pretrained(as_path(data_dir))  # never a name on the hub
        vocabulary = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
        overrides = vocabulary | config.model_hparam_overrides
        network = ConvBertConfig.from_size(config.model_size or "medium-small", **overrides)
    return _make_encoder(None, network, tokenizer, repr(network).encode(), config)


def saved_encoder(model_dir: str | os.PathLike) -> str | None:
    """The directory of the encoder saved below `model_dir`; None if there is none."""
    places = _places(model_dir)
    return next((p for p in places if os.path.isfile(os.path.join(p, "config.json"))), None)


def _places(model_dir):
    return [os.path.normpath(os.path.join(model_dir, name)) for name in ENCODER_DIRECTORIES]


def _make_encoder(directory, network, tokenizer, weights, config):
    """An encoder for texts of `max_seq_length` tokens; the bytes `weights` identify its weights."""
    longest = network.max_position_embeddings
    expected = f"at most {longest}, the model's `max_position_embeddings`"
    require(config.max_seq_length <= longest, "max_seq_length", expected, config.max_seq_length)
    identity = weights + tokenizer.vocab_sha256.encode()
    identity += bytes([tokenizer.do_lower_case, tokenizer.strip_accents])
    return Encoder(directory, network, tokenizer, hashlib.sha256(identity).hexdigest())


def _check_size(size, network, directory):
    fields = MODEL_SIZES[size].config_fields() if size else {}
    for field, expected in fields.items():
        found = getattr(network, field)
        if found != expected:
            raise InputError(
                f'`model_size` "{size}" has `{field}` {expected}, but the model in {directory} '
                f"has {found}. Omit `model_size` to use the saved model's"
            )
