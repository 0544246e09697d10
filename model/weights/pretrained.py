"""Saved models: a Hugging Face directory in, a Hugging Face directory out.

One table states, for every weight, its variable here, its tensor in Hugging Face's ConvBERT, its
variable in the original's TF 1 checkpoints, and how the layouts differ. The variables here have
the original's layout.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import safetensors.numpy
from absl import logging

from common import files, hub
from common.errors import InputError
from model.config import ConvBertConfig
from model.layers.layers import merged_kernel
from model.weights import files as weight_files

PREFIX = "convbert."  # before the encoder's tensors where the file has a head
# Tensors of heads: a class without that head passes over them.
HEADS = (
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "classifier.",
    "qa_outputs.",
    "qa_joint.",
    "sequence_summary.",
)
IGNORED = ("embeddings.position_ids", "generator_lm_head.weight")  # constants, and a tied table
_FLOATS = ("float16", "bfloat16", "float32", "float64")

# What the names of fine-tuned heads begin with in the original's checkpoints.
TASK_SCOPE = "task_specific/{task}"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One weight and its names elsewhere.

    Args:
        variable: the Keras variable, in the original's layout; a tensor for a kernel with a
            low-rank update.
        hf_name: without the prefix of models that have a head.
        tf1_name: in the original's checkpoints, `{task}` standing for the name of the task that a
            head was fine-tuned on; None where it has no such weight.
        axes: Hugging Face's layout as a transposition of ours; None where they agree.
        column: Hugging Face keeps this vector as a column [A, 1].
        head: belongs to a head, which a file may lack.
    """

    variable: Any
    hf_name: str
    tf1_name: str | None
    axes: tuple[int, ...] | None = None
    column: bool = False
    head: bool = False

    def to_hf(self) -> np.ndarray:
        """The value in Hugging Face's layout."""
        value = keras.ops.convert_to_numpy(self.variable)
        if self.axes is not None:
            value = value.transpose(self.axes)
        return np.ascontiguousarray(value[:, None] if self.column else value)

    def hf_shape(self) -> tuple[int, ...]:
        """The shape in Hugging Face's layout."""
        shape = tuple(self.variable.shape)
        if self.axes is not None:
            shape = tuple(shape[axis] for axis in self.axes)
        return (*shape, 1) if self.column else shape

    def assign_hf(self, value: np.ndarray) -> None:
        """Sets the variable from Hugging Face's layout."""
        value = value[:, 0] if self.column else value
        if self.axes is not None:
            value = value.transpose(np.argsort(self.axes))
        self.variable.assign(value.astype("float32"))


def _dense(layer, hf_name, tf1_name, head=False):
    """Kernel (transposed in Hugging Face unless grouped) and bias of a dense layer."""
    if layer.quantization_mode is not None:
        raise InputError(
            f"{layer.path} is {layer.quantization_mode}, and config.json and model.safetensors "
            "hold a model in float32: write them before quantize. A quantized model is saved as "
            'model.save("NAME.keras")'
        )
    kernel = merged_kernel(layer)
    axes = (1, 0) if len(kernel.shape) == 2 else None
    tf1_kernel = tf1_bias = None
    if tf1_name is not None:
        tf1_kernel, tf1_bias = f"{tf1_name}/kernel", f"{tf1_name}/bias"
    return [
        Tensor(kernel, f"{hf_name}.weight", tf1_kernel, axes, head=head),
        Tensor(layer.bias, f"{hf_name}.bias", tf1_bias, head=head),
    ]


def _norm(layer, hf_name, tf1_name, head=False):
    return [
        Tensor(layer.gamma, f"{hf_name}.weight", f"{tf1_name}/gamma", head=head),
        Tensor(layer.beta, f"{hf_name}.bias", f"{tf1_name}/beta", head=head),
    ]


def embedding_tensors(embeddings, scope: str = "electra") -> list[Tensor]:
    """The three tables and their LayerNorm."""
    rows = [
        Tensor(getattr(embeddings, name), f"embeddings.{name}.weight", f"{scope}/embeddings/{name}")
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    ]
    return rows + _norm(embeddings.norm, "embeddings.LayerNorm", f"{scope}/embeddings/LayerNorm")


def encoder_tensors(
    encoder, scope: str = "electra", embedding_scope: str | None = None
) -> list[Tensor]:
    """Every weight of a `ConvBertModel`; `scope` is its name in the original's checkpoints."""
    rows = embedding_tensors(encoder.embeddings, embedding_scope or scope)
    if encoder.embeddings_project is not None:
        rows += _dense(
            encoder.embeddings_project, "embeddings_project", f"{scope}/embeddings_project"
        )
    grouped = "g_dense" if encoder.config.linear_groups > 1 else "dense"
    for i, layer in enumerate(encoder.encoder_layers):
        hf, tf1 = f"encoder.layer.{i}", f"{scope}/encoder/layer_{i}"
        rows += _attention_tensors(layer.attention, f"{hf}.attention.self", f"{tf1}/attention/self")
        output = (f"{hf}.attention.output", f"{tf1}/attention/output")
        rows += _dense(layer.attention_output, f"{output[0]}.dense", f"{output[1]}/dense")
        rows += _norm(layer.attention_norm, f"{output[0]}.LayerNorm", f"{output[1]}/LayerNorm")
        rows += _dense(
            layer.intermediate, f"{hf}.intermediate.dense", f"{tf1}/intermediate/{grouped}"
        )
        rows += _dense(layer.output_dense, f"{hf}.output.dense", f"{tf1}/output/{grouped}")
        rows += _norm(layer.output_norm, f"{hf}.output.LayerNorm", f"{tf1}/output/LayerNorm")
    return rows


def _attention_tensors(attention, hf, tf1):
    rows = []
    for name in ("query", "key", "value"):
        rows += _dense(getattr(attention, name), f"{hf}.{name}", f"{tf1}/{name}")
    if attention.config.conv_type == "sdconv":
        key, theirs = attention.conv_attn_key, f"{hf}.key_conv_attn_layer"
        rows += [
            Tensor(
                key.depthwise_kernel,
                f"{theirs}.depthwise.weight",
                f"{tf1}/conv_attn_key/depthwise_kernel",
                (1, 2, 0),
            ),
            Tensor(
                key.pointwise_kernel,
                f"{theirs}.pointwise.weight",
                f"{tf1}/conv_attn_key/pointwise_kernel",
                (2, 1, 0),
            ),
            Tensor(key.bias, f"{theirs}.bias", f"{tf1}/conv_attn_key/bias", column=True),
        ]
        rows += _dense(
            attention.conv_attn_kernel, f"{hf}.conv_kernel_layer", f"{tf1}/conv_attn_kernel"
        )
        rows += _dense(attention.conv_attn_point, f"{hf}.conv_out_layer", f"{tf1}/conv_attn_point")
    return rows


def masked_lm_tensors(head) -> list[Tensor]:
    """The generator's head, but for the tied word embeddings."""
    name = "generator_predictions"
    return [
        *_dense(head.transform, f"{name}.dense", f"{name}/dense", head=True),
        *_norm(head.norm, f"{name}.LayerNorm", f"{name}/LayerNorm", head=True),
        Tensor(head.output_bias, "generator_lm_head.bias", f"{name}/output_bias", head=True),
    ]


def discriminator_tensors(head) -> list[Tensor]:
    """The discriminator's head; Hugging Face has the names for ELECTRA only."""
    name = "discriminator_predictions"
    return [
        *_dense(head.transform, f"{name}.dense", f"{name}/dense", head=True),
        *_dense(head.prediction, f"{name}.dense_prediction", f"{name}/dense_1", head=True),
    ]


def classifier_tensors(head) -> list[Tensor]:
    """A classification head: "linear" is the original's, "mlp" Hugging Face's.

    For tokens and for multiple choice, Hugging Face has a linear one under the same names.
    """
    if head.kind == "linear":
        return _dense(head.prediction, "classifier", f"{TASK_SCOPE}/dense", head=True)
    return [
        *_dense(head.transform, "classifier.dense", None, head=True),
        *_dense(head.prediction, "classifier.out_proj", None, head=True),
    ]


def span_tensors(head) -> list[Tensor]:
    """Hugging Face's question-answering head."""
    return _dense(head, "qa_outputs", None, head=True)


def joint_span_tensors(head) -> list[Tensor]:
    """The original's question-answering head, under names of our own."""
    names = {
        "start": "dense",
        "end_hidden": "qa_hidden",
        "end": "dense_1",
        "answerable_hidden": "dense_2",
        "answerable": "dense_3",
    }
    rows = []
    for ours, theirs in names.items():
        tf1_name = f"{TASK_SCOPE}/{theirs}"
        rows += _dense(getattr(head, ours), f"qa_joint.{ours}", tf1_name, head=True)
    return rows


def save(
    directory: str | os.PathLike,
    config: ConvBertConfig,
    tensors: Iterable[Tensor],
    architecture: str,
) -> None:
    """Writes `model.safetensors` and `config.json`, each under its name only when complete."""
    prefix = "" if architecture == "ConvBertModel" else PREFIX
    arrays = {
        row.hf_name if row.head else prefix + row.hf_name: row.to_hf().astype("float32")
        for row in tensors
    }
    os.makedirs(directory, exist_ok=True)
    with files.atomic_path(os.path.join(directory, "model.safetensors")) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    fields = config.to_hf_dict(architecture) | {"dtype": "float32"}
    files.write_text(
        os.path.join(directory, "config.json"), json.dumps(fields, indent=2, sort_keys=True) + "\n"
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """A saved model as read.

    Args:
        config: what `config.json` says.
        arrays: the tensors by unprefixed name.
        paths: the files with the tensors: one, or an index and the parts it names.
    """

    config: ConvBertConfig
    arrays: dict[str, np.ndarray]
    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file that errors are about."""
        return self.paths[0]

    def load_into(self, tensors: Iterable[Tensor]) -> None:
        """Assigns every variable of `tensors`, or none.

        Raises:
            InputError: an encoder tensor is missing, mis-shaped or unknown.
        """
        rows = {row.hf_name: row for row in tensors}
        problems, new = [], []
        for name, row in rows.items():
            if name not in self.arrays:
                (new if row.head else problems).append(f"missing: {name} {row.hf_shape()}")
            elif self.arrays[name].shape != row.hf_shape():
                problems.append(
                    f"shape of {name}: {self.arrays[name].shape} in the file, "
                    f"{row.hf_shape()} in the model"
                )
            elif self.arrays[name].dtype not in _FLOATS:
                problems.append(
                    f"type of {name}: {self.arrays[name].dtype} in the file; "
                    "quantized weights are not supported"
                )
        problems += [
            f"unexpected: {name} {self.arrays[name].shape}"
            for name in self.arrays
            if name not in rows and name not in IGNORED and not name.startswith(HEADS)
        ]
        if problems:
            listed = "\n  ".join(problems[:20] + ["…"] * (len(problems) > 20))
            raise InputError(f"{self.path} does not fit the model:\n  {listed}")
        if new:
            logging.warning("%s has no such head; newly initialized: %s", self.path, "; ".join(new))
        for name, row in rows.items():
            if name in self.arrays:
                row.assign_hf(self.arrays[name])


def refuse_tf1_checkpoint(path: str) -> None:
    """Says what to do where a saved model is expected and there is a TF 1 checkpoint.

    Args:
        path: perhaps a checkpoint's name, one of its files, or their folder.

    Raises:
        InputError: it is.
    """
    if os.path.isdir(path):
        names = os.listdir(path)
        found = "config.json" not in names and any(name.endswith(".index") for name in names)
    else:
        found = os.path.isfile(path + ".index") or path.endswith(".index")
    if found:
        raise InputError(
            f"{path} is a TF 1 checkpoint. Make saved models of it with: "
            f"python3 scripts/convert_checkpoint.py {path} OUT_DIR"
        )


def read(name_or_directory: str | os.PathLike, **hub_options: Any) -> Source:
    """Reads a directory that `save` or transformers wrote, or one that the hub has.

    Args:
        name_or_directory: see `hub.resolve`; the weights are those of `weight_files.read`.
        **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

    Raises:
        InputError: there is no such directory or name, a file is missing or damaged, or the
            configuration is not ConvBERT's, or not that of the weights.
    """
    refuse_tf1_checkpoint(os.fspath(name_or_directory))
    directory = hub.resolve(name_or_directory, **hub_options)
    config_path = os.path.join(directory, "config.json")
    if not os.path.isfile(config_path):
        raise InputError(
            f"no such file: {config_path}. A saved model is a directory with config.json and one "
            f"of {', '.join(hub.WEIGHT_FILES)}"
        )
    config = ConvBertConfig.from_hf_dict(files.read_json_object(config_path), config_path)
    weights = weight_files.read(directory)
    arrays = {name.removeprefix(PREFIX): value for name, value in weights.arrays.items()}
    query = arrays.get("encoder.layer.0.attention.self.query.weight")
    if query is not None:  # the one field that the original and Hugging Face derive differently
        size = query.shape[0] // config.num_heads
        if size != config.head_size:
            config = dataclasses.replace(config, attention_head_size=size)
    source = Source(config, arrays, weights.paths)
    _check_size(source, config_path)
    return source


def _check_size(source, config_path):
    """Refuses a network that the weights cannot be of, before memory is taken for it."""
    num_parameters = source.config.num_kernel_parameters()
    num_bytes = sum(map(os.path.getsize, source.paths))
    # A parameter takes two bytes or more, so an honest file has twice as many as there are here.
    if num_parameters > num_bytes:
        raise InputError(
            f"{config_path} describes a network of more than {num_parameters:,} parameters, and "
            f"{source.path} has but {num_bytes:,} bytes"
        )
    layers = {name.split(".")[2] for name in source.arrays if name.startswith("encoder.layer.")}
    if source.config.num_hidden_layers > len(layers):
        raise InputError(
            f"{config_path} says `num_hidden_layers` {source.config.num_hidden_layers}, and "
            f"{source.path} has {len(layers)}"
        )
