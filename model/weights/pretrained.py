"""Saved models: Hugging Face directories, read and written.

One table lists, for every weight, its variable here, its tensor in Hugging Face's ConvBERT, its
variable in the original's TF 1 checkpoints, and how the layouts differ. The variables here have
the original's layout.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import safetensors.numpy
from absl import logging

from common import files, hub
from common.errors import InputError
from model.config import ConvBertConfig
from model.layers.dense import merged_kernel
from model.weights import files as weight_files
from model.weights import tf1

PREFIX = "convbert."  # before the encoder's tensors in files that also have a head
# Names of head tensors start with one of these. A class skips the tensors of other heads.
HEADS = (
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "classifier.",
    "qa_outputs.",
    "qa_joint.",
    "sequence_summary.",
)
WORD_EMBEDDINGS, OUTPUT_TABLE = "embeddings.word_embeddings.weight", "generator_lm_head.weight"
ROW_PER_TOKEN = {WORD_EMBEDDINGS, OUTPUT_TABLE, "generator_lm_head.bias"}
IGNORED = ("embeddings.position_ids", OUTPUT_TABLE)  # constants, and a tied table
# The prefixes that PyTorch's wrappers add to every name, and TF 1's names of LayerNorm's vectors.
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
PROJECTION = "sequence_summary.summary.weight"  # of multiple choice, before the classifier
_FLOATS = ("float16", "bfloat16", "float32", "float64")

# The scope of fine-tuned heads in the original's checkpoints.
TASK_SCOPE = "task_specific/{task}"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One weight and its names in other formats.

    Args:
        variable: the Keras variable, in the original's layout; a tensor for a kernel with a
            low-rank update.
        hf_name: the name in Hugging Face's files, without the prefix of models that have a head.
        tf1_name: the name in the original's checkpoints, where `{task}` stands for the task that a
            head was fine-tuned on; None if the original does not have this weight.
        axes: Hugging Face's layout as a transposition of ours; None if they are equal.
        column: Hugging Face stores this vector as a column [A, 1].
    """

    variable: Any
    hf_name: str
    tf1_name: str | None
    axes: tuple[int, ...] | None = None
    column: bool = False

    @property
    def head(self) -> bool:
        """Whether the tensor belongs to a head, which a file may lack."""
        return self.hf_name.startswith(HEADS)

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
        """Sets the variable to a value in Hugging Face's layout."""
        value = value[:, 0] if self.column else value
        if self.axes is not None:
            value = value.transpose(np.argsort(self.axes))
        self.variable.assign(value.astype("float32", copy=False))


def _dense(layer, hf_name, tf1_name):
    """Kernel (transposed in Hugging Face unless grouped) and bias of a dense layer."""
    if layer.quantization_mode is not None:
        raise InputError(
            f"{layer.path} is quantized ({layer.quantization_mode}), but model.safetensors holds "
            "float32. Call save_pretrained before quantize, or save the quantized model with "
            'model.save("NAME.keras")'
        )
    kernel = merged_kernel(layer)
    axes = (1, 0) if len(kernel.shape) == 2 else None
    return [
        Tensor(kernel, f"{hf_name}.weight", tf1_name and f"{tf1_name}/kernel", axes),
        Tensor(layer.bias, f"{hf_name}.bias", tf1_name and f"{tf1_name}/bias"),
    ]


def _norm(layer, hf_name, tf1_name):
    return [
        Tensor(layer.gamma, f"{hf_name}.weight", f"{tf1_name}/gamma"),
        Tensor(layer.beta, f"{hf_name}.bias", f"{tf1_name}/beta"),
    ]


def encoder_tensors(encoder, scope: str = "electra") -> list[Tensor]:
    """Every weight of a `ConvBertModel`; `scope` is its name in the original's checkpoints."""
    rows, embeddings = [], encoder.embeddings
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        table = getattr(embeddings, name)
        rows.append(Tensor(table, f"embeddings.{name}.weight", f"{scope}/embeddings/{name}"))
    rows += _norm(embeddings.norm, "embeddings.LayerNorm", f"{scope}/embeddings/LayerNorm")
    if encoder.embeddings_project is not None:
        name = "embeddings_project"
        rows += _dense(encoder.embeddings_project, name, f"{scope}/{name}")
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
        key = attention.conv_attn_key
        hf_key, tf1_key = f"{hf}.key_conv_attn_layer", f"{tf1}/conv_attn_key"
        for name, axes in (("depthwise", (1, 2, 0)), ("pointwise", (2, 1, 0))):
            kernel = getattr(key, f"{name}_kernel")
            rows.append(Tensor(kernel, f"{hf_key}.{name}.weight", f"{tf1_key}/{name}_kernel", axes))
        rows.append(Tensor(key.bias, f"{hf_key}.bias", f"{tf1_key}/bias", column=True))
        rows += _dense(
            attention.conv_attn_kernel, f"{hf}.conv_kernel_layer", f"{tf1}/conv_attn_kernel"
        )
        rows += _dense(attention.conv_attn_point, f"{hf}.conv_out_layer", f"{tf1}/conv_attn_point")
    return rows


def masked_lm_tensors(head) -> list[Tensor]:
    """The generator's head, without the tied word embeddings."""
    name = "generator_predictions"
    return [
        *_dense(head.transform, f"{name}.dense", f"{name}/dense"),
        *_norm(head.norm, f"{name}.LayerNorm", f"{name}/LayerNorm"),
        Tensor(head.output_bias, "generator_lm_head.bias", f"{name}/output_bias"),
    ]


def discriminator_tensors(head) -> list[Tensor]:
    """The discriminator's head, under Hugging Face's names for ELECTRA (ConvBERT has none)."""
    name = "discriminator_predictions"
    return [
        *_dense(head.transform, f"{name}.dense", f"{name}/dense"),
        *_dense(head.prediction, f"{name}.dense_prediction", f"{name}/dense_1"),
    ]


def classifier_tensors(head, is_choice: bool = False) -> list[Tensor]:
    """A classification head: "linear" is the original's, "mlp" Hugging Face's.

    A linear head has the same names in all models. For multiple choice, an "mlp" head has names of
    its own.
    """
    if head.kind == "linear":
        return _dense(head.prediction, "classifier", f"{TASK_SCOPE}/dense")
    transform, prediction = "classifier.dense", "classifier.out_proj"
    if is_choice:
        transform, prediction = PROJECTION.removesuffix(".weight"), "classifier"
    return _dense(head.transform, transform, None) + _dense(head.prediction, prediction, None)


def span_tensors(head) -> list[Tensor]:
    """Hugging Face's question-answering head."""
    return _dense(head, "qa_outputs", None)


def joint_span_tensors(head) -> list[Tensor]:
    """The original's question-answering head, under this project's names."""
    names = {
        "start": "dense",
        "end_hidden": "qa_hidden",
        "end": "dense_1",
        "answerable_hidden": "dense_2",
        "answerable": "dense_3",
    }
    rows = []
    for ours, theirs in names.items():
        rows += _dense(getattr(head, ours), f"qa_joint.{ours}", f"{TASK_SCOPE}/{theirs}")
    return rows


def save(
    directory: str | os.PathLike,
    config: ConvBertConfig,
    tensors: Iterable[Tensor],
    architecture: str,
) -> None:
    """Writes `model.safetensors` and `config.json`, each atomically."""
    prefix = "" if architecture == "ConvBertModel" else PREFIX
    arrays = {
        row.hf_name if row.head else prefix + row.hf_name: row.to_hf().astype("float32")
        for row in tensors
    }
    path = os.path.join(directory, "model.safetensors")
    with files.write_errors_named(path, safetensors.SafetensorError):
        os.makedirs(directory, exist_ok=True)
        with files.atomic_path(path) as temporary:
            safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    fields = config.to_hf_dict(architecture) | {"dtype": "float32"}
    if PROJECTION in arrays:
        fields |= {"summary_use_proj": True, "summary_activation": config.hidden_act}
    files.write_json(os.path.join(directory, "config.json"), fields, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A saved model's configuration and tensors.

    Args:
        config: the contents of `config.json`.
        arrays: the tensors by name, without `PREFIX`.
        paths: the files with the tensors: one, or an index and its shards.
    """

    config: ConvBertConfig
    arrays: dict[str, np.ndarray]
    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file to name in errors."""
        return self.paths[0]

    def load_into(self, tensors: Iterable[Tensor]) -> None:
        """Assigns every variable in `tensors`, or none. Missing heads keep their values.

        Raises:
            InputError: an encoder tensor is missing, misshapen or unknown.
        """
        rows = {row.hf_name: row for row in tensors}
        problems, missing_heads = [], []
        for name, row in rows.items():
            array, shape = self.arrays.get(name), row.hf_shape()
            if array is None:
                (missing_heads if row.head else problems).append(f"missing: {name} {shape}")
            elif array.shape != shape:
                problems.append(f"shape of {name}: {array.shape} in the file, {shape} in the model")
            elif array.dtype not in _FLOATS:
                problems.append(f"type of {name}: {array.dtype}; quantized weights: not supported")
        problems += [
            f"unexpected: {name} {array.shape}"
            for name, array in self.arrays.items()
            if name not in rows and name not in IGNORED and not name.startswith(HEADS)
        ]
        if "generator_lm_head.bias" in rows and OUTPUT_TABLE in self.arrays:
            tables = (self.arrays.get(name) for name in (OUTPUT_TABLE, WORD_EMBEDDINGS))
            if not np.array_equal(*tables):
                problems.append(
                    f"{OUTPUT_TABLE} differs from {WORD_EMBEDDINGS}. The head for masked tokens "
                    "uses one table for both here: `tie_word_embeddings` must be true"
                )
        if problems:
            listed = "\n  ".join(problems[:20] + ["…"] * (len(problems) > 20))
            raise InputError(f"{self.path} does not fit the model:\n  {listed}")
        if missing_heads:
            logging.warning(
                "%s: head weights not found, initialized randomly: %s",
                self.path,
                "; ".join(missing_heads),
            )
        for name, row in rows.items():
            if name in self.arrays:
                row.assign_hf(self.arrays[name])


def refuse_tf1_checkpoint(path: str) -> None:
    """Raises an `InputError` that names the converter, if `path` is a TF 1 checkpoint."""
    if tf1.is_checkpoint(path):
        raise InputError(
            f"{path} is a TF 1 checkpoint. Convert it first: "
            f"python3 scripts/convert_checkpoint.py {path} OUT_DIR"
        )


def read(name_or_directory: str | os.PathLike, **hub_options: Any) -> ModelFiles:
    """Reads a model that `save` or transformers wrote, from a directory or from the hub.

    Args:
        name_or_directory: see `hub.resolve`; for the file formats, `model.weights.files.read`.
        **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

    Raises:
        InputError: no such directory or name, a file that is missing or damaged, or a
            configuration that is not ConvBERT's or does not fit the weights.
    """
    refuse_tf1_checkpoint(os.fspath(name_or_directory))
    directory = hub.resolve(name_or_directory, **hub_options)
    config_path = os.path.join(directory, "config.json")
    fields = files.read_json_object(config_path)
    config = ConvBertConfig.from_hf_dict(fields, config_path)
    arrays, paths = weight_files.read(directory)
    arrays = _with_plain_names(arrays, paths[0])
    is_choice = fields.get("architectures") == ["ConvBertForMultipleChoice"]
    if is_choice and bool(fields.get("summary_use_proj")) != (PROJECTION in arrays):
        raise InputError(
            f"{config_path}: `summary_use_proj` must be true if, and only if, {paths[0]} has "
            f"{PROJECTION}"
        )
    query = arrays.get("encoder.layer.0.attention.self.query.weight")
    if query is not None:  # the original and Hugging Face derive only the head size differently
        size = query.shape[0] // config.num_heads
        if size != config.head_size:
            config = dataclasses.replace(config, attention_head_size=size)
    _check_size(config, config_path, arrays, paths)
    return ModelFiles(config, arrays, paths)


def _with_plain_names(tensors, path):
    """The tensors without `PREFIX` and wrappers, under today's names."""
    arrays = {}
    for original, array in tensors.items():
        name = _WRAPPERS.sub("", original).removeprefix(PREFIX)
        for old, new in _OLD_NORMS.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name in arrays:
            raise InputError(f"{path} has two tensors for {name}, one as {original}")
        arrays[name] = array
    return arrays


def _check_size(config, config_path, arrays, paths):
    """Refuses a configuration that describes a larger network than the weights can fill.

    This happens before the network is built.
    """
    num_parameters = config.num_kernel_parameters()
    num_bytes = sum(map(os.path.getsize, paths))
    # A parameter takes at least two bytes, so a valid file is at least twice as large.
    if num_parameters > num_bytes:
        raise InputError(
            f"{config_path} describes a network of more than {num_parameters:,} parameters, but "
            f"{paths[0]} has only {num_bytes:,} bytes"
        )
    layers = {name.split(".")[2] for name in arrays if name.startswith("encoder.layer.")}
    if config.num_hidden_layers > len(layers):
        raise InputError(
            f"{config_path}: `num_hidden_layers` is {config.num_hidden_layers}, but {paths[0]} has "
            f"{len(layers)}"
        )
