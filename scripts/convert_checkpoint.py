"""Converts ConvBERT models of transformers or of the original release to this project's format.

    python3 scripts/convert_checkpoint.py old_model/ new_model/ --expected outputs.npz
    python3 scripts/convert_checkpoint.py model.ckpt-1000000 DATA_DIR/models/NAME \\
        --vocab-file vocab.txt

A model of transformers is a directory, or a name on the Hugging Face hub. OUT_DIR gets config.json,
model.safetensors and, if there is a vocabulary, the tokenizer's files. The result is read again,
and every tensor is compared with SOURCE's, bit for bit. With --expected, the model's outputs are
compared, too: docs/checkpoints.md shows how to make that file where the old code still runs.

A pre-training checkpoint of the original release (TF 1) becomes OUT_DIR/discriminator and
OUT_DIR/generator, or OUT_DIR/encoder for masked language modeling; a fine-tuned one becomes
OUT_DIR/TASK for each task it has a head for. The optimizer's tensors are skipped. The configuration
is derived from the shapes; pass what they do not show (dropout, names of labels, the number of
heads of plain attention) with --hparams.

If anything fails, nothing is written.
"""

import argparse
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401

from common import errors, files, hub
from common.errors import InputError
from common.fields import override, unknown
from model.config import HEAD_FIELDS, ConvBertConfig, load_hparams
from model.weights import tf1

# The inputs' names in --expected, and here.
INPUTS = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json")  # either holds a vocabulary
RESERVED_NAMES = ("discriminator", "generator", "encoder")
# Options that apply to only one kind of source.
TRANSFORMERS_OPTIONS = ("revision", "architecture", "expected")
TF1_OPTIONS = ("tagging",)


def main(arguments: list[str] | None = None) -> None:
    """Converts, checks, and prints what was read and written."""
    args = parse_arguments(arguments)
    target = os.path.normpath(args.target)
    if os.path.exists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise InputError(f"{target} already exists: choose a new directory, or remove it")
    is_tf1 = tf1.is_checkpoint(args.source)
    for name in TRANSFORMERS_OPTIONS if is_tf1 else TF1_OPTIONS:
        if getattr(args, name):
            kind = "a TF 1 checkpoint" if is_tf1 else "not a TF 1 checkpoint"
            raise InputError(f"--{name} does not apply: {args.source} is {kind}")
    hparams = load_hparams(args.hparams) if args.hparams else {}
    convert = convert_tf1 if is_tf1 else convert_transformers
    with files.atomic_directory(target) as temporary:
        notes = convert(args, hparams, temporary)
    print(f"written to {target}")
    for note in notes:
        print(f"note: {note}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a model of transformers, or a TF 1 checkpoint (model.ckpt-N, or its directory)",
    )
    parser.add_argument("target", metavar="OUT_DIR", help="a new directory")
    parser.add_argument("--hparams", help="JSON object, or its file: fields of ConvBertConfig")
    parser.add_argument("--vocab-file", help="vocabulary to save with each model")
    parser.add_argument(
        "--cased",
        action="store_true",
        help="--vocab-file keeps case and accents (default: as tokenizer_config.json beside it "
        "says, else lower-cased)",
    )
    theirs = parser.add_argument_group("models of transformers")
    theirs.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    theirs.add_argument(
        "--architecture",
        help="class of the model, such as ConvBertForMaskedLM (default: from config.json)",
    )
    theirs.add_argument("--expected", metavar="NPZ", help="inputs, and outputs to compare with")
    theirs.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest allowed difference from --expected (default: %(default)s)",
    )
    original = parser.add_argument_group("TF 1 checkpoints")
    original.add_argument(
        "--tagging",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks that label words, which a checkpoint does not show (chunk is known)",
    )
    args = parser.parse_args(arguments)
    if args.tolerance < 0:
        parser.error("--tolerance must be at least 0")
    return args


def load_tokenizer(args: argparse.Namespace, config: ConvBertConfig, source: str | None = None):
    """The tokenizer of --vocab-file, or of the directory `source`; None without a vocabulary."""
    from data.tokenizer.tokenizer import ConvBertTokenizer
    from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_options

    if args.vocab_file:
        stated = stated_options(Path(args.vocab_file).parent / CONFIG_FILE)
        lower = not args.cased and stated.get("do_lower_case", True)
        strip = lower and stated.get("strip_accents", True)
        tokenizer = ConvBertTokenizer(args.vocab_file, do_lower_case=lower, strip_accents=strip)
    elif source and any(os.path.exists(os.path.join(source, name)) for name in TOKENIZER_FILES):
        tokenizer = ConvBertTokenizer.from_pretrained(source)
    else:
        return None
    size, expected = tokenizer.vocab_size, config.vocab_size
    # Tables are often padded to a multiple of 8 or more. Other sizes mean another vocabulary.
    is_padded = expected % 8 == 0 and size < expected < size + 128
    if size > expected or (args.vocab_file and size != expected and not is_padded):
        raise InputError(
            f"{args.vocab_file or source} has {size:,} tokens, but the model has word embeddings "
            f"for {expected:,}"
        )
    return tokenizer


def describe(networks: dict[str, tuple], has_tokenizer: bool) -> list[str]:
    """Prints a line for each network of `build_networks`; returns notes for the user."""
    notes = []
    if not has_tokenizer:
        notes.append("there is no vocabulary: reading text needs a vocab.txt (--vocab-file)")
    for name, (config, tensors, architecture) in networks.items():
        count = sum(math.prod(row.variable.shape) for row in tensors)
        print(f"{name}: {architecture}, {len(tensors)} tensors, {count:,} parameters")
        if note := config.transformers_incompatibility():
            notes.append(f"transformers cannot open {name}: {note}")
        is_classifier = "Classification" in architecture and config.num_labels > 1
        if is_classifier and config.id2label is None:
            notes.append(
                f"{name} has no names for its labels; pass them in order with "
                """--hparams '{"id2label": […]}'"""
            )
    if config.mask_padding:
        notes.append(
            "padding is masked, so it changes no result. For the outputs that the source computes "
            """on padded text, pass --hparams '{"mask_padding": false}'"""
        )
    return notes


# --- Models of transformers -------------------------------------------------------------------


def convert_transformers(args: argparse.Namespace, hparams: dict, directory: str) -> list[str]:
    """Writes a model of transformers to `directory`, and checks it; returns notes for users."""
    from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_max_length

    source = hub.resolve(args.source, args.revision)
    model_class = find_class(source, args.architecture)
    model = model_class.from_pretrained(source, **hparams)
    model.save_pretrained(directory)
    tokenizer = load_tokenizer(args, model.config, source)
    if tokenizer is not None:
        length = stated_max_length(Path(source) / CONFIG_FILE)
        tokenizer.save_pretrained(directory, length or model.config.max_position_embeddings)
    unused = verify_tensors(source, directory, model_class)
    network = {args.source: (model.config, model.tensors(), model_class.__name__)}
    notes = describe(network, tokenizer is not None)
    print("each tensor, read again, is equal to the source's, bit for bit")
    if args.expected:
        verify_outputs(directory, model_class, args.expected, args.tolerance)
    if unused:
        notes.append(f"{model_class.__name__} does not use these tensors: {', '.join(unused)}")
    return notes


def find_class(source: str, name: str | None) -> type:
    """The class of `model` that --architecture or config.json names, with or without "TF"."""
    import model as library

    origin = "--architecture"
    if name is None:
        origin = os.path.join(source, "config.json")
        architectures = files.read_json_object(origin).get("architectures")
        if not architectures:
            raise InputError(f"{origin}: `architectures` is missing; pass --architecture")
        name = str(architectures[0])
    public = {known: getattr(library, known) for known in library.__all__}
    classes = {known: each for known, each in public.items() if hasattr(each, "from_pretrained")}
    if name.removeprefix("TF") not in classes:
        raise unknown("class", name, classes, origin)
    return classes[name.removeprefix("TF")]


def verify_tensors(source: str, directory: str, model_class: type) -> list[str]:
    """Compares the saved model's tensors with the source's; returns the names of unused ones."""
    import numpy as np

    from model.weights import pretrained

    theirs = pretrained.read(source).arrays
    ours = {row.hf_name: row.to_hf() for row in model_class.from_pretrained(directory).tensors()}
    problems = []
    for name, array in ours.items():
        if name not in theirs:
            problems.append(f"missing: {name} {array.shape}")
        elif array.tobytes() != np.asarray(theirs[name], "float32").tobytes():
            problems.append(f"different: {name}")
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(f"{source} does not hold a complete {model_class.__name__}:\n  {listed}")
    return [name for name in theirs if name not in ours and name not in pretrained.IGNORED]


def verify_outputs(directory: str, model_class: type, path: str, tolerance: float) -> None:
    """Compares the saved model's outputs with those in a file, and prints the differences."""
    import numpy as np

    from model.backends import devices

    arrays = read_npz(path)
    inputs = {ours: arrays.pop(theirs) for theirs, ours in INPUTS.items() if theirs in arrays}
    if "input_ids" not in inputs:
        raise InputError(f"{path} has no input_ids; it has: {', '.join(arrays) or 'nothing'}")
    model = model_class.from_pretrained(directory, mask_padding=False)  # like transformers
    for name, array in inputs.items():
        below = model.config.vocab_size if name == "input_ids" else 2
        if array.dtype.kind == "f" or not ((array >= 0) & (array < below)).all():
            expected = f"integers from 0 to {below - 1} for `{name}`"
            raise InputError(f"{path}: expected {expected}, got {array.dtype} {array!s:.80}")
    shape, *others = {array.shape for array in inputs.values()}
    longest = model.config.max_position_embeddings
    if others or len(shape) != model.input_rank or shape[-1] > longest:
        axes = "[B, choices, T]" if model.input_rank == 3 else "[B, T]"
        found = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        raise InputError(f"{path}: expected arrays {axes} with T up to {longest}, got {found}")
    devices.report(model.dtype_policy.name, jit_compile=False)
    computed = outputs_of(model, inputs)
    compared = sorted(set(computed) & set(arrays))
    if not compared:
        raise InputError(
            f"{path} has no outputs of {model_class.__name__}: {', '.join(sorted(computed))}"
        )
    too_large = []
    for name in compared:
        if arrays[name].shape != computed[name].shape:
            raise InputError(
                f"{path}: {name} has the shape {arrays[name].shape}, but the model's output has "
                f"{computed[name].shape}"
            )
        difference = float(np.max(np.abs(arrays[name].astype("float32") - computed[name])))
        scale = float(np.max(np.abs(arrays[name])))
        print(f"{name}: largest difference {difference:.2e} (largest value {scale:.3g})")
        if not difference <= tolerance:  # it may be NaN
            too_large.append(f"{name} differs by {difference:.2e}")
    if ignored := sorted(set(arrays) - set(compared)):
        print(f"not compared: {', '.join(ignored)}")
    if too_large:
        raise InputError(f"{path}: {', '.join(too_large)}, above --tolerance {tolerance:g}")


def read_npz(path: str) -> dict[str, Any]:
    """The arrays of numbers of an .npz file; an `InputError` if it is damaged or another file."""
    import numpy as np

    try:
        file = np.load(path)
        if isinstance(file, np.ndarray):
            raise ValueError("it holds one array, as np.save writes it; use np.savez")
        with file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not an .npz file that can be read: {error}") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path}: {name} must hold numbers. Received: {array.dtype}")
    return arrays


def outputs_of(model, inputs: dict) -> dict:
    """A model's outputs under transformers' names, with those of the encoder's layers."""
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


# --- TF 1 checkpoints -------------------------------------------------------------------------


def convert_tf1(args: argparse.Namespace, hparams: dict, directory: str) -> list[str]:
    """Writes each network of a checkpoint below `directory`; returns notes for users."""
    from model.weights import pretrained

    source = tf1.find_prefix(args.source)
    arrays, num_skipped = read_tf1(source)
    print(f"{source}: {len(arrays)} weights; {num_skipped} other tensors (optimizer, step) skipped")
    networks, variables = build_networks(arrays, hparams, args.tagging, source)
    assign(variables, arrays, source)
    tokenizer = load_tokenizer(args, next(iter(networks.values()))[0])
    for name, (config, tensors, architecture) in networks.items():
        folder = os.path.join(directory, name)
        pretrained.save(folder, config, tensors, architecture)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder, config.max_position_embeddings)
    return describe(networks, tokenizer is not None)


def read_tf1(prefix: str) -> tuple[dict[str, Any], int]:
    """A checkpoint's weights as float32, by name; and the number of its other tensors."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        names = sorted(name for name in types if tf1.is_weight(name, types))
        for name in names:
            if not types[name].is_floating:
                raise InputError(f"{prefix}: {name} is {types[name].name}, not a ConvBERT weight")
        arrays = {name: reader.get_tensor(name).astype("float32") for name in names}
    except (tf.errors.OpError, IndexError) as error:  # IndexError: a file is too short
        raise InputError(f"{prefix}: damaged, or one of its files is missing: {error}") from None
    return arrays, len(types) - len(names)


def build_networks(
    arrays: dict[str, Any], hparams: dict, tagging: Iterable[str], source: str
) -> tuple[dict[str, tuple], list[tuple[str, Any]]]:
    """Builds the networks that a checkpoint's variables belong to.

    Returns {name of a directory: (configuration, tensors, architecture)}, and the Keras variables
    with their names in the checkpoint.
    """
    from model import ConvBertForPreTraining, ConvBertModel

    shapes = {name: array.shape for name, array in arrays.items()}
    config = tf1.encoder_config(shapes, hparams, source)
    tasks = sorted({name.split("/")[1] for name in shapes if name.startswith("task_specific/")})
    for task in tasks:
        if not re.fullmatch(r"\w[\w.+-]*", task) or task in RESERVED_NAMES:
            raise InputError(f"{source}: the task {task!r} cannot be the name of a directory")
    for task in tagging:
        if task not in tasks:
            raise unknown("task", task, tasks, f"--tagging: {source}")
    head_hparams = {name: value for name, value in hparams.items() if name in HEAD_FIELDS}
    if head_hparams and not tasks:
        raise InputError(f"--hparams: {', '.join(head_hparams)}: {source} has no fine-tuned head")
    networks, variables = {}, []
    objective = tf1.objective(shapes, config, source)
    if objective is not None:
        model = ConvBertForPreTraining(config, objective)
        networks |= model.saved_models()
        variables += [(row.tf1_name, row.variable) for row in model.tensors()]
    if tasks or objective is None:
        encoder = ConvBertModel(config)
    models = [task_model(task, encoder, shapes, task in tagging, head_hparams) for task in tasks]
    if objective is None and not tasks:
        tasks, models = ["encoder"], [encoder]
    for name, model in zip(tasks, models, strict=True):
        networks[name] = (model.config, model.tensors(), model.architecture)
        variables += [(row.tf1_name.format(task=name), row.variable) for row in model.tensors()]
    return networks, variables


def task_model(task: str, encoder, shapes: dict, is_tagging: bool, hparams: dict):
    """A fine-tuned encoder with the head of `task`, and names of labels if GLUE has the task."""
    import model as library
    from data.tasks.glue import TASKS

    scope = f"task_specific/{task}"
    if f"{scope}/qa_hidden/kernel" in shapes:
        config = override(encoder.config, hparams)
        return library.ConvBertForQuestionAnswering(config, joint_prediction=True, convbert=encoder)
    num_outputs = shapes.get(f"{scope}/dense/bias", (2,))[0]
    fields = {"num_labels": num_outputs}
    if num_outputs == 1:
        fields["problem_type"] = "regression"
    known = TASKS[task].model_fields() if task in TASKS else {}
    if known.get("num_labels") == num_outputs:
        fields |= known
    config = override(encoder.config, fields | hparams)
    if is_tagging or task == "chunk":
        return library.ConvBertForTokenClassification(config, convbert=encoder)
    return library.ConvBertForSequenceClassification(config, convbert=encoder)


def assign(variables: Iterable[tuple[str, Any]], arrays: dict, source: str) -> None:
    """Sets all variables, or none if some are missing, left over, or of another shape."""
    problems, left_over = [], dict(arrays)
    for name, variable in variables:
        array, expected = left_over.pop(name, arrays.get(name)), tuple(variable.shape)
        if array is None:
            problems.append(f"missing: {name} {expected}")
        elif array.shape != expected:
            problems.append(f"shape of {name}: {array.shape}, expected {expected}")
    problems += [f"left over: {name} {array.shape}" for name, array in left_over.items()]
    if problems:
        listed = "\n  ".join(dict.fromkeys(problems))
        raise InputError(f"{source} does not fit the network that its shapes show:\n  {listed}")
    for name, variable in variables:
        variable.assign(arrays[name])


if __name__ == "__main__":
    errors.run(main)
