"""Turns a ConvBERT that transformers saved into a directory of this project, and verifies it.

    python3 scripts/adopt_checkpoint.py old_model/ new_model/
    python3 scripts/adopt_checkpoint.py old_model/ new_model/ --expected outputs.npz

OUT_DIR gets config.json, model.safetensors and, where SOURCE has a vocabulary, the tokenizer's
files. What was written is read again, and every tensor compared with SOURCE's, bit for bit. With
--expected also what the model computes is compared: docs/from_transformers.md has the three lines
that make such a file where the old code still runs. Nothing is left behind unless all of it holds.
"""

import argparse
import json
import os
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors, files
from common.errors import InputError
from model.config import load_hparams

# What --expected calls the inputs, and what they are called here.
INPUTS = {
    "input_ids": "input_ids",
    "attention_mask": "input_mask",
    "token_type_ids": "segment_ids",
}
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json")  # either holds a vocabulary
DEFAULT_TOLERANCE = 1e-4


def main(arguments: list[str] | None = None) -> None:
    """Converts, verifies, and says what was found."""
    args = parse_arguments(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    target = os.path.normpath(args.target)
    if os.path.exists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise InputError(f"{target} exists already: name a new folder, or remove it")
    architecture = find_class(args.source, args.architecture)
    hparams = load_hparams(args.hparams) if args.hparams else {}
    model = architecture.from_pretrained(args.source, **hparams)
    with files.atomic_directory(target) as temporary:
        model.save_pretrained(temporary)
        has_tokenizer = save_tokenizer(args.source, temporary, model.config)
        count, left_out = verify_tensors(args.source, temporary, architecture)
        print(f"{args.source}: {architecture.__name__}, {model.count_params():,} parameters")
        print(f"{count} tensors: read again, each has the bits of the source")
        if args.expected:
            verify_outputs(temporary, architecture, args.expected, args.tolerance)
    print(f"written to {target}")
    for note in notes(model, has_tokenizer, left_out):
        print(f"note: {note}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="a directory that transformers saved")
    parser.add_argument("target", metavar="OUT_DIR", help="to write; nothing is overwritten")
    parser.add_argument(
        "--architecture",
        help="the model's class, such as ConvBertForMaskedLM; default: what config.json says",
    )
    parser.add_argument("--hparams", help="JSON object, or its file: fields of ConvBertConfig")
    parser.add_argument("--expected", metavar="NPZ", help="inputs, and outputs to compare with")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        help=f"the largest difference allowed from --expected (default: {DEFAULT_TOLERANCE})",
    )
    args = parser.parse_args(arguments)
    if args.tolerance < 0:
        parser.error("--tolerance must be at least 0")
    return args


def find_class(source: str, name: str | None) -> type:
    """The class of `model` that a saved directory, or the user, names; "TF" before it is dropped.

    Raises:
        InputError: there is no name, or none of a class with an exchange format.
    """
    import model as library
    from model.convbert import PretrainedModel

    origin = "--architecture"
    if name is None:
        origin = os.path.join(source, "config.json")
        try:
            with open(origin, encoding="utf-8") as file:
                names = json.load(file).get("architectures") or [None]
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{origin}: {error}") from None
        name = names[0]
        if name is None:
            raise InputError(f"{origin} does not name the model's class: give --architecture")
    known = [
        public
        for public in library.__all__
        if isinstance(getattr(library, public), type)
        and issubclass(getattr(library, public), PretrainedModel)
    ]
    if str(name).removeprefix("TF") not in known:
        raise InputError(f"{origin}: there is no class {name}, only: {', '.join(known)}")
    return getattr(library, str(name).removeprefix("TF"))


def save_tokenizer(source: str, directory: str, config) -> bool:
    """Writes the tokenizer's files, if the source has a vocabulary; says whether it has.

    Raises:
        InputError: the vocabulary is not the model's.
    """
    from data.tokenizer.tokenizer import ConvBertTokenizer
    from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_max_length

    if not any((Path(source) / name).exists() for name in TOKENIZER_FILES):
        return False
    tokenizer = ConvBertTokenizer.from_pretrained(source)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model's word "
            f"embeddings are of {config.vocab_size:,}"
        )
    length = stated_max_length(Path(source) / CONFIG_FILE)
    tokenizer.save_pretrained(directory, length or config.max_position_embeddings)
    return True


def verify_tensors(source: str, directory: str, architecture: type) -> tuple[int, list[str]]:
    """Compares all that a model made of `directory` holds with the source's tensors.

    Returns:
        The number of tensors; the names of those that the class has no place for.

    Raises:
        InputError: some are missing in the source, or differ; all are listed.
    """
    import numpy as np

    from model.weights import pretrained

    theirs = pretrained.read(source).arrays
    rows = {row.hf_name: row.to_hf() for row in architecture.from_pretrained(directory).tensors()}
    problems = []
    for name, ours in rows.items():
        if name not in theirs:
            problems.append(f"missing: {name} {ours.shape}")
        elif ours.tobytes() != np.asarray(theirs[name], "float32").tobytes():
            problems.append(f"differs: {name}")
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(f"{source} does not hold a whole {architecture.__name__}:\n  {listed}")
    left_out = [name for name in theirs if name not in rows and name not in pretrained.IGNORED]
    return len(rows), left_out


def verify_outputs(directory: str, architecture: type, path: str, tolerance: float) -> None:
    """Compares what the saved model computes with a file's arrays, and prints the differences.

    Padding is left in the convolutions for that, as it is in transformers.

    Raises:
        InputError: nothing to compare, another shape, or a difference above `tolerance`.
    """
    import numpy as np

    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not an .npz file: {error}") from None
    inputs = {ours: arrays.pop(theirs) for theirs, ours in INPUTS.items() if theirs in arrays}
    if "input_ids" not in inputs:
        raise InputError(f"{path} has no input_ids; it has: {', '.join(arrays) or 'nothing'}")
    model = architecture.from_pretrained(directory, mask_padding=False)
    computed = outputs_of(model, inputs)
    compared = sorted(set(computed) & set(arrays))
    if not compared:
        raise InputError(
            f"{path} has none of the outputs of {architecture.__name__}: "
            f"{', '.join(sorted(computed))}"
        )
    largest = 0.0
    for name in compared:
        if arrays[name].shape != computed[name].shape:
            raise InputError(
                f"{path}: {name} has the shape {arrays[name].shape}; the model computes "
                f"{computed[name].shape}"
            )
        difference = float(np.max(np.abs(arrays[name].astype("float32") - computed[name])))
        reach = float(np.max(np.abs(arrays[name])))
        print(f"{name}: the largest difference is {difference:.2e} (values reach {reach:.3g})")
        largest = max(largest, float("inf") if np.isnan(difference) else difference)
    if ignored := sorted(set(arrays) - set(compared)):
        print(f"not compared: {', '.join(ignored)}")
    if largest > tolerance:
        raise InputError(
            f"the largest difference from {path} is {largest:.2e}, above --tolerance {tolerance:g}"
        )


def outputs_of(model, inputs: dict) -> dict:
    """What a model makes of inputs, by transformers' names; also inside of the encoder."""
    import keras

    from model import ConvBertForMultipleChoice, ConvBertModel

    outputs = model(inputs)
    if not isinstance(outputs, dict):
        is_encoder = isinstance(model, ConvBertModel)
        outputs = {"last_hidden_state" if is_encoder else "logits": outputs}
    if not isinstance(model, ConvBertForMultipleChoice):
        seen = model.encoder().activations(inputs)
        outputs["hidden_states"] = keras.ops.stack([seen["projected"], *seen["layers"]])
        outputs["attentions"] = keras.ops.stack(seen["attention"])
    return {name: keras.ops.convert_to_numpy(array) for name, array in outputs.items()}


def notes(model, has_tokenizer: bool, left_out: list[str]) -> list[str]:
    """What a user of the new directory should know."""
    found = []
    if not has_tokenizer:
        found.append(
            "the source has no vocabulary: put vocab.txt into the new folder, to read text"
        )
    if left_out:
        found.append(f"left out, as {type(model).__name__} has no place for them: "
                     f"{', '.join(left_out)}")  # fmt: skip
    if model.config.mask_padding:
        found.append("padding is masked, so that it changes no result. For transformers' outputs "
                     """on padded text: --hparams '{"mask_padding": false}'""")  # fmt: skip
    return found


if __name__ == "__main__":
    errors.run(main)
