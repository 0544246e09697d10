"""The encoder, and what every model of this package shares: inputs, loading, saving."""

import dataclasses
import os

import keras
from keras import ops

from common.errors import InputError
from common.fields import override
from model import adaptation
from model.config import ConvBertConfig, as_config
from model.layers.base import MASK_BIAS
from model.layers.embeddings import Embeddings
from model.layers.encoder import EncoderLayer
from model.weights import pretrained

INPUT_NAMES = ("input_ids", "input_mask", "segment_ids")


class TrainableModel(keras.Model):
    """A `keras.Model` whose optimizer has its variables before the first step.

    Keras would create them inside that step, and TensorFlow then traces the step twice.
    """

    def compile(self, optimizer="rmsprop", *args, **kwargs):
        """Keras's `compile`."""
        if getattr(optimizer, "dynamic_loss_scale", False):
            kwargs["auto_scale_loss"] = False  # Keras would scale the loss a second time
        super().compile(optimizer, *args, **kwargs)
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def summary(self, *args, expand_nested=True, **kwargs):
        """Keras's `summary`, with the rows of an encoder below its own."""
        super().summary(*args, expand_nested=expand_nested, **kwargs)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Keras's `quantize`, for models that are used; this one is there to be trained."""
        raise InputError(f"a {type(self).__name__} cannot be quantized: save it, and quantize the "
                         "models that from_pretrained reads")  # fmt: skip

    def compile_from_config(self, config):
        """Compiles a model that Keras loads as the saved one was."""
        self.compile(**keras.saving.deserialize_keras_object(config))


class PretrainedModel(TrainableModel):
    """A model described by one `ConvBertConfig`, saved as a Hugging Face directory.

    Its weights exist from construction on. They are drawn from Keras's random state: call
    `keras.utils.set_random_seed` before for repeatable ones. `dtype` may be any Keras policy,
    such as "mixed_bfloat16".
    """

    architecture = ""  # the class's name in `config.json`
    input_rank = 2  # axes of `input_ids`

    def __init__(self, config: ConvBertConfig | dict, **kwargs):
        super().__init__(**kwargs)
        if self.quantization_mode is not None:
            raise InputError(f"`dtype` cannot be {self.dtype_policy.name}: call quantize on the "
                             "model once it has its weights")  # fmt: skip
        self.config = as_config(config)

    def tensors(self) -> list[pretrained.Tensor]:
        """Every weight with its name in each of the exchange formats."""
        raise TypeError(f"{type(self).__name__} has no exchange format")

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes `config.json` and `model.safetensors`, as transformers does, into `directory`."""
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
        """A model with weights that `save_pretrained` or transformers wrote, here or on the hub.

        Args:
            name_or_directory: a directory with `config.json` and weights, or a name of the Hugging
                Face hub. Of several weight files the first of these is read: `model.safetensors`,
                `pytorch_model.bin`, `tf_model.h5`; the first two may be in parts, with an index.
            dtype: a Keras dtype policy. Weights are float32, those of half-precision files too,
                unless it says otherwise: "mixed_bfloat16" computes in half precision, "bfloat16"
                has weights in it as well.
            revision: a branch, tag or commit on the hub; None is its main branch.
            cache_dir: where downloads are kept; None is huggingface_hub's cache.
            local_files_only: download nothing, and use what was downloaded before.
            **overrides: fields of `ConvBertConfig` to set otherwise than the file does, and
                further arguments of the class.

        Raises:
            InputError: no such directory or name, a missing, damaged or unsafe file (nothing in one
                is executed), or tensors that do not fit; names and shapes are listed. Weights of
                the class's own head may be missing: they stay as drawn, and a warning lists them.
        """
        names = {field.name for field in dataclasses.fields(ConvBertConfig)}
        fields = {k: overrides.pop(k) for k in list(overrides) if k in names}
        source = pretrained.read(
            name_or_directory,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        config = override(source.config, fields)
        model = cls(config, dtype=dtype, **cls._options_from(source, overrides))
        source.load_into(model.tensors())
        return model

    def encoder(self) -> "ConvBertModel":
        """The encoder: the model itself, or what its head reads."""
        return self

    def input_shapes(self) -> dict[str, tuple]:
        """Of the inputs that are always possible; what `export` and `summary` go by."""
        return dict.fromkeys(INPUT_NAMES, (None,) * self.input_rank)

    def enable_lora(self, rank: int, alpha: float | None = None) -> None:
        """Leaves of the encoder only low-rank updates to be trained (LoRA, arXiv:2106.09685).

        Query, key, value, the attention's output and the feed-forward layers get an update
        `alpha / rank · A B` each; all else in the encoder is frozen, and the head is not. Nothing
        that the model computes changes before it is trained. Whatever saves the model saves its
        kernels with the updates in them, and what is loaded has no updates of its own.

        Args:
            rank: of the updates; where layers have groups, of each group's.
            alpha: scales the updates; None is `rank`.

        Raises:
            InputError: the model is compiled, quantized, or has updates already.
        """
        if self.compiled:
            raise InputError("call enable_lora before compile: the optimizer was made for all the "
                             "weights. A saved model is read without: "
                             "load_model(path, compile=False)")  # fmt: skip
        adaptation.enable_lora(self.encoder(), rank, alpha)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Makes int8 of the kernels that `enable_lora` names, for a model that is only used.

        Keras's dense layers then multiply in integers, quantizing their inputs row by row; grouped
        ones keep int8 kernels, and multiply in the model's precision.

        Args:
            mode: "int8".
            config: None, or a `keras.quantizers.Int8QuantizationConfig` for Keras's dense layers.
            filters: must be None.

        Raises:
            InputError: another mode, `filters`, or low-rank updates that are not merged.
        """
        if config.mode != adaptation.QUANTIZATION_MODE:  # Keras has made a `config` of the mode
            raise InputError(f'`mode` must be "int8". Received: {config.mode}')
        if filters is not None or kwargs:
            raise InputError("quantize takes no `filters` and no further arguments: it chooses the "
                             "encoder's dense layers")  # fmt: skip
        adaptation.quantize(self.encoder(), config)
        self.train_function = self.test_function = self.predict_function = None

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None,
               **kwargs):  # fmt: skip
        """Keras's `export`; the default signature is the dict of three, of any size."""
        if input_signature is None:
            shapes = self.input_shapes()
            input_signature = [
                {name: keras.InputSpec("int32", shapes[name], name=name) for name in shapes}
            ]
        return super().export(filepath, format, verbose, input_signature, **kwargs)

    @classmethod
    def _options_from(cls, source, options):
        """Arguments of the class that the tensors decide where the caller does not."""
        return options

    def get_config(self):
        """Arguments of the constructor, and how the model was quantized."""
        config = super().get_config() | {"config": dataclasses.asdict(self.config)}
        quantization = adaptation.quantization_config(self.encoder())
        if quantization is not None:
            config["quantization"] = keras.saving.serialize_keras_object(quantization)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The inverse of `get_config`."""
        config = dict(config)
        quantization = config.pop("quantization", None)
        model = super().from_config(config, custom_objects)
        if quantization is not None:
            model.quantize(config=keras.saving.deserialize_keras_object(quantization))
        return model

    def get_compile_config(self):
        """How the model was compiled, if what is loaded will have the same trained weights."""
        encoder = self.encoder()
        if adaptation.has_lora(encoder) or adaptation.quantization_config(encoder) is not None:
            return None
        return super().get_compile_config()


def read_inputs(inputs: dict) -> tuple:
    """`input_ids`, `input_mask` or None, `segment_ids` or None, int32 [B, T] each.

    Raises:
        ValueError: not a dict, no `input_ids`, or a name that no model reads.
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
    return tuple(
        ops.cast(inputs[name], "int32") if name in inputs else None for name in INPUT_NAMES
    )


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertModel(PretrainedModel):
    """The ConvBERT encoder: token ids in, one vector a token out.

    Args:
        config: a `ConvBertConfig`.
        embeddings: an `Embeddings` layer to share with another encoder; None makes one.

    Call arguments:
        inputs: a dict of `input_ids`, optional `input_mask` (1 = token; all ones if missing) and
            optional `segment_ids` (zeros if missing), int32 [B, T] each.

    Returns:
        [B, T, H].
    """

    architecture = "ConvBertModel"

    def __init__(self, config, embeddings: Embeddings | None = None, **kwargs):
        super().__init__(config, **kwargs)
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
        """For `summary`."""
        return (None, None, self.config.hidden_size)

    def call(self, inputs, training=False):
        """See the class."""
        return self._encode(inputs, training)["layers"][-1]

    def activations(self, inputs: dict) -> dict:
        """What happens inside, for one forward pass without dropout.

        Returns:
            {"embeddings": [B, T, E], "projected": [B, T, H], "layers": [[B, T, H], …],
            "attention": [[B, N, T, T], …], "conv_kernel": [[B, T, N, K], …],
            "context": [[B, T, 2 N·D], …]}, the lists with one array a layer.
        """
        return self._encode(inputs, training=False, internals=True)

    def _encode(self, inputs, training, internals=False):
        """The forward pass; without `internals` only the last of the layers is kept."""
        input_ids, input_mask, segment_ids = read_inputs(inputs)
        embedded = self.embeddings(input_ids, segment_ids, training=training)
        hidden = embedded
        if self.embeddings_project is not None:
            hidden = self.embeddings_project(embedded)
        masks = {}
        if input_mask is not None:
            mask = ops.cast(input_mask, hidden.dtype)
            masks["scores_mask"] = (1 - ops.expand_dims(mask, (1, 2))) * MASK_BIAS
            if self.config.mask_padding:
                masks["conv_mask"] = ops.expand_dims(mask, -1)
        seen = {"embeddings": embedded, "projected": hidden, "layers": []}
        for layer in self.encoder_layers:
            if internals:
                hidden, inside = layer(hidden, **masks, training=training, internals=True)
                for name, value in inside.items():
                    seen.setdefault(name, []).append(value)
                seen["layers"].append(hidden)
            else:
                hidden = layer(hidden, **masks, training=training)
                seen["layers"] = [hidden]
        return seen

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return pretrained.encoder_tensors(self)
