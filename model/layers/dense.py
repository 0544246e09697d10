"""Dense layers, plain and grouped, and functions for both kinds."""

import math

import keras
from keras import ops


def to_tensor(variable):
    """A variable's value, in the precision of the layer that is being called."""
    return ops.convert_to_tensor(variable)


def merged_kernel(layer, dtype="float32"):
    """The kernel of a Dense or GroupedDense layer, including its low-rank update, if any."""
    (kernel,) = (variable for variable in layer.weights if variable.name == "kernel")
    if not layer.lora_enabled:
        return kernel
    update = ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
    return ops.cast(kernel + (layer.lora_alpha / layer.lora_rank) * update, dtype)


def split_bias(layer, inputs) -> tuple:
    """Applies a dense layer to […, in], but returns its bias separately: […, out] and [out].

    The caller can then fuse the bias with the next operation. A quantized Keras layer multiplies in
    integers and adds its own bias, so the returned bias is zero.
    """
    if isinstance(layer, keras.layers.Dense) and layer.quantization_mode is not None:
        return layer(inputs), ops.zeros((layer.units,), dtype=layer.compute_dtype)
    return ops.matmul(inputs, layer.kernel), to_tensor(layer.bias)


def start_update_again(layer, kernel_a) -> None:
    """Resets a low-rank update to zero, once a kernel that already includes it is loaded.

    `kernel_a` is a random draw: if both factors were zero, neither would have a gradient.
    """
    layer.lora_kernel_a.assign(kernel_a)
    layer.lora_kernel_b.assign(ops.zeros(layer.lora_kernel_b.shape))


@keras.saving.register_keras_serializable(package="convbert")
class Dense(keras.layers.Dense):
    """Keras's Dense with a low-rank update that can still be trained after weights are loaded."""

    def load_own_variables(self, store):
        """Loads what `save_own_variables` stored."""
        kernel_a = ops.copy(self.lora_kernel_a) if self.lora_enabled else None
        super().load_own_variables(store)
        if self.lora_enabled:
            start_update_again(self, kernel_a)


@keras.saving.register_keras_serializable(package="convbert")
class GroupedDense(keras.layers.Layer):
    """A dense layer in G contiguous channel groups (the paper's grouped linear, section 3.3).

    Variables: kernel [G, in / G, out / G], bias [out]. Like Keras's Dense it supports low-rank
    updates and quantization.
    """

    def __init__(self, units: int, groups: int, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.groups = groups
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.lora_enabled = False

    def build(self, input_shape):
        """Creates the variables."""
        shape = (self.groups, input_shape[-1] // self.groups, self.units // self.groups)
        self._kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    @property
    def kernel(self):
        """The kernel in use, [G, in / G, out / G]: dequantized, or with its low-rank update."""
        if self.quantization_mode is not None:
            kernel = ops.cast(self._kernel, "float32") / self.kernel_scale
            return ops.cast(kernel, self.compute_dtype)
        return merged_kernel(self, self.compute_dtype) if self.lora_enabled else self._kernel

    def enable_lora(self, rank: int, lora_alpha: float | None = None):
        """Keras's `Dense.enable_lora`, with one update of that rank per group."""
        groups, inputs, outputs = self._kernel.shape
        self._tracker.unlock()  # as Keras's own layers do to add variables after `build`
        limit = math.sqrt(6 / inputs)  # as in Keras, for the fan-in of one group
        uniform = keras.initializers.RandomUniform(-limit, limit)
        self.lora_kernel_a = self.add_weight(
            name="lora_kernel_a", shape=(groups, inputs, rank), initializer=uniform
        )
        self.lora_kernel_b = self.add_weight(
            name="lora_kernel_b", shape=(groups, rank, outputs), initializer="zeros"
        )
        self._tracker.lock()
        self._kernel.trainable = False
        self.lora_enabled, self.lora_rank = True, rank
        self.lora_alpha = rank if lora_alpha is None else lora_alpha

    def quantize(self, mode=None, type_check=True, config=None):
        """Makes the kernel int8, with one scale per output; inputs keep their precision."""
        if mode != "int8":
            raise self._quantization_mode_error(mode)
        values, scale = keras.quantizers.abs_max_quantize(self._kernel, axis=1, to_numpy=True)
        shape = self._kernel.shape
        del self._kernel
        self._kernel = self.add_weight(
            name="kernel", shape=shape, initializer="zeros", dtype="int8", trainable=False
        )
        self.kernel_scale = self.add_weight(
            name="kernel_scale", shape=scale.shape, trainable=False, autocast=False
        )
        self._kernel.assign(values)
        self.kernel_scale.assign(scale)
        self._is_quantized = True
        self.dtype_policy = keras.dtype_policies.get(f"int8_from_{self.dtype_policy.name}")

    def quantized_call(self, inputs):
        """Keras calls this in place of `call`."""
        return self.call(inputs)

    def save_own_variables(self, store):
        """Saves a low-rank update as part of the kernel, as Keras's Dense does."""
        if self.lora_enabled:
            store["0"], store["1"] = merged_kernel(self), self.bias.value
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` stored."""
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        self._kernel.assign(store["0"])
        self.bias.assign(store["1"])
        start_update_again(self, ops.copy(self.lora_kernel_a))

    def call(self, inputs):
        """[B, T, in] → [B, T, out]."""
        return self.multiply(ops.split(inputs, self.groups, axis=-1)) + self.bias

    def multiply(self, inputs: list):
        """G arrays [B, T, in / G] → [B, T, out], without the bias.

        There is one matrix product per group, because a batched product needs transposed copies of
        inputs and outputs.
        """
        kernels = ops.unstack(to_tensor(self.kernel))
        return ops.concatenate(
            [ops.matmul(*pair) for pair in zip(inputs, kernels, strict=True)], axis=-1
        )

    def compute_output_shape(self, input_shape):
        """[B, T, out]."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """The constructor's arguments."""
        return super().get_config() | {
            "units": self.units,
            "groups": self.groups,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
