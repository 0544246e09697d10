"""A TensorFlow SavedModel that takes strings: tokenizer, network and what is made of its outputs.

Whoever loads it needs `tensorflow` and `tensorflow_text`, whose operations it has, and nothing
else.
"""

import os
from typing import Any

import tensorflow as tf

from model.layers import fused
from serving.answers import answer_graph
from serving.graph import TextGraph
from serving.tags import tag_graph
from serving.texts import choice_graph, classifier_graph, feature_graph, mask_graph


def graph_of(name: str, pipeline: Any, options: Any) -> TextGraph:
    """The graph of a pipeline.

    Args:
        name: of its class.
        pipeline: the object.
        options: with `pairs` and `top_k`.
    """
    return {
        "TextClassifier": lambda: classifier_graph(pipeline, options.pairs),
        "Tagger": lambda: tag_graph(pipeline),
        "QuestionAnswerer": lambda: answer_graph(pipeline),
        "MultipleChoice": lambda: choice_graph(pipeline),
        "FillMask": lambda: mask_graph(pipeline, options.top_k),
        "FeatureExtractor": lambda: feature_graph(pipeline, options.pairs),
    }[name]()


def save(graph: TextGraph, directory: str | os.PathLike) -> dict[str, dict]:
    """Writes the graph as the signature `serving_default`.

    Returns:
        The signature: for "inputs" and "outputs" dtype and shape by name.
    """
    function = tf.function(graph.function, autograph=False)
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in graph.inputs.items()
    }
    with fused.exporting():
        concrete = function.get_concrete_function(**specs)
    module = tf.Module()
    module.weights = [variable.value for variable in graph.model.variables]
    tf.saved_model.save(module, os.fspath(directory), signatures={"serving_default": concrete})
    return {
        "inputs": {name: describe(spec) for name, spec in specs.items()},
        "outputs": {
            name: describe(spec) for name, spec in sorted(concrete.structured_outputs.items())
        },
    }


def describe(spec: tf.TensorSpec) -> dict:
    """A specification for JSON; of unknown size is null."""
    return {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
