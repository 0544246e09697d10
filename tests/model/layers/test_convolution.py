"""Both formulations of the convolutions give the weighted windows, and equal gradients."""

import numpy as np
import pytest
import tensorflow as tf

from model.layers import fused
from model.layers.convolution import depthwise_convolution, dynamic_convolution

B, T, N, D = 2, 7, 3, 4


def window_sum(values, weights):
    """`values` [B, T, …] and a function of the tap and a slice of positions → [B, T, …]."""
    taps = 5
    expected = np.zeros_like(values)
    for k in range(taps):
        offset = k - taps // 2
        to = slice(max(0, -offset), T - max(0, offset))
        source = slice(max(0, offset), T + min(0, offset))
        expected[:, to] += values[:, source] * weights(k, to)
    return expected


DRAW = np.random.default_rng(0).normal
VALUES = DRAW(size=(B, T, N, D)).astype("float32")
KERNELS = DRAW(size=(B, T, N, 5)).astype("float32")
TAPS = DRAW(size=(5, N * D, 1)).astype("float32")
CASES = {
    "dynamic": (
        dynamic_convolution,
        (VALUES, KERNELS),
        lambda: window_sum(VALUES, lambda k, to: KERNELS[:, to, :, k, None]),
    ),
    "depthwise": (
        depthwise_convolution,
        (VALUES.reshape(B, T, N * D), TAPS),
        lambda: window_sum(VALUES.reshape(B, T, N * D), lambda k, to: TAPS[k, :, 0]),
    ),
}


def run(function, arguments, is_whole, dtype="float32"):
    """The value and the gradients."""

    @tf.function(jit_compile=is_whole)
    def step(*arguments):
        with fused.whole_step(is_whole), tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
            upstream = tf.cast(DRAW(size=value.shape), value.dtype)
        return value, *tape.gradient(value, arguments, upstream)

    DRAW.__self__.bit_generator.state = np.random.default_rng(1).bit_generator.state
    return [tf.cast(a, tf.float32).numpy() for a in step(*(tf.cast(a, dtype) for a in arguments))]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    function, arguments, expected = CASES[name]
    plain = run(function, arguments, is_whole=False)
    np.testing.assert_allclose(plain[0], expected(), atol=1e-5)
    for ours, theirs in zip(run(function, arguments, is_whole=True), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    half = run(function, arguments, is_whole=True, dtype="bfloat16")
    for ours, theirs in zip(half, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.03 * np.abs(theirs).max())
