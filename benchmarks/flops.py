"""The arithmetic of a model, counted from its configuration.

Counted are matrix products, at two operations a multiplication: what any implementation must do.
Not counted are element-wise operations, LayerNorm, softmax, gathers, the optimizer, and the
depthwise convolution (0.3 % of the whole). The dynamic convolution counts as K products a channel
and position, though a banded matrix takes T + K - 1. Padding counts like any other token.

Axes: B batch, T tokens, P predictions a row, H hidden size, A = N·D width of the heads of a kind,
K kernel size, I intermediate size, G groups, E embedding size, V vocabulary.
"""

from model.config import ConvBertConfig, Objective, max_predictions_per_seq

BACKWARD_AND_FORWARD = 3  # a product C = A·B has two in its backward pass: dA and dB


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
    """Operations of a step of ELECTRA with a generator of its own: forward, times three.

    Args:
        config: the discriminator's.
        objective: for the generator's size and the share of masked positions.
        batch_size: rows, B.
        length: tokens a row, T.
    """
    generator = config.generator(objective.generator_hidden_size, objective.generator_layers)
    embedding, hidden = config.embedding_size, config.hidden_size
    prediction = generator.hidden_size * embedding + embedding * config.vocab_size
    verdict = hidden * hidden + hidden
    heads = max_predictions_per_seq(length, objective.mask_prob) * prediction + length * verdict
    forward = 2 * heads * batch_size
    for network in (config, generator):
        forward += encoder_flops(network, batch_size, length)
    return BACKWARD_AND_FORWARD * forward
