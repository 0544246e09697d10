"""What is done to a finished encoder's dense layers: low-rank updates, and int8.

Of each layer these are query, key, value, the attention's output, and both of the feed-forward
part. The convolution's layers, the embeddings and all heads stay as they are.
"""

import keras

from common.errors import InputError

QUANTIZATION_MODE = "int8"


def dense_layers(encoder) -> dict[str, keras.layers.Layer]:
    """The layers of a `ConvBertModel` that can be adapted, by names like "layer_0/query"."""
    return {
        f"layer_{i}/{name}": dense
        for i, layer in enumerate(encoder.encoder_layers)
        for name, dense in layer.dense_layers().items()
    }


def has_lora(encoder) -> bool:
    """Whether low-rank updates are on."""
    return any(layer.lora_enabled for layer in dense_layers(encoder).values())


def enable_lora(encoder, rank: int, alpha: float | None = None) -> None:
    """See `PretrainedModel.enable_lora`."""
    layers = dense_layers(encoder).values()
    if not isinstance(rank, int) or rank < 1:
        raise InputError(f"`rank` must be a positive integer. Received: rank={rank!r}")
    if has_lora(encoder):
        raise InputError("this encoder has low-rank updates already. To begin new ones: "
                         "save_pretrained, and from_pretrained what it wrote")  # fmt: skip
    if quantization_config(encoder) is not None:
        raise InputError("a quantized model cannot be trained: enable_lora before quantize")
    for variable in encoder.trainable_variables:
        variable.trainable = False
    for layer in layers:
        layer.enable_lora(rank, lora_alpha=alpha)


def quantize(encoder, config) -> None:
    """Makes the kernels of `dense_layers` int8, as a `keras.quantizers.QuantizationConfig` says."""
    if has_lora(encoder):
        raise InputError("merge the low-rank updates before: save_pretrained, and quantize what "
                         "from_pretrained reads")  # fmt: skip
    for layer in dense_layers(encoder).values():
        layer.quantize(config.mode, config=config)


def quantization_config(encoder):
    """What `quantize` was given; None for a model in floats."""
    query = dense_layers(encoder)["layer_0/query"]
    return query.quantization_config if query.quantization_mode is not None else None
