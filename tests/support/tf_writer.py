"""Writes weights as transformers 4's TFConvBert classes did, from tensors in PyTorch's layout.

Names and layouts are stated here once more, one by one, for the reader to be tested against: see
modeling_tf_convbert.py and `save_weights` of modeling_tf_utils.py in transformers 4.
"""

import re

import h5py
import numpy as np

MODEL_NAMES = {  # Keras's name of a first instance of each class
    "ConvBertModel": "tf_conv_bert_model",
    "ConvBertForMaskedLM": "tf_conv_bert_for_masked_lm",
    "ConvBertForSequenceClassification": "tf_conv_bert_for_sequence_classification",
    "ConvBertForTokenClassification": "tf_conv_bert_for_token_classification",
    "ConvBertForQuestionAnswering": "tf_conv_bert_for_question_answering",
    "ConvBertForMultipleChoice": "tf_conv_bert_for_multiple_choice",
}
UNTIED = "generator_lm_head.weight"  # PyTorch's name for the tied table; TensorFlow has no other
NOT_SAVED = (UNTIED, "convbert.embeddings.position_ids", "embeddings.position_ids")


def variables(tensors, architecture):
    """Names as a tf.keras variable has them, without the model's, and values in TF's layout."""
    found = {}
    for name, value in tensors.items():
        if name not in NOT_SAVED:
            prefix = "convbert." if architecture == "ConvBertModel" else ""
            tf_name, tf_value = variable(prefix + name, value)
            found[f"{tf_name}:0"] = np.ascontiguousarray(tf_value)
    return found


def variable(name, value):
    """One tensor's name and value in TensorFlow."""
    *layers, leaf = name.split(".")
    scope = re.sub(r"/layer/(\d+)/", r"/layer_._\1/", "/".join(layers))
    if layers[-1] == "word_embeddings":
        return f"{scope}/weight", value
    if layers[-1] in ("token_type_embeddings", "position_embeddings"):
        return f"{scope}/embeddings", value
    if layers[-1] == "LayerNorm":
        return f"{scope}/{'gamma' if leaf == 'weight' else 'beta'}", value
    if layers[-1] == "depthwise":  # [in, 1, K] → [K, in, 1]
        return f"{scope.removesuffix('/depthwise')}/depthwise_kernel", np.moveaxis(value, 2, 0)
    if layers[-1] == "pointwise":  # [out, in, 1] → [1, in, out]
        return f"{scope.removesuffix('/pointwise')}/pointwise_kernel", value[:, :, 0].T[None]
    if leaf == "bias":  # PyTorch keeps that of the separable convolution as a column
        return f"{scope}/bias", value.reshape(-1)
    if value.ndim == 3:  # GroupedLinearLayer: [G, in / G, out / G] → [out / G, in / G, G]
        return f"{scope}/kernel", np.moveaxis(value, (0, 1, 2), (2, 1, 0))
    return f"{scope}/kernel", value.T


def write_h5(path, tensors, architecture):
    """A file as Keras 2's `save_weights` makes it: a group for each of the model's layers."""
    by_layer = {}
    for name, value in variables(tensors, architecture).items():
        weights = by_layer.setdefault(name.split("/")[0], {})
        weights[f"{MODEL_NAMES[architecture]}/{name}"] = value
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in by_layer]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.15.0"
        file.create_group("top_level_model_weights").attrs["weight_names"] = []
        for layer, weights in by_layer.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group.create_dataset(name, data=value)
