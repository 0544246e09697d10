"""Low-rank updates and int8 quantization of an encoder's dense layers.

They apply to query, key, value, the attention's output and both feed-forward layers. The layers of
the convolution, the embeddings and all heads stay as they are.
"""

import gc

import keras

from common.errors import InputError


def dense_layers(encoder) -> list[keras.layers.Layer]:
    """Returns a `ConvBertModel`'s adaptable layers, which are all in the same state."""
    return [dense for layer in encoder.encoder_layers for dense in layer.dense_layers().values()]


def state(encoder) -> tuple:
    """The state that a graph of the encoder depends on, besides its inputs."""
    first = dense_layers(encoder)[0]
    return first.lora_enabled, first.quantization_mode


def has_lora(encoder) -> bool:
    """Whether low-rank updates are enabled."""
    return dense_layers(encoder)[0].lora_enabled


def enable_lora(encoder, rank: int, alpha: float | None = None) -> None:
    """See `PretrainedModel.enable_lora`."""
    layers = dense_layers(encoder)
    if not isinstance(rank, int) or rank < 1:
        raise InputError(f"`rank` must be a positive integer. Received: rank={rank!r}")
    largest = max(min(layer.kernel.shape[-2:]) for layer in layers)
    if rank > largest:
        raise InputError(
            f"`rank` must be at most {largest}, the width of the encoder's kernels. Received: "
            f"rank={rank}"
        )
    if has_lora(encoder):
        raise InputError(
            "the encoder already has low-rank updates. To start new ones, call save_pretrained, "
            "then from_pretrained and enable_lora"
        )
    if quantization_config(encoder) is not None:
        raise InputError("a quantized model cannot be trained: call enable_lora before quantize")
    for variable in encoder.trainable_variables:
        variable.trainable = False
    for layer in layers:
        layer.enable_lora(rank, lora_alpha=alpha)


def quantize(encoder, config) -> None:
    """Quantizes the kernels of `dense_layers` as a `keras.quantizers.QuantizationConfig` says."""
    if has_lora(encoder):
        raise InputError(
            "merge the low-rank updates first: call save_pretrained, then from_pretrained and "
            "quantize"
        )
    # Keras collects garbage after each kernel that it replaces. This takes seconds unless the
    # objects that exist now are left out.
    gc.freeze()
    try:
        for layer in dense_layers(encoder):
            layer.quantize(config.mode, type_check=False, config=config)  # allows subclasses
    finally:
        gc.unfreeze()


def quantization_config(encoder):
    """Returns the configuration given to `quantize`; None if the encoder is not quantized."""
    first = dense_layers(encoder)[0]
    return first.quantization_config if first.quantization_mode is not None else None
