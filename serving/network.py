"""The network alone, from token ids to its outputs: as ONNX, and for LiteRT.

Of any number of rows and any length up to the longest, as the Keras model itself.
"""

from typing import Any

import tensorflow as tf

from model import ConvBertForMultipleChoice
from model.convbert import INPUT_NAMES
from model.layers import fused

OPSET = 18  # of ONNX: what it has is in every runtime since 2023, and nothing newer is needed


def network_function(model: Any, output: str) -> Any:
    """A model as a `tf.function` of `input_ids`, `input_mask` and `segment_ids`, int32.

    Args:
        model: of `model`, or a `PooledEncoder`.
        output: what its output is called if it is a single one.
    """
    axes = axes_of(model)
    specs = [tf.TensorSpec([None] * len(axes), tf.int32, name) for name in INPUT_NAMES]

    @tf.function(input_signature=specs, autograph=False)
    def compute(input_ids, input_mask, segment_ids):
        arrays = (input_ids, input_mask, segment_ids)
        outputs = model(dict(zip(INPUT_NAMES, arrays, strict=True)), training=False)
        return outputs if isinstance(outputs, dict) else {output: outputs}

    with fused.exporting(loops=False):
        compute.get_concrete_function()
    return compute


def axes_of(model: Any) -> tuple[str, ...]:
    """What the axes of a model's inputs are; its outputs' unknown axes are the first of them."""
    is_choice = isinstance(model, ConvBertForMultipleChoice)
    return ("batch", "choices", "length") if is_choice else ("batch", "length")


def save_onnx(model: Any, output: str, path: str) -> dict[str, dict]:
    """Writes a model as ONNX.

    Args:
        model, output: see `network_function`.
        path: of the file.

    Returns:
        For "inputs" and "outputs" dtype and shape by name, unknown axes by their names.
    """
    import onnx
    import tf2onnx

    function = network_function(model, output)
    proto, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    axes = axes_of(model)
    for value in [*proto.graph.input, *proto.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        unknown = [size for size in sizes if not size.HasField("dim_value")]
        for size, name in zip(unknown, axes, strict=False):
            size.dim_param = name
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return _describe(function, axes)


def save_litert(model: Any, output: str, path: str, int8: bool) -> dict[str, dict]:
    """Writes a model for LiteRT, of LiteRT's own operations alone.

    Args:
        model, output: see `network_function`.
        path: of the file.
        int8: keep the weights of matrix products as 8-bit integers, a scale a tensor or channel.

    Returns:
        See `save_onnx`.
    """
    function = network_function(model, output)
    # What the converter looks for variables in, to write their values.
    owner = tf.Module()
    owner.weights = [variable.value for variable in model.variables]
    concrete = function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)
    return _describe(function, axes_of(model))


def _describe(function, axes):
    """Inputs and outputs of a network's function, for JSON."""

    def fields(spec):
        names = iter(axes)
        shape = [next(names) if size is None else size for size in spec.shape.as_list()]
        return {"dtype": spec.dtype.name, "shape": shape}

    outputs = function.get_concrete_function().structured_outputs
    return {
        "inputs": {spec.name: fields(spec) for spec in function.input_signature},
        "outputs": {name: fields(spec) for name, spec in sorted(outputs.items())},
    }
