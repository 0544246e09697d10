"""Turns a TF 1 checkpoint of the original ConvBERT release into saved models, and back.

    python3 scripts/convert_checkpoint.py model.ckpt-1000000 DATA_DIR/models/NAME \\
        --vocab-file vocab.txt
    python3 scripts/convert_checkpoint.py --to tf1 DATA_DIR/models/NAME original/model.ckpt-0

A pre-training checkpoint becomes OUT_DIR/discriminator and OUT_DIR/generator (of masked language
modeling OUT_DIR/encoder), a fine-tuned one OUT_DIR/TASK for each task it has a head of. The
optimizer's tensors are left out. The configuration is read from shapes; where they do not tell
(dropout, labels' names, the heads of plain attention) --hparams does.

With --to tf1, MODEL_DIR is such a folder of saved models, or one of them. A fine-tuned model's task
is called as its folder, without a trial's number, or as --task says.
"""

import argparse
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401

from common import errors, files
from common.errors import InputError
from common.fields import override
from model.config import HEAD_FIELDS, ConvBertConfig, load_hparams

SHAPE_FIELDS = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "head_ratio", "conv_type", "conv_kernel_size", "linear_groups", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
)  # fmt: skip
RESERVED_NAMES = ("discriminator", "generator", "encoder")
JOINT_SPAN_SCOPE = "qa_hidden/"  # a variable that only the question-answering head has
ORIGINAL_ACTIVATIONS = ("gelu", "relu", "tanh")
ORIGINAL_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class Network:
    """A saved model's weights.

    Args:
        name: its directory's.
        rows: its weights, as `model.weights.pretrained` has them.
        architecture: the class's name in `config.json`.
        task: whose head it has; None for pre-training.
    """

    name: str
    config: ConvBertConfig
    rows: list
    architecture: str
    task: str | None = None

    def variables(self) -> dict[str, Any]:
        """Its variables, by their names in the original's checkpoints."""
        return {row.tf1_name.format(task=self.task): row.variable for row in self.rows}

    def describe(self) -> str:
        """One line on what it is."""
        count = sum(math.prod(row.variable.shape) for row in self.rows)
        return f"{self.name}: {self.architecture}, {len(self.rows)} tensors, {count:,} parameters"


def main(arguments: list[str] | None = None) -> None:
    """Converts one way or the other, and says what it found and wrote."""
    args = parse_arguments(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.to == "tf1":
        to_tf1(args.source, args.target, args.task)
    else:
        to_saved_models(args)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        metavar="CHECKPOINT | MODEL_DIR",
        help="a checkpoint's name (model.ckpt-N) or folder; with --to tf1 saved models",
    )
    parser.add_argument(
        "target", metavar="OUT_DIR | OUT_PREFIX", help="to write; nothing is overwritten"
    )
    parser.add_argument("--to", choices=("keras", "tf1"), default="keras", help="default: keras")
    keras = parser.add_argument_group("to saved models")
    keras.add_argument("--hparams", help="JSON object, or its file: fields of ConvBertConfig")
    keras.add_argument("--vocab-file", help="vocabulary to put beside each model")
    keras.add_argument(
        "--cased",
        action="store_true",
        help="keep case and accents (also where tokenizer_config.json beside the vocabulary does)",
    )
    keras.add_argument(
        "--tagging",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks that label words, which a checkpoint does not tell (of chunk it is known)",
    )
    tf1 = parser.add_argument_group("to TF 1")
    tf1.add_argument("--task", help="the task of a single fine-tuned model")
    args = parser.parse_args(arguments)
    for name in ("hparams", "vocab_file", "cased", "tagging"):
        if args.to == "tf1" and getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} is not for --to tf1")
    if args.to == "keras" and args.task:
        parser.error("--task is for --to tf1: a checkpoint names its tasks")
    return args


def to_saved_models(args: argparse.Namespace) -> None:
    """Reads a checkpoint; writes a directory for each of its networks, all of them or none."""
    from model.weights import pretrained
    from scripts import tf1_checkpoint

    target = os.path.normpath(args.target)
    if os.path.exists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise InputError(f"{target} exists already: name a new folder, or remove it")
    hparams = load_hparams(args.hparams) if args.hparams else {}
    source, arrays, num_ignored = tf1_checkpoint.read(args.source)
    print(f"{source}: {len(arrays)} weights; {num_ignored} other tensors (optimizer, step) ignored")
    networks = networks_of(arrays, hparams, args.tagging, source)
    assign(networks, arrays, source)
    tokenizer = load_tokenizer(args.vocab_file, args.cased, networks[0].config)
    with files.atomic_directory(target) as temporary:
        for network in networks:
            folder = os.path.join(temporary, network.name)
            pretrained.save(folder, network.config, network.rows, network.architecture)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder, network.config.max_position_embeddings)
    for network in networks:
        describe(network)
    print(f"written to {target}")
    for note in gained_settings(networks, tokenizer is not None):
        print(f"note: {note}")


def networks_of(arrays: dict, hparams: dict, tagging: Iterable[str], source: str) -> list[Network]:
    """The networks that a checkpoint's variables are of, with weights yet to be assigned.

    Raises:
        InputError: the variables are not those of the original's networks.
    """
    from scripts import tf1_checkpoint

    shapes = {name: array.shape for name, array in arrays.items()}
    config = tf1_checkpoint.encoder_config(shapes, hparams, source)
    scopes = {name.split("/")[0] for name in shapes}
    tasks = find_tasks(shapes, source)
    head_hparams = {name: value for name, value in hparams.items() if name in HEAD_FIELDS}
    if unknown := sorted(set(tagging) - set(tasks)):
        raise InputError(
            f"--tagging: {source} has no head of {unknown[0]!r}; it has: {', '.join(tasks) or '-'}"
        )
    if head_hparams and not tasks:
        raise InputError(
            f"--hparams: {', '.join(head_hparams)} is of fine-tuned heads; {source} has none"
        )
    has_discriminator = "discriminator_predictions" in scopes
    has_generator = "generator" in scopes
    has_own_head = "generator_predictions" in scopes and not has_generator
    encoder, main = main_network(config, has_discriminator, has_own_head)
    networks = []
    if has_discriminator or has_generator or has_own_head or not tasks:
        is_discriminator = has_discriminator or has_generator
        name = "discriminator" if is_discriminator else "encoder"
        networks.append(dataclasses.replace(main, name=name))
    if has_generator:
        smaller = tf1_checkpoint.encoder_config(shapes, hparams, source, larger=config)
        is_tied = "generator/embeddings/word_embeddings" not in shapes
        networks.append(generator_network(smaller, encoder if is_tied else None))
    for task in tasks:
        networks.append(task_network(task, encoder, shapes, task in tagging, head_hparams))
    return networks


def find_tasks(shapes: Iterable[str], source: str) -> list[str]:
    """The tasks that a checkpoint has heads of; each name becomes that of a directory."""
    tasks = sorted({name.split("/")[1] for name in shapes if name.startswith("task_specific/")})
    for task in tasks:
        if not re.fullmatch(r"\w[\w.+-]*", task) or task in RESERVED_NAMES:
            raise InputError(f"{source}: a directory cannot be called as the task {task!r}")
    return tasks


def main_network(config: ConvBertConfig, discriminator: bool, masked_lm: bool) -> tuple:
    """The encoder of the original's scope `electra`, and the network with its pre-training heads.

    Returns:
        (`ConvBertModel`, `Network`).
    """
    from model import ConvBertForMaskedLM, ConvBertModel
    from model.layers.layers import DiscriminatorHead, MaskedLMHead
    from model.weights import pretrained

    if masked_lm and not discriminator:
        model = ConvBertForMaskedLM(config)
        return model.convbert, Network("encoder", config, model.tensors(), model.architecture)
    encoder = ConvBertModel(config)
    rows = encoder.tensors()
    if discriminator:
        head = DiscriminatorHead(config)
        head.build()
        rows += pretrained.discriminator_tensors(head)
    if masked_lm:  # one encoder is generator and discriminator
        head = MaskedLMHead(config)
        head.build()
        rows += pretrained.masked_lm_tensors(head)
    return encoder, Network("discriminator", config, rows, encoder.architecture)


def generator_network(config: ConvBertConfig, encoder=None) -> Network:
    """The generator; `encoder` is the discriminator's, if they share the embeddings."""
    from model import ConvBertForMaskedLM
    from model.weights import pretrained

    model = ConvBertForMaskedLM(config, encoder and encoder.embeddings)
    tables = "generator" if encoder is None else "electra"
    rows = pretrained.encoder_tensors(model.convbert, "generator", tables)
    rows += pretrained.masked_lm_tensors(model.head)
    return Network("generator", config, rows, model.architecture)


def task_network(task: str, encoder, shapes: dict, is_tagging: bool, hparams: dict) -> Network:
    """A fine-tuned encoder with the head of `task`, with labels' names if it is a known one."""
    import model as library

    scope = f"task_specific/{task}/"
    if any(name.startswith(scope + JOINT_SPAN_SCOPE) for name in shapes):
        config = override(encoder.config, hparams)
        model = library.ConvBertForQuestionAnswering(
            config, joint_prediction=True, convbert=encoder
        )
        return Network(task, model.config, model.tensors(), model.architecture, task)
    num_outputs = shapes.get(f"{scope}dense/bias", (2,))[0]
    fields = {"num_labels": num_outputs}
    if num_outputs == 1:
        fields["problem_type"] = "regression"
    architecture, known = known_task(task)
    if known.get("num_labels") == num_outputs:
        fields |= known
    if is_tagging:
        architecture = "ConvBertForTokenClassification"
    config = override(encoder.config, fields | hparams)
    model = getattr(library, architecture)(config, convbert=encoder)
    return Network(task, config, model.tensors(), architecture, task)


def known_task(name: str) -> tuple[str, dict]:
    """The class that learns the original's task of that name, and fields of its configuration."""
    from data.tasks.glue import TASKS

    if name in TASKS:
        return TASKS[name].architecture, TASKS[name].model_fields()
    if name == "chunk":
        return "ConvBertForTokenClassification", {}
    return "ConvBertForSequenceClassification", {}


def assign(networks: list[Network], arrays: dict, source: str) -> None:
    """Sets all variables of `networks`, or none.

    Raises:
        InputError: variables are missing, left over, or of another shape; all are listed.
    """
    variables = {name: v for network in networks for name, v in network.variables().items()}
    problems = []
    for name, variable in variables.items():
        expected = tuple(variable.shape)
        if name not in arrays:
            problems.append(f"missing: {name} {expected}")
        elif arrays[name].shape != expected:
            problems.append(f"shape of {name}: {arrays[name].shape}, expected {expected}")
    problems += [
        f"left over: {name} {array.shape}"
        for name, array in arrays.items()
        if name not in variables
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(f"{source} does not fit the network that its shapes tell:\n  {listed}")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def load_tokenizer(vocab_file: str | None, cased: bool, config: ConvBertConfig):
    """The tokenizer to save with the models; None without `vocab_file`."""
    if vocab_file is None:
        return None
    from data.tokenizer.tokenizer import ConvBertTokenizer
    from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_options

    stated = stated_options(Path(vocab_file).parent / CONFIG_FILE)
    lower = not cased and stated.get("do_lower_case", True)
    strip = lower and stated.get("strip_accents", True)
    tokenizer = ConvBertTokenizer(vocab_file, do_lower_case=lower, strip_accents=strip)
    if tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"{vocab_file} has {tokenizer.vocab_size:,} tokens, but the checkpoint's word "
            f"embeddings are of {config.vocab_size:,}"
        )
    return tokenizer


def to_tf1(source: str, prefix: str, task: str | None) -> None:
    """Writes saved models as one checkpoint with the original's variables.

    Raises:
        InputError: a model holds what the original has no variables for; it is listed.
    """
    import keras
    import numpy as np

    from scripts import tf1_checkpoint

    if os.path.isdir(prefix) or not os.path.basename(prefix):
        name = os.path.join(prefix, "model.ckpt-0")
        raise InputError(f"{prefix} is a folder: name the checkpoint to write, such as {name}")
    if os.path.exists(prefix + ".index"):
        raise InputError(f"{prefix}.index exists already: name another checkpoint, or remove it")
    networks = load_saved_models(source, task)
    arrays, owners = {}, {}
    for network in networks:
        for name, variable in network.variables().items():
            value = keras.ops.convert_to_numpy(variable.value)
            if name in arrays and not np.array_equal(arrays[name], value):
                raise InputError(
                    f"{name} differs between {owners[name]} and {network.name}: a checkpoint of "
                    "the original has one encoder. Convert the models one by one"
                )
            arrays[name] = value
            owners[name] = network.name
    tf1_checkpoint.write(prefix, arrays)
    for network in networks:
        describe(network)
    total = sum(array.size for array in arrays.values())
    print(f"written to {prefix}: {len(arrays)} variables, {total:,} parameters, and global_step 0")
    for note in lost_settings(networks):
        print(f"note: {note}")


def load_saved_models(source: str, task: str | None) -> list[Network]:
    """Loads the saved model in `source`, or all those in its folders."""
    if os.path.isfile(os.path.join(source, "config.json")):
        name = os.path.basename(os.path.abspath(source))
        return [load_main(source, task or re.sub(r"_\d+$", "", name))[1]]
    if not os.path.isdir(source):
        raise InputError(f"no such folder: {source}")
    folders = {
        name: os.path.join(source, name)
        for name in sorted(os.listdir(source))
        if os.path.isfile(os.path.join(source, name, "config.json"))
    }
    if not folders:
        raise InputError(f"{source} holds no saved model: there is no config.json in it, nor in "
                         "a folder in it")  # fmt: skip
    if task is not None:
        raise InputError(f"--task is for a single model; {source} holds {', '.join(folders)}")
    generator = folders.pop("generator", None) if "discriminator" in folders else None
    networks = []
    for name, folder in folders.items():
        encoder, network = load_main(folder, name)
        networks.append(network)
        if name == "discriminator" and generator is not None:
            networks.append(load_generator(generator, encoder))
    return networks


def load_main(folder: str, task: str) -> tuple:
    """A saved model as the original's scope `electra` and heads; see `main_network`."""
    import model as library
    from model.weights import pretrained

    found = pretrained.read(folder)
    config = original_config(found.config, folder)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        architecture = (json.load(file).get("architectures") or ["ConvBertModel"])[0]
    if architecture == "ConvBertForMultipleChoice":
        raise InputError(f"{folder}: the original has no multiple choice")
    if architecture != "ConvBertForTokenClassification":
        architecture = "ConvBertForSequenceClassification"
    name = os.path.basename(os.path.abspath(folder))
    heads = {tensor.split(".")[0] for tensor in found.arrays}
    if "classifier.weight" in found.arrays:
        encoder = library.ConvBertModel(config)
        model = getattr(library, architecture)(config, convbert=encoder)
    elif "qa_joint" in heads:
        encoder = library.ConvBertModel(config)
        model = library.ConvBertForQuestionAnswering(config, True, convbert=encoder)
    else:
        has_own_head = bool(heads & {"generator_predictions", "generator_lm_head"})
        encoder, network = main_network(config, "discriminator_predictions" in heads, has_own_head)
        network = dataclasses.replace(network, name=name)
        load_weights(network, found)
        return encoder, network
    network = Network(name, config, model.tensors(), model.architecture, task)
    load_weights(network, found)
    return encoder, network


def load_generator(folder: str, encoder) -> Network:
    """A saved generator, whose embeddings are the discriminator's or its own.

    Raises:
        InputError: the original makes no such generator for that discriminator.
    """
    from model.weights import pretrained

    found = pretrained.read(folder)
    config, larger = original_config(found.config, folder), encoder.config
    tables = pretrained.embedding_tensors(encoder.embeddings)
    is_tied = all(
        row.hf_name in found.arrays
        and found.arrays[row.hf_name].shape == row.hf_shape()
        and (row.to_hf() == found.arrays[row.hf_name]).all()
        for row in tables
    )
    made = larger.generator(
        config.hidden_size / larger.hidden_size,
        config.num_hidden_layers / larger.num_hidden_layers,
    )
    if not is_tied:
        made = dataclasses.replace(made, embedding_size=made.hidden_size)
    names = ("embedding_size", "intermediate_size", "num_heads", "head_size", "linear_groups",
             "conv_type", "conv_kernel_size", "max_position_embeddings")  # fmt: skip
    different = [
        f"{name} {getattr(config, name)!r}, not {getattr(made, name)!r}"
        for name in names
        if getattr(config, name) != getattr(made, name)
    ]
    if different:
        kind = "the discriminator's embeddings" if is_tied else "embeddings of its own"
        raise InputError(
            f"{folder}: the original makes no such generator with {kind}: {'; '.join(different)}"
        )
    network = generator_network(config, encoder if is_tied else None)
    load_weights(network, found)
    return network


def original_config(config: ConvBertConfig, folder: str) -> ConvBertConfig:
    """The same network with the number of heads that the original would give it."""
    from scripts.tf1_checkpoint import original_heads

    heads = original_heads(config.hidden_size, config.num_heads, config.head_size)
    if heads is None:
        raise InputError(
            f"{folder}: its {config.num_heads} heads are {config.head_size} wide. The original's "
            f"are hidden_size / num_attention_heads, and {config.hidden_size} gives no such ones"
        )
    total, ratio = heads
    if max(1, total // config.head_ratio) == config.num_heads:
        ratio = config.head_ratio
    return dataclasses.replace(
        config, num_attention_heads=total, head_ratio=ratio, attention_head_size=None
    )


def load_weights(network: Network, found) -> None:
    """Sets the weights of `network` to those of a saved model, every one of them.

    Raises:
        InputError: the model has fewer weights, or some that the original has no variable for.
    """
    from model.weights.pretrained import IGNORED

    names = {row.hf_name for row in network.rows}
    problems = [
        f"the original has no variable for {name} {array.shape}"
        for name, array in found.arrays.items()
        if name not in names and name not in IGNORED
    ]
    problems += [
        f"missing: {row.hf_name} {row.hf_shape()}"
        for row in network.rows
        if row.hf_name not in found.arrays
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(f"{found.path} cannot be a checkpoint of the original:\n  {listed}")
    found.load_into(network.rows)


def gained_settings(networks: list[Network], have_vocab: bool) -> list[str]:
    """What saved models say and a checkpoint of the original does not tell."""
    notes = []
    if not have_vocab:
        notes.append("the models have no vocab.txt; --vocab-file puts one beside each")
    for network in networks:
        config = network.config
        if note := config.transformers_incompatibility():
            notes.append(f"{network.name} is not for transformers: {note}")
        is_labeled = "Classification" in network.architecture and config.num_labels > 1
        if is_labeled and config.id2label is None:
            notes.append(f"the labels of {network.name} have no names; give them in their order "
                         """with --hparams '{"id2label": […]}'""")  # fmt: skip
    if networks[0].config.mask_padding:
        notes.append("padding is masked, so that it changes no result. For the original's outputs "
                     """on padded text: --hparams '{"mask_padding": false}'""")  # fmt: skip
    return notes


def lost_settings(networks: list[Network]) -> list[str]:
    """What the networks compute or know that a checkpoint of the original does not tell."""
    notes = []
    config = networks[0].config
    if config.mask_padding:
        notes.append("these models mask padding; the original does not, and gives other results "
                     "for padded text")  # fmt: skip
    if config.hidden_act not in ORIGINAL_ACTIVATIONS:
        notes.append(f'the original has no hidden_act "{config.hidden_act}"')
    if config.layer_norm_eps != ORIGINAL_EPSILON:
        notes.append(f"layer_norm_eps is {config.layer_norm_eps}, and {ORIGINAL_EPSILON} in the "
                     "original")  # fmt: skip
    if any(network.config.id2label for network in networks):
        notes.append("the names of the labels are not in a checkpoint; their order is the same")
    return notes


def describe(network: Network) -> None:
    """Prints what a network is, and its configuration."""
    fields = {name: getattr(network.config, name) for name in SHAPE_FIELDS}
    if network.task is not None:
        fields["num_labels"] = network.config.num_labels
    print(network.describe())
    print(f"  {json.dumps(fields)}")


if __name__ == "__main__":
    errors.run(main)
