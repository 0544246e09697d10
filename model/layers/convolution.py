"""The two convolutions of a layer: depthwise over positions, and with a kernel for each position.

Both have windows of K positions, and positions outside the sequence count as zero. Where XLA
compiles the whole step, they are sums of K shifted arrays with gradients of their own. These take
only a few GPU kernels, which read and write each array once, in its own layout and without cuDNN.
Elsewhere, the convolutions are the operations that TensorFlow computes fastest on CPUs.
"""

from keras import ops

from model.backends import backend
from model.layers import fused


def depthwise_convolution(inputs, kernel):
    """Convolves each channel with its own kernel: [B, T, C] and [K, C, 1] → [B, T, C]."""
    if not fused.is_whole():  # TensorFlow's gradient is slow in half precision
        outputs = ops.depthwise_conv(_wide(inputs), _wide(kernel), padding="same")
        return ops.cast(outputs, inputs.dtype)

    def apply(inputs, kernel):
        taps = kernel.shape[0]

        def gradient(upstream):
            windows = ops.stack([_shifted(inputs, k, taps) for k in range(taps)], axis=-1)
            products = windows * _wide(upstream)[..., None]  # [B, T, C, K]
            kernel_gradient = ops.transpose(ops.sum(products, axis=(0, 1)))
            inner = sum(
                _shifted(upstream, taps - 1 - k, taps) * _wide(kernel[k]) for k in range(taps)
            )
            return ops.cast(inner, inputs.dtype), ops.cast(kernel_gradient, kernel.dtype)

        outputs = sum(_shifted(inputs, k, taps) * _wide(kernel[k]) for k in range(taps))
        return ops.cast(outputs, inputs.dtype), gradient

    return backend.custom_gradient(apply, inputs, kernel[:, :, 0])


def dynamic_convolution(values, kernels):
    """Weights each position's window by that position's own kernel.

    Args:
        values: [B, T, N, D].
        kernels: [B, T, N, K]; tap k of position t weighs position t + k - K // 2.

    Returns:
        [B, T, N, D].
    """
    if not fused.is_whole():
        return _banded_product(values, kernels)

    def apply(values, kernels):
        taps = kernels.shape[-1]

        def gradient(upstream):
            windows = ops.stack([_shifted(values, k, taps) for k in range(taps)], axis=3)
            products = windows * ops.expand_dims(_wide(upstream), 3)  # [B, T, N, K, D]
            inner = 0.0
            for k in range(taps):
                back = taps - 1 - k
                weights = _shifted(kernels[..., k : k + 1], back, taps)
                inner += _shifted(upstream, back, taps) * weights
            sums = ops.sum(products, axis=-1)
            return ops.cast(inner, values.dtype), ops.cast(sums, kernels.dtype)

        outputs = sum(
            _shifted(values, k, taps) * _wide(kernels[..., k : k + 1]) for k in range(taps)
        )
        return ops.cast(outputs, values.dtype), gradient

    return backend.custom_gradient(apply, values, kernels)


def _wide(array):
    """Casts to float32, the precision of the sums."""
    return ops.cast(array, "float32")


def _shifted(array, tap: int, taps: int):
    """The values that tap number `tap` reads, in float32: t has position t + tap - taps // 2."""
    length, reach = ops.shape(array)[1], taps // 2
    padding = [(0, 0), (reach, reach)] + [(0, 0)] * (len(array.shape) - 2)
    return _wide(ops.pad(array, padding)[:, tap : tap + length])


def _banded_product(values, kernels):
    """A batched matrix product with the kernels as one banded `[T, T + K - 1]` matrix per head.

    This way, no unfolded `[B, T, N·D, K]` tensor is needed. To shift row t by t columns, T zeros
    are appended to each row of K, the rows are laid end to end, and the result is cut into rows
    that are one shorter than before.
    """
    num_heads, kernel_size = kernels.shape[2:]
    batch, length = ops.shape(values)[0], ops.shape(values)[1]
    kernels = ops.transpose(kernels, (0, 2, 1, 3))  # [B, N, T, K]
    zeros = ops.zeros((batch, num_heads, length, length), dtype=kernels.dtype)
    line = ops.reshape(
        ops.concatenate([kernels, zeros], axis=-1),
        (batch, num_heads, length * (length + kernel_size)),
    )
    width = length + kernel_size - 1
    # ops.slice: its gradient is a pad, several times cheaper in TensorFlow than that of `line[…]`
    cut = ops.slice(line, (0, 0, 0), (batch, num_heads, length * width))
    banded = ops.reshape(cut, (batch, num_heads, length, width))
    reach = kernel_size // 2
    values = ops.transpose(values, (0, 2, 1, 3))  # [B, N, T, D]
    padded = ops.pad(values, ((0, 0), (0, 0), (reach, reach), (0, 0)))
    return ops.transpose(ops.matmul(banded, padded), (0, 2, 1, 3))
