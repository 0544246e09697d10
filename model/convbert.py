"""The encoder, and the base classes of all models: inputs, loading, saving, adapting."""

import contextvars
import dataclasses
import functools
import os
from collections.abc import Mapping

import keras
from keras import ops
from typing_extensions import override

from common import fields as common_fields
from common.errors import InputError
from model import adaptation
from model.backends import backend
from model.config import ConvBertConfig, as_config
from model.layers import fused
from model.layers.base import MASK_BIAS, drawn_weights
from model.layers.embeddings import Embeddings
from model.layers.encoder import NUM_DROPOUTS, EncoderLayer, SharedTrace
from model.weights import pretrained

INPUT_NAMES = ("input_ids", "input_mask", "segment_ids")
# Whether an encoder created now will get all its weights from a file. A head may keep its own.
_loads_encoder = contextvars.ContextVar("loads_encoder", default=False)


class TrainableModel(keras.Model):
    """A `keras.Model` that builds its optimizer before the first step, and may step in parts.

    Keras would build the optimizer during that step, and TensorFlow would then trace the step
    twice.

    With `gradient_accumulation_steps` above 1, `fit` splits a batch into that many parts and
    computes their gradients one after the other. The update is the same, up to rounding and the
    draws of dropout, if losses are summed over the examples (or a subclass divides them by a whole
    batch's total).
    """

    gradient_accumulation_steps = 1
    # Whether XLA compiles only the gradients on each device, instead of the whole step.
    compiles_gradients = False
    # The outputs of `outputs_of` that a step in parts keeps for `finish_step`, and their dtypes.
    part_outputs: Mapping[str, str] = {"loss": "float32"}

    @override
    def compile(self, optimizer="rmsprop", *args, **kwargs):
        if getattr(optimizer, "dynamic_loss_scale", False):
            kwargs["auto_scale_loss"] = False  # Keras would scale the loss a second time
        # XLA cannot compile the sums over the devices of `tf.distribute`.
        self.compiles_gradients = kwargs.get("jit_compile") is True and backend.is_replicated(self)
        if self.compiles_gradients:
            kwargs["jit_compile"] = False
        super().compile(optimizer, *args, **kwargs)
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    @override
    def compile_from_config(self, config):  # Keras's does nothing if a class has its own `compile`
        self.compile(**keras.saving.deserialize_keras_object(config))

    @override
    def fit(self, *args, **kwargs):
        backend.separate_random_states(self, self.shared_random())
        return super().fit(*args, **kwargs)

    def shared_random(self) -> list[keras.random.SeedGenerator]:
        """Returns the random generators that draw the same numbers on all devices."""
        return []

    @override
    def train_step(self, *state_and_data):
        with fused.whole_step(self.compiles_gradients or bool(self.jit_compile)):
            if self.gradient_accumulation_steps == 1 and not self.compiles_gradients:
                return super().train_step(*state_and_data)
            return backend.train_step_in_parts(self, *state_and_data)

    def prepare(self, data, training: bool = False) -> tuple:
        """Returns the arrays that a step in parts splits, and totals over the whole batch."""
        return data, {}

    def split(self, arrays):
        """Arrays [B, …] → [parts, B / parts, …]; part i has the rows i, i + parts, ….

        This way, every device has rows of each part.
        """
        count = self.gradient_accumulation_steps

        def split_one(array):
            rows = ops.reshape(array, (-1, count, *ops.shape(array)[1:]))
            return ops.swapaxes(rows, 0, 1)

        return keras.tree.map_structure(split_one, arrays)

    def outputs_of(self, part, totals: dict, training: bool = False) -> dict:
        """Returns a part's `loss`, and any other outputs that `part_outputs` names."""
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(part)
        outputs = self(inputs, training=training)
        return {"loss": self.compute_loss(inputs, targets, outputs, weights, training)}

    def finish_step(self, data, stacked: dict) -> dict:
        """Updates the metrics after a step in parts, and returns their values by name.

        `data` is from `prepare`; `stacked` has the `part_outputs`, [parts, …].
        """
        (loss,) = (metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(backend.sum_over_replicas(ops.sum(stacked["loss"])))
        return self.get_metrics_result()

    @override
    def summary(self, *args, expand_nested=True, **kwargs):
        super().summary(*args, expand_nested=expand_nested, **kwargs)

    def encoders(self) -> list["ConvBertModel"]:
        """Returns the encoders that training runs."""
        raise NotImplementedError

    def set_remat(self, remat: bool) -> None:
        """Sets whether training recomputes each layer for its gradient, which saves memory."""
        for encoder in self.encoders():
            encoder.remat = remat

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Raises an `InputError`, unless a subclass overrides it."""
        raise InputError(
            f"a {type(self).__name__} cannot be quantized: call save_pretrained, then quantize the "
            "models that from_pretrained returns"
        )


class PretrainedModel(TrainableModel):
    """A model described by one `ConvBertConfig`, and saved as a Hugging Face directory.

    Its weights exist once it is constructed. Their values come from Keras's random state: call
    `keras.utils.set_random_seed` first to reproduce them. `dtype` may be any Keras policy, such as
    "mixed_bfloat16".
    """

    architecture = ""  # the class name in `config.json`
    input_rank = 2  # number of axes of `input_ids`

    def __init__(self, config: ConvBertConfig | dict, **kwargs):
        super().__init__(**kwargs)
        if self.quantization_mode is not None:
            raise InputError(
                f"`dtype` cannot be {self.dtype_policy.name}: load the weights, then call quantize"
            )
        self.config = as_config(config)

    def tensors(self) -> list[pretrained.Tensor]:
        """Returns every weight with its name in each exchange format."""
        raise NotImplementedError

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes `config.json` and `model.safetensors` to `directory`, as transformers does."""
        pretrained.save(directory, self.config, self.tensors(), self.architecture)

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        dtype=None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **overrides,
    ):
        """Loads a model that `save_pretrained` or transformers wrote.

        Args:
            name_or_directory: a directory with `config.json` and weights, or a name on the Hugging
                Face hub. The first of these files is read: `model.safetensors`,
                `pytorch_model.bin`, `tf_model.h5`; the first two may be sharded.
            dtype: a Keras dtype policy. By default weights are float32, even if the file has half
                precision. "mixed_bfloat16" computes in half precision; with "bfloat16" the weights
                are in half precision too.
            revision: a branch, tag or commit on the hub; None means its main branch.
            cache_dir: the directory for downloads; None means huggingface_hub's cache.
            local_files_only: use files downloaded earlier, and download nothing.
            **overrides: fields of `ConvBertConfig` that replace the file's, and further arguments
                of the class.

        Raises:
            InputError: no such directory or name; a missing, damaged or unsafe file (no code in a
                file is ever executed); or tensors that do not fit, listed with their shapes.
                Weights of the class's own head may be missing: they keep their random values, and a
                warning lists them.
        """
        source = pretrained.read(
            name_or_directory,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls.from_source(source, dtype, **overrides)

    @classmethod
    def from_source(cls, source: pretrained.ModelFiles, dtype=None, **overrides):
        """Returns the model in `source`; see `from_pretrained`."""
        names = {field.name for field in dataclasses.fields(ConvBertConfig)}
        fields = {k: overrides.pop(k) for k in list(overrides) if k in names}
        config = common_fields.override(source.config, fields)
        options = cls._options_from(source, overrides)
        token = _loads_encoder.set(True)
        try:
            model = cls(config, dtype=dtype, **options)
        finally:
            _loads_encoder.reset(token)
        source.load_into(model.tensors())
        return model

    @classmethod
    def _options_from(cls, source, options: dict) -> dict:
        """Adds the class's arguments that the tensors determine to those from the caller."""
        return options

    def encoder(self) -> "ConvBertModel":
        """Returns the encoder: the model itself, or the one that its head reads."""
        return self

    @override
    def encoders(self):
        return [self.encoder()]

    def input_shapes(self) -> dict[str, tuple]:
        """Returns the shapes of the encoder's inputs, for `export` and `summary`."""
        return dict.fromkeys(INPUT_NAMES, (None,) * self.input_rank)

    def enable_lora(self, rank: int, alpha: float | None = None) -> None:
        """Replaces training of the encoder by low-rank updates (LoRA, arXiv:2106.09685).

        Query, key, value, the attention's output and the feed-forward layers each get an update
        `alpha / rank · A B`. Everything else in the encoder is frozen; the head is not. Outputs do
        not change before training. Saved kernels include the updates, so a loaded model has none.

        If a layer has groups, each group's update has this `rank`. `alpha` defaults to `rank`.

        Raises:
            InputError: the model is compiled, quantized, or already has updates.
        """
        if self.compiled:
            raise InputError(
                "call enable_lora before compile, because the optimizer is built for all weights. "
                "To load a model without its optimizer, call load_model(path, compile=False)"
            )
        adaptation.enable_lora(self.encoder(), rank, alpha)

    @override
    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Quantizes the kernels that `enable_lora` names to int8, for inference only.

        Keras's dense layers then quantize their inputs row by row and multiply integers. Grouped
        layers store int8 kernels but multiply in the model's precision.

        Pass `mode` "int8", or as `config` a `keras.quantizers.Int8QuantizationConfig` for Keras's
        dense layers. Raises an `InputError` for any other argument, or if there are low-rank
        updates.
        """
        if config.mode != "int8":  # Keras turned `mode` into a `config`
            raise InputError(f'`mode` must be "int8". Received: {config.mode}')
        if filters is not None or kwargs:
            raise InputError(
                "quantize takes no `filters` and no further arguments: it always applies to the "
                "encoder's dense layers"
            )
        adaptation.quantize(self.encoder(), config)
        self.train_function = self.test_function = self.predict_function = None

    @override
    def make_train_function(self, *args, **kwargs):
        if adaptation.quantization_config(self.encoder()) is not None:
            raise InputError(
                "a quantized model cannot be trained: train it first, then quantize the model that "
                "from_pretrained returns"
            )
        return super().make_train_function(*args, **kwargs)

    @override
    def export(
        self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs
    ):
        if input_signature is None:  # the dict of all inputs, of any size
            shapes = self.input_shapes().items()
            input_signature = [{k: keras.InputSpec("int32", shape, name=k) for k, shape in shapes}]
        return super().export(filepath, format, verbose, input_signature, **kwargs)

    @override
    def get_config(self):
        config = super().get_config() | {"config": dataclasses.asdict(self.config)}
        quantization = adaptation.quantization_config(self.encoder())
        if quantization is not None:
            config["quantization"] = keras.saving.serialize_keras_object(quantization)
        return config

    @classmethod
    @override
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        quantization = config.pop("quantization", None)
        model = super().from_config(config, custom_objects)
        if quantization is not None:
            model.quantize(config=keras.saving.deserialize_keras_object(quantization))
        return model

    @override
    def get_compile_config(self):
        encoder = self.encoder()
        if adaptation.has_lora(encoder) or adaptation.quantization_config(encoder) is not None:
            return None  # a loaded model has other trainable variables
        return super().get_compile_config()


def read_inputs(inputs: dict) -> tuple:
    """Returns `input_ids`, and `input_mask` and `segment_ids` or None: int32 [B, T] each.

    Raises:
        ValueError: not a dict, no `input_ids`, an unknown name, or axes other than [B, T].
    """
    if not isinstance(inputs, dict):
        raise ValueError(
            "Expected a dict with `input_ids` and optionally `input_mask` and `segment_ids`. "
            f"Received: inputs of type {type(inputs).__name__}"
        )
    unknown = sorted(set(inputs) - set(INPUT_NAMES))
    if unknown or "input_ids" not in inputs:
        raise ValueError(
            f"Expected `input_ids`, and only {', '.join(INPUT_NAMES)}. Received: {sorted(inputs)}. "
            "(transformers' `attention_mask` is `input_mask` here, its `token_type_ids` "
            "`segment_ids`.)"
        )
    arrays = {name: ops.cast(array, "int32") for name, array in inputs.items()}
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    axes = [set(sizes) - {None, 1} for sizes in zip(*shapes.values(), strict=False)]
    if any(len(shape) != 2 for shape in shapes.values()) or any(len(axis) > 1 for axis in axes):
        raise ValueError(f"Expected arrays [B, T] of one shape. Received: {shapes}")
    return tuple(arrays.get(name) for name in INPUT_NAMES)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertModel(PretrainedModel):
    """The ConvBERT encoder: token ids in, one vector per token out.

    Args:
        config: a `ConvBertConfig`.
        embeddings: an `Embeddings` layer to share with another encoder; None creates one.

    Call arguments:
        inputs: a dict of `input_ids`, optional `input_mask` (1 = token; all ones if missing) and
            optional `segment_ids` (zeros if missing), int32 [B, T] each.

    Returns:
        [B, T, H].
    """

    architecture = "ConvBertModel"

    def __init__(self, config, embeddings: Embeddings | None = None, **kwargs):
        super().__init__(config, **kwargs)
        with drawn_weights(not _loads_encoder.get()):
            self._make_layers(embeddings)

    def _make_layers(self, embeddings):
        config, policy = self.config, self.dtype_policy
        self.embeddings = embeddings or Embeddings(config, name="embeddings", dtype=policy)
        self.embeddings_project = None
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = keras.layers.Dense(
                config.hidden_size, name="embeddings_project", dtype=policy
            )
        self.encoder_layers = [
            EncoderLayer(config, name=f"layer_{i}", dtype=policy)
            for i in range(config.num_hidden_layers)
        ]
        self._call_layer = SharedTrace(self.encoder_layers[0])
        self.remat = False  # whether layers are recomputed for their gradients
        # One draw for all dropouts of a step, because the backward pass may recompute them.
        self.dropout_random = keras.random.SeedGenerator(name="dropout_random")
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        hidden = (None, None, self.config.hidden_size)
        if not self.embeddings.built:
            self.embeddings.build((None, None))
        if self.embeddings_project is not None:
            self.embeddings_project.build((None, None, self.config.embedding_size))
        for layer in self.encoder_layers:
            layer.build(hidden)

    @property
    def output_shape(self):
        """Shown by `summary`."""
        return (None, None, self.config.hidden_size)

    @override
    def call(self, inputs, training=False):
        return self._encode(inputs, training)[0]

    def activations(self, inputs: dict) -> dict:
        """Returns the activations of a forward pass without dropout.

        Returns:
            {"embeddings": [B, T, E], "projected": [B, T, H], "layers": [[B, T, H], …],
            "attention": [[B, N, T, T], …], "conv_kernel": [[B, T, N, K], …],
            "context": [[B, T, 2 N·D], …]}; lists have one array per layer.
        """
        return self._encode(inputs, training=False, keep=True)[1]

    def _encode(self, inputs, training, keep=False):
        """Returns the last layer's output, and with `keep` the activations of all layers."""
        input_ids, input_mask, segment_ids = read_inputs(inputs)
        seed = self.dropout_random.next() if training else None
        embedded = self.embeddings(input_ids, segment_ids, seed)
        hidden = embedded
        if self.embeddings_project is not None:
            hidden = self.embeddings_project(embedded)
        masks = {}
        if input_mask is not None:
            mask = ops.cast(input_mask, hidden.dtype)
            masks["scores_mask"] = (1 - ops.expand_dims(mask, (1, 2))) * MASK_BIAS
            if self.config.mask_padding:
                masks["conv_mask"] = ops.expand_dims(mask, -1)
        seen = {"embeddings": embedded, "projected": hidden}
        for i, layer in enumerate(self.encoder_layers):
            if training:
                masks["seed"] = fused.seed_of(seed, 1 + NUM_DROPOUTS * i)
            call = functools.partial(self._call_layer, layer, masks=dict(masks), keep=keep)
            if self.remat and training:  # only the inputs are kept for the backward pass
                call = keras.remat(call)
            hidden, inside = call(hidden)
            if keep:
                for name, value in (inside | {"layers": hidden}).items():
                    seen.setdefault(name, []).append(value)
        return hidden, seen

    @override
    def tensors(self):
        return pretrained.encoder_tensors(self)
