"""Chains of small operations, with gradients of their own that keep and move few arrays.

Each function returns the result of the plain Keras operations, up to rounding, in one of three
ways:

- If XLA compiles the whole step (on JAX, and on GPUs), the operations are left to XLA, and only
  their gradients are written here. These keep only the inputs, whereas automatic gradients keep
  every intermediate result. In half precision, sums are in float32.
- If TensorFlow runs a graph on a CPU, in float32 or bfloat16 and with known shapes, each chain is
  compiled by itself. TensorFlow would otherwise read and write whole arrays for every operation,
  which takes as long as the matrix products. The matrix products and the random numbers are not
  compiled, because XLA is far slower at them on a CPU.
- Otherwise, for example in eager mode, Keras's operations are used. (For unknown shapes, XLA would
  compile again for every new shape.)
"""

import contextlib
import math
from collections.abc import Iterator

import keras
from keras import ops

from model.backends import backend

_for_export = _without_loops = _whole_step = False


@contextlib.contextmanager
def exporting(loops: bool = True) -> Iterator[None]:
    """Inside, graphs are made only of operations that other programs support.

    Other programs support neither XLA's functions nor custom gradients, and need GELU in terms of
    erf (Keras on TensorFlow uses erfc). `loops` tells whether they support loops over arrays of
    unknown shape.
    """
    global _for_export, _without_loops  # noqa: PLW0603 (one thread traces)
    _for_export, _without_loops = True, not loops
    try:
        yield
    finally:
        _for_export = _without_loops = False


@contextlib.contextmanager
def whole_step(is_compiled: bool) -> Iterator[None]:
    """Sets, for this context, whether XLA compiles all of the graph that is being traced."""
    global _whole_step  # noqa: PLW0603 (one thread traces)
    before, _whole_step = _whole_step, is_compiled
    try:
        yield
    finally:
        _whole_step = before


def shares_traces() -> bool:
    """Whether a graph may call functions.

    Other programs cannot read such calls. Also, XLA in TensorFlow cannot compile the gradient of a
    function that is called in a loop.
    """
    return not _for_export and (backend.COMPILES_STEPS or not _whole_step)


def map_rows(function, arrays, count: int):
    """Applies `function` to each of `count` arrays in sequence: [count, …] → [count, …]."""
    if _without_loops:
        return ops.stack([function(array) for array in ops.unstack(arrays, count)])
    return ops.map(function, arrays)


def applies(*arrays) -> bool:
    """Whether chains of these arrays are compiled by themselves; see the module's docstring."""
    return not (_for_export or is_whole()) and backend.in_graph(*arrays, static_shapes=True)


def is_whole():
    """Whether XLA compiles the whole step."""
    return not _for_export and (backend.COMPILES_STEPS or _whole_step)


def _compiler(*arrays):
    """A decorator for chains of operations on these arrays; None means: leave them to Keras."""
    if is_whole():
        return lambda function: function
    return backend.compiled if applies(*arrays) else None


def gelu(x, bias, approximate: bool = False):
    """`gelu(x + bias)`: [B, T, C] and [C] → [B, T, C]; `approximate` selects the tanh form.

    If groups have an axis of their own, `x` is [G, B · T, C] and `bias` [G, 1, C].
    """
    compiled = _compiler(x, bias)
    if compiled is None:
        return plain_gelu(x + bias, approximate)
    forward, backward = (
        (_gelu_tanh, _gelu_tanh_gradient) if approximate else (_gelu, _gelu_gradient)
    )

    def apply(x, bias):
        def gradient(upstream):
            inner = compiled(backward)(x, bias, upstream)
            if len(bias.shape) == 1:
                return inner, backend.bias_gradient(inner)
            total = ops.sum(ops.cast(inner, "float32"), axis=1, keepdims=True)
            return inner, ops.cast(total, bias.dtype)

        return compiled(forward)(x, bias), gradient

    return backend.custom_gradient(apply, x, bias)


def plain_gelu(x, approximate: bool = False):
    """GELU of any shape, with Keras's operations."""
    if _for_export:
        return (_gelu_tanh if approximate else _gelu)(x, 0.0)
    return keras.activations.gelu(x, approximate=approximate)


def _gelu(x, bias):
    wide = _sum(x, bias)
    return ops.cast(0.5 * wide * (1.0 + ops.erf(wide * math.sqrt(0.5))), x.dtype)


def _gelu_gradient(x, bias, upstream):
    wide = _sum(x, bias)
    density = ops.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    slope = 0.5 * (1.0 + ops.erf(wide * math.sqrt(0.5))) + wide * density
    return ops.cast(ops.cast(upstream, "float32") * slope, x.dtype)


_TANH_SCALE, _TANH_CUBIC = math.sqrt(2.0 / math.pi), 0.044715


def _gelu_tanh(x, bias):
    wide = _sum(x, bias)
    tanh = ops.tanh(_TANH_SCALE * (wide + _TANH_CUBIC * wide * wide * wide))
    return ops.cast(0.5 * wide * (1.0 + tanh), x.dtype)


def _gelu_tanh_gradient(x, bias, upstream):
    wide = _sum(x, bias)
    tanh = ops.tanh(_TANH_SCALE * (wide + _TANH_CUBIC * wide * wide * wide))
    inner = _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBIC * wide * wide)
    slope = 0.5 * (1.0 + tanh) + 0.5 * wide * (1.0 - tanh * tanh) * inner
    return ops.cast(ops.cast(upstream, "float32") * slope, x.dtype)


def _sum(x, bias):
    """`x + bias` in float32."""
    return ops.cast(x, "float32") + ops.cast(bias, "float32")


def layer_norm(x, gamma, beta, epsilon: float):
    """LayerNorm over the last axis: [..., C] and two [C] → [..., C].

    On CPUs in float32, LayerNorm is not compiled, and shapes may be unknown: compiling takes a
    second and makes a step only a thirtieth faster. In bfloat16 it saves more.
    """
    if is_whole():
        return backend.custom_gradient(_layer_norm_of_sums(epsilon), x, gamma, beta)
    forward, backward = _layer_norm, _layer_norm_gradient
    if keras.backend.standardize_dtype(x.dtype) == "bfloat16" and applies(x, gamma, beta):
        forward, backward = backend.compiled(forward), backend.compiled(backward)
    elif _for_export or not backend.in_graph(x, gamma, beta, dtypes=("float32",)):
        return ops.layer_normalization(x, gamma, beta, -1, epsilon)

    def apply(x, gamma, beta):
        outputs, normal, inverse = forward(x, gamma, beta, epsilon)

        def gradient(upstream):
            inner, scaled = backward(normal, inverse, gamma, upstream)
            return inner, backend.bias_gradient(scaled), backend.bias_gradient(upstream)

        return outputs, gradient

    return backend.custom_gradient(apply, x, gamma, beta)


def _layer_norm(x, gamma, beta, epsilon):
    wide = ops.cast(x, "float32")
    centered = wide - ops.mean(wide, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    inverse = ops.rsqrt(variance + epsilon)
    normal = centered * inverse
    outputs = normal * ops.cast(gamma, "float32") + ops.cast(beta, "float32")
    return ops.cast(outputs, x.dtype), ops.cast(normal, x.dtype), inverse


def _layer_norm_gradient(normal, inverse, gamma, upstream):
    wide, normal = ops.cast(upstream, "float32"), ops.cast(normal, "float32")
    scaled = wide * ops.cast(gamma, "float32")
    along = ops.mean(scaled * normal, axis=-1, keepdims=True)
    inner = scaled - ops.mean(scaled, axis=-1, keepdims=True) - normal * along
    inner, scaled = inner * inverse, wide * normal
    return ops.cast(inner, upstream.dtype), ops.cast(scaled, upstream.dtype)


def _layer_norm_of_sums(epsilon):
    """LayerNorm for XLA, from sums over a row that do not depend on each other.

    One kernel computes all the sums, and another one the result. The variance is E[x²] - E[x]², as
    in Flax, which is exact enough unless a row's mean is far larger than its deviation.
    """

    def mean_of(array):
        return ops.mean(array, axis=-1, keepdims=True)

    def apply(x, gamma, beta):
        wide = ops.cast(x, "float32")
        mean = mean_of(wide)
        variance = ops.maximum(mean_of(ops.square(wide)) - ops.square(mean), 0.0)
        inverse = ops.rsqrt(variance + epsilon)

        def gradient(upstream):
            upstream = ops.cast(upstream, "float32")
            wide = ops.cast(x, "float32")
            normal = (wide - mean) * inverse
            scaled = upstream * ops.cast(gamma, "float32")
            total = mean_of(scaled)
            along = (mean_of(scaled * wide) - mean * total) * inverse
            inner = (scaled - total - normal * along) * inverse
            return (
                ops.cast(inner, x.dtype),
                ops.cast(backend.bias_gradient(upstream * normal), gamma.dtype),
                ops.cast(backend.bias_gradient(upstream), beta.dtype),
            )

        normal = (wide - mean) * inverse
        outputs = normal * ops.cast(gamma, "float32") + ops.cast(beta, "float32")
        return ops.cast(outputs, x.dtype), gradient

    return apply


def seed_of(seed, number: int):
    """The seed of dropout `number` of a step, derived from the step's `seed`, int [2]."""
    return seed + ops.convert_to_tensor([number, 0], dtype=seed.dtype)


def dropout(x, rate: float, seed):
    """Sets a share `rate` of `x` to 0 and divides the rest by 1 - rate; `seed` is int [2]."""
    kept, scale = _kept(x, rate, seed), 1.0 / (1.0 - rate)
    compiled = _compiler(x)
    if compiled is None:
        return _select(x, kept, scale)

    def apply(x, kept):
        def select(x):
            return compiled(_select)(x, kept, scale)

        return select(x), lambda upstream: (select(upstream),)

    return backend.custom_gradient(apply, x, constants=(kept,))


def add_dropped(residual, x, bias, rate: float, seed):
    """`residual + dropout(x + bias)`: [B, T, C], [B, T, C] and [C] → [B, T, C].

    A rate of 0 needs no `seed`.
    """
    kept = (_kept(x, rate, seed),) if rate else ()
    scale = 1.0 / (1.0 - rate)
    compiled = _compiler(residual, x, bias)
    if compiled is None:
        return _add_selected(residual, x, bias, scale, *kept)

    def apply(residual, x, bias, *kept):
        def gradient(upstream):
            inner = compiled(_select)(upstream, *kept, scale) if kept else upstream
            return upstream, inner, backend.bias_gradient(inner)

        return compiled(_add_selected)(residual, x, bias, scale, *kept), gradient

    return backend.custom_gradient(apply, residual, x, bias, constants=kept)


def _kept(x, rate, seed):
    """Booleans of the shape of `x`, False with probability `rate`."""
    draw = hashed_bits if is_whole() else backend.random_bits
    return draw(ops.shape(x), seed) >= round(rate * 2**32)


def hashed_bits(shape, seed):
    """Uniform uint32 numbers, each a hash of its index and of `seed`, int [2].

    Where XLA compiles the step, it fuses the hash into the kernels that read the numbers. So no
    numbers are stored, and the gradient computes them again. Philox, XLA's own generator, takes
    several kernels and stores its numbers. The hash is Chris Wellons's lowbias32
    (nullprogram.com/blog/2018/07/31), applied twice.
    """
    seed = ops.cast(seed, "uint32")
    # (XLA has no `range` of uint32 for TensorFlow.)
    numbers = ops.cast(ops.arange(math.prod(shape), dtype="int32"), "uint32")
    numbers = ops.reshape(numbers, shape)
    for key in (seed[0], seed[1]):
        # Neighboring seeds must not give the same numbers in another order.
        numbers = _mixed(numbers + _mixed(key))
    return numbers


def _mixed(numbers):
    """A bijection of uint32 numbers: every bit of the result depends on all bits of the input."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        numbers = ops.bitwise_xor(numbers, ops.right_shift(numbers, _uint32(shift)))
        numbers = numbers * _uint32(factor)
    return ops.bitwise_xor(numbers, ops.right_shift(numbers, _uint32(16)))


def _uint32(number):
    return ops.convert_to_tensor(number, dtype="uint32")


def _select(x, kept, scale):
    return ops.where(kept, x * scale, ops.zeros((), dtype=x.dtype))


def _add_selected(residual, x, bias, scale, *kept):
    x += bias
    return residual + (_select(x, *kept, scale) if kept else x)


def cross_entropy(logits, targets):
    """`-log softmax(logits)[targets]`: [B, P, V] and int32 [B, P] → [B, P]."""
    compiled = _compiler(logits)
    if compiled is None:
        return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)

    def apply(logits, targets):
        normalizer = compiled(_log_sum_exp)(logits)
        chosen = ops.take_along_axis(logits, targets[..., None], axis=-1)

        def gradient(upstream):
            return (compiled(_cross_entropy_gradient)(logits, normalizer, targets, upstream),)

        return (normalizer - chosen)[..., 0], gradient

    return backend.custom_gradient(apply, logits, constants=(targets,))


def exponentials(logits):
    """The softmax over the last axis, up to a factor for each row."""
    if is_whole():  # without the division, XLA need not store the result
        return ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    return ops.softmax(logits)


def _log_sum_exp(logits):
    largest = ops.max(logits, axis=-1, keepdims=True)
    return ops.log(ops.sum(ops.exp(logits - largest), axis=-1, keepdims=True)) + largest


def _cross_entropy_gradient(logits, normalizer, targets, upstream):
    is_target = ops.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]
    probabilities = ops.exp(logits - normalizer)
    return (probabilities - ops.cast(is_target, "float32")) * upstream[..., None]


def adam_update(gradient, first, second, numbers):
    """Like `adam`, but returns the moments and the update to subtract, without weight decay.

    Where XLA compiles the step, one kernel then reads and writes many variables, each only once.
    """
    scale, rate, beta_1, beta_2, epsilon = numbers
    first, second, update = _moments(gradient * scale, first, second, beta_1, beta_2, epsilon)
    return first, second, rate * update


def adam(gradient, first, second, values, numbers):
    """Returns the moments and values, float32 [n], after an Adam step without bias correction.

    `numbers` are the gradient's factor, the learning rate, beta 1, beta 2, epsilon and the rate of
    weight decay.
    """
    compute = backend.compiled(_adam) if applies(gradient, first, second, values) else _adam
    return compute(gradient, first, second, values, *numbers)


def _adam(gradient, first, second, values, scale, rate, beta_1, beta_2, epsilon, decay):
    first, second, update = _moments(gradient * scale, first, second, beta_1, beta_2, epsilon)
    return first, second, values - rate * (update + decay * values)


def _moments(gradient, first, second, beta_1, beta_2, epsilon):
    first = beta_1 * first + (1 - beta_1) * gradient
    second = beta_2 * second + (1 - beta_2) * gradient * gradient
    return first, second, first / (ops.sqrt(second) + epsilon)
