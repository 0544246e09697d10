"""Chains of small operations computed as one, where TensorFlow would run each separately.

On a CPU, every elementwise operation of a graph reads and writes whole arrays, and a training step
spends as long on these as on its matrix products. XLA turns such a chain into a single loop. It
gets nothing else: its CPU code for matrix products and random numbers is far slower than
TensorFlow's. (If the whole step is compiled, these functions become part of it.)

Each function returns the result of the plain Keras operations, up to rounding. Those are used on
other backends, in eager mode, in precisions other than float32, and, where XLA would be used, in
graphs of unknown shapes: XLA would compile again for every new shape.
"""

import contextlib
import math
from collections.abc import Iterator

import keras
from keras import ops

from model.backends import backend

_for_export = _without_loops = False


@contextlib.contextmanager
def exporting(loops: bool = True) -> Iterator[None]:
    """Makes graphs, in its context, of operations that other programs support.

    Those support neither XLA's functions nor custom gradients, and need GELU in terms of erf (Keras
    on TensorFlow uses erfc). `loops` tells whether they support loops over arrays of unknown shape.
    """
    global _for_export, _without_loops  # noqa: PLW0603 (one thread traces)
    _for_export, _without_loops = True, not loops
    try:
        yield
    finally:
        _for_export = _without_loops = False


def map_rows(function, arrays, count: int):
    """Applies `function` to each of `count` arrays in sequence: [count, …] → [count, …]."""
    if _without_loops:
        return ops.stack([function(array) for array in ops.unstack(arrays, count)])
    return ops.map(function, arrays)


def applies(*arrays) -> bool:
    """Whether XLA may compute with these arrays; see the module."""
    return not _for_export and backend.in_graph(*arrays, static_shapes=True)


def gelu(x, bias, approximate: bool = False):
    """`gelu(x + bias)`: [B, T, C] and [C] → [B, T, C]; `approximate` selects the tanh form."""
    if not applies(x, bias):
        return plain_gelu(x + bias, approximate)
    forward, backward = (
        (_gelu_tanh, _gelu_tanh_gradient) if approximate else (_gelu, _gelu_gradient)
    )

    def apply(x, bias):
        def gradient(upstream):
            inner = backend.compiled(backward)(x, bias, upstream)
            return inner, backend.bias_gradient(inner)

        return backend.compiled(forward)(x, bias), gradient

    return backend.custom_gradient(apply, x, bias)


def plain_gelu(x, approximate: bool = False):
    """GELU of any shape, by Keras's operations."""
    if _for_export:
        return (_gelu_tanh if approximate else _gelu)(x, 0.0)
    return keras.activations.gelu(x, approximate=approximate)


def _gelu(x, bias):
    x += bias
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


def _gelu_gradient(x, bias, upstream):
    x += bias
    density = ops.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return upstream * (0.5 * (1.0 + ops.erf(x * math.sqrt(0.5))) + x * density)


_TANH_SCALE, _TANH_CUBIC = math.sqrt(2.0 / math.pi), 0.044715


def _gelu_tanh(x, bias):
    x += bias
    return 0.5 * x * (1.0 + ops.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x)))


def _gelu_tanh_gradient(x, bias, upstream):
    x += bias
    tanh = ops.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))
    slope = _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBIC * x * x)
    return upstream * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)


def layer_norm(x, gamma, beta, epsilon: float):
    """LayerNorm over the last axis: [..., C] and two [C] → [..., C].

    Without XLA, whose reductions are no faster, but with a short gradient, for any shape.
    """
    if _for_export or not backend.in_graph(x, gamma, beta):
        return ops.layer_normalization(x, gamma, beta, -1, epsilon)

    def apply(x, gamma, beta):
        centered = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
        inverse = ops.rsqrt(variance + epsilon)
        normal = centered * inverse

        def gradient(upstream):
            scaled = upstream * gamma
            along = ops.mean(scaled * normal, axis=-1, keepdims=True)
            inner = scaled - ops.mean(scaled, axis=-1, keepdims=True) - normal * along
            gamma_gradient = backend.bias_gradient(upstream * normal)
            return inner * inverse, gamma_gradient, backend.bias_gradient(upstream)

        return normal * gamma + beta, gradient

    return backend.custom_gradient(apply, x, gamma, beta)


def dropout(x, rate: float, seed_generator):
    """Sets a share `rate` of `x` to 0 and divides the rest by 1 - rate."""
    if not applies(x):
        return keras.random.dropout(x, rate, seed=seed_generator)
    kept, scale = _kept(x.shape, rate, seed_generator), 1.0 / (1.0 - rate)

    def select(x):
        return backend.compiled(_select)(x, kept, scale)

    return backend.custom_gradient(lambda x: (select(x), select), x)


def add_dropped(residual, x, bias, rate: float, seed_generator):
    """`residual + dropout(x + bias)`: [B, T, C], [B, T, C] and [C] → [B, T, C].

    A rate of 0 needs no `seed_generator`.
    """
    if not applies(residual, x, bias):
        x += bias
        return residual + (keras.random.dropout(x, rate, seed=seed_generator) if rate else x)
    kept = (_kept(x.shape, rate, seed_generator),) if rate else ()
    scale = 1.0 / (1.0 - rate)

    def apply(residual, x, bias):
        def gradient(upstream):
            inner = backend.compiled(_select)(upstream, *kept, scale) if kept else upstream
            return upstream, inner, backend.bias_gradient(inner)

        return backend.compiled(_add_selected)(residual, x, bias, *kept, scale), gradient

    return backend.custom_gradient(apply, residual, x, bias)


def _kept(shape, rate, seed_generator):
    """Booleans, False with probability `rate`."""
    return backend.random_bits(shape, seed_generator.next()) >= round(rate * 2**32)


def _select(x, kept, scale):
    return ops.where(kept, x * scale, 0.0)


def _add_selected(residual, x, bias, *kept_and_scale):
    x += bias
    if len(kept_and_scale) > 1:
        x = _select(x, *kept_and_scale)
    return residual + x


def cross_entropy(logits, targets):
    """`-log softmax(logits)[targets]`: [B, P, V] and int32 [B, P] → [B, P]."""
    if not applies(logits):
        return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)

    def apply(logits):
        normalizer = backend.compiled(_log_sum_exp)(logits)
        chosen = ops.take_along_axis(logits, targets[..., None], axis=-1)

        def gradient(upstream):
            return backend.compiled(_cross_entropy_gradient)(logits, normalizer, targets, upstream)

        return (normalizer - chosen)[..., 0], gradient

    return backend.custom_gradient(apply, logits)


def _log_sum_exp(logits):
    return ops.logsumexp(logits, axis=-1, keepdims=True)


def _cross_entropy_gradient(logits, normalizer, targets, upstream):
    is_target = ops.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]
    probabilities = ops.exp(logits - normalizer)
    return (probabilities - ops.cast(is_target, "float32")) * upstream[..., None]


def adam(gradient, first, second, values, numbers):
    """Returns the moments and values, float32 [n], after an Adam step without bias correction.

    `numbers` are the gradient's factor, the learning rate, beta 1, beta 2, epsilon and the rate of
    weight decay.
    """
    compute = backend.compiled(_adam) if applies(gradient, first, second, values) else _adam
    return compute(gradient, first, second, values, *numbers)


def _adam(gradient, first, second, values, scale, rate, beta_1, beta_2, epsilon, decay):
    gradient = gradient * scale
    first = beta_1 * first + (1 - beta_1) * gradient
    second = beta_2 * second + (1 - beta_2) * gradient * gradient
    update = first / (ops.sqrt(second) + epsilon) + decay * values
    return first, second, values - rate * update
