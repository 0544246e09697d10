"""Writes a model as a SavedModel that takes strings, or its network as ONNX or for LiteRT.

A SavedModel also contains the tokenizer and the pipeline's processing of the outputs. To load it,
`tensorflow` and `tensorflow_text` suffice. ONNX and LiteRT files contain only the network, from
token ids to its outputs, for any number of rows of any length that the model takes.
"""

import pathlib
from typing import Any

import tensorflow as tf

from model import ConvBertForMultipleChoice
from model.convbert import INPUT_NAMES
from model.layers import fused
from pipelines.feature_extractor import PooledEncoder
from serving.answers import answer_graph
from serving.tags import tag_graph
from serving.texts import choice_graph, classifier_graph, feature_graph, mask_graph

OPSET = 18  # of ONNX: supported by every runtime since 2023
# The names of the same inputs in transformers, whose tokenizers make int64 arrays.
TRANSFORMERS_NAMES = ("input_ids", "attention_mask", "token_type_ids")

# Functions that make a `tf.function` of strings from a pipeline and `directory.Options`.
GRAPHS = {
    "TextClassifier": classifier_graph,
    "Tagger": tag_graph,
    "QuestionAnswerer": answer_graph,
    "MultipleChoice": choice_graph,
    "FillMask": mask_graph,
    "FeatureExtractor": feature_graph,
}


def save_savedmodel(pipeline: Any, options: Any, path: str) -> dict[str, dict]:
    """Writes a pipeline's graph as the signature `serving_default`; see `describe`."""
    function = GRAPHS[type(pipeline).__name__](pipeline, options)
    with fused.exporting():
        concrete = function.get_concrete_function()
    tf.saved_model.save(_owner(pipeline.model), path, signatures={"serving_default": concrete})
    return describe(function)


def save_onnx(pipeline: Any, options: Any, path: str) -> dict[str, dict]:
    """Writes a pipeline's network as ONNX; see `describe`."""
    import onnx
    import tf2onnx

    function = network_function(pipeline.model, options.transformers_inputs)
    axes = axes_of(pipeline.model)
    proto, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    for value in [*proto.graph.input, *proto.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        unknown = [size for size in sizes if not size.HasField("dim_value")]
        for size, name in zip(unknown, axes, strict=False):
            size.dim_param = name
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return describe(function, axes)


def save_litert(pipeline: Any, options: Any, path: str) -> dict[str, dict]:
    """Writes a pipeline's network for LiteRT, with LiteRT's own operations only; see `describe`."""
    function = network_function(pipeline.model, options.transformers_inputs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], _owner(pipeline.model)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if options.int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    pathlib.Path(path).write_bytes(converter.convert())
    return describe(function, axes_of(pipeline.model))


def _owner(model):
    """A module with a model's variables: TensorFlow's writers look for them in such a module."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    return module


def network_function(model: Any, transformers_inputs: bool = False) -> Any:
    """A model as a `tf.function` of `INPUT_NAMES`, int32, or `TRANSFORMERS_NAMES`, int64.

    A single output is called "vector" if it comes from a `PooledEncoder`, else "logits".
    """
    names = TRANSFORMERS_NAMES if transformers_inputs else INPUT_NAMES
    dtype = tf.int64 if transformers_inputs else tf.int32
    specs = [tf.TensorSpec([None] * len(axes_of(model)), dtype, name) for name in names]

    @tf.function(input_signature=specs, autograph=False)
    def compute(*arrays):
        inputs = (tf.cast(array, tf.int32) for array in arrays)
        outputs = model(dict(zip(INPUT_NAMES, inputs, strict=True)), training=False)
        name = "vector" if isinstance(model, PooledEncoder) else "logits"
        return outputs if isinstance(outputs, dict) else {name: outputs}

    with fused.exporting(loops=False):
        compute.get_concrete_function()
    return compute


def axes_of(model: Any) -> tuple[str, ...]:
    """Names of the axes of a model's inputs; outputs have the first of them, if of unknown size."""
    is_choice = isinstance(model, ConvBertForMultipleChoice)
    return ("batch", "choices", "length") if is_choice else ("batch", "length")


def describe(function: Any, axes: tuple[str, ...] = ()) -> dict[str, dict]:
    """The "inputs" and "outputs" of a `tf.function`: dtype and shape by name, for JSON.

    An axis of unknown size has its name in `axes`, or null.
    """

    def fields(spec):
        names = iter(axes)
        shape = [next(names, None) if size is None else size for size in spec.shape.as_list()]
        return {"dtype": spec.dtype.name, "shape": shape}

    outputs = function.get_concrete_function().structured_outputs
    return {
        "inputs": {spec.name: fields(spec) for spec in function.input_signature},
        "outputs": {name: fields(spec) for name, spec in sorted(outputs.items())},
    }
