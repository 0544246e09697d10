"""The arithmetic of a model: matrix products, counted as two operations per multiplication.

Element-wise operations, LayerNorm, softmax, gathers, the optimizer and the depthwise convolution
(0.3 % of the whole) are not counted. The dynamic convolution counts K products per channel and
position, although a banded matrix takes T + K - 1. Padding counts like any other token.
"""

from model.config import ConvBertConfig, Objective, max_predictions_per_seq

BACKWARD_AND_FORWARD = 3  # a product C = A·B has two products in its backward pass: dA and dB


def encoder_flops(config: ConvBertConfig, batch_size: int, length: int) -> int:
    """Operations of an encoder's forward pass over [B, T]."""
    hidden, width = config.hidden_size, config.num_heads * config.head_size
    branches = 1
    multiplications = 3 * hidden * width  # query, key, value
    multiplications += 2 * length * width  # scores, and their product with the values
    if config.conv_type == "sdconv":
        branches = 2
        taps = config.conv_kernel_size
        multiplications += 2 * hidden * width  # span key (pointwise), values of the convolution
        multiplications += width * config.num_heads * taps  # dynamic kernels
        multiplications += width * taps  # and their use
    multiplications += branches * width * hidden
    multiplications += 2 * hidden * config.intermediate_size // config.linear_groups
    multiplications *= config.num_hidden_layers
    if config.embedding_size != hidden:
        multiplications += config.embedding_size * hidden
    return 2 * multiplications * batch_size * length


def pretraining_flops(
    config: ConvBertConfig, objective: Objective, batch_size: int, length: int
) -> int:
    """Operations of a training step; `config` describes the discriminator or the only network."""
    masked_lm = config
    if objective.has_separate_generator:
        masked_lm = config.generator(objective.generator_hidden_size, objective.generator_layers)
    predictions = max_predictions_per_seq(length, objective.mask_prob)
    forward = 0
    if not objective.uniform_generator:
        prediction = (masked_lm.hidden_size + config.vocab_size) * config.embedding_size
        forward += 2 * batch_size * predictions * prediction
        forward += encoder_flops(masked_lm, batch_size, length)
    if objective.electra_objective:
        detection = (config.hidden_size + 1) * config.hidden_size
        forward += 2 * batch_size * length * detection
        forward += encoder_flops(config, batch_size, length)
    return BACKWARD_AND_FORWARD * forward
