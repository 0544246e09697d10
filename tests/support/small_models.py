"""One small model of each kind, and batches that it can be trained on."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForMultipleChoice,
    ConvBertForPreTraining,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
)
from model.config import Objective
from model.masking import SpecialTokens
from model.training.optimizer import create_optimizer

VOCAB_SIZE = 60
SPECIAL = SpecialTokens(cls_id=2, sep_id=3, mask_id=4)
CONFIG = ConvBertConfig(
    vocab_size=VOCAB_SIZE,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=48,
    linear_groups=2,
    max_position_embeddings=32,
    initializer_range=0.3,
    hidden_dropout_prob=0.01,
)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LENGTHS = np.array([12, 7, 9, 4])
THREE_LABELS = {"num_labels": 3, "id2label": ("a", "b", "c")}
# For each kind of model: its class, with fields of its configuration and arguments of the class.
KINDS = {
    "encoder": (ConvBertModel, {}),
    "masked tokens": (ConvBertForMaskedLM, {}),
    "one label": (ConvBertForSequenceClassification, THREE_LABELS),
    "mlp": (ConvBertForSequenceClassification, {"classifier_head": "mlp"}),
    "several labels": (
        ConvBertForSequenceClassification,
        THREE_LABELS | {"problem_type": "multi_label_classification"},
    ),
    "regression": (ConvBertForSequenceClassification, {"num_labels": 1}),
    "tokens": (ConvBertForTokenClassification, {"num_labels": 5}),
    "question": (ConvBertForQuestionAnswering, {}),
    "joint question": (ConvBertForQuestionAnswering, {"joint_prediction": True, "beam_size": 3}),
    "choice": (ConvBertForMultipleChoice, {"summary_type": "last"}),
}


def network(**fields):
    """`CONFIG` with other fields."""
    return dataclasses.replace(CONFIG, **fields)


def make(kind, seed=0, **options):
    """A new model; `options` are fields of its configuration and arguments of its class."""
    keras.utils.set_random_seed(seed)
    model_class, own = KINDS[kind]
    options = own | options
    fields = {name: options.pop(name) for name in [*options] if hasattr(CONFIG, name)}
    return model_class(network(**fields), **options)


def batch(lengths=LENGTHS, width=None, seed=0):
    """Rows [CLS] token [SEP] tokens [SEP] of the given lengths, padded to `width`."""
    random = np.random.default_rng(seed)
    lengths, width = np.array(lengths), width or max(lengths)
    ids = random.integers(5, VOCAB_SIZE, (len(lengths), 128))[:, :width]
    ids[:, 0], ids[:, 2] = SPECIAL.cls_id, SPECIAL.sep_id
    ids[np.arange(len(lengths)), lengths - 1] = SPECIAL.sep_id
    mask = (np.arange(width) < lengths[:, None]).astype("int32")
    segments = (np.arange(width) >= 3).astype("int32") * mask
    return {"input_ids": (ids * mask).astype("int32"), "input_mask": mask, "segment_ids": segments}


def inputs_of(kind, **options):
    """`batch`; for multiple choice, as two examples of two choices each."""
    inputs = batch(**options)
    if kind == "choice":
        inputs = {name: array.reshape(2, 2, -1) for name, array in inputs.items()}
    return inputs


def training_batch(kind):
    """Inputs and targets."""
    random = np.random.default_rng(1)
    inputs = inputs_of(kind)
    labels = random.integers(0, 5, (4, 12))
    labels[(batch()["input_mask"] == 0) | (random.random(labels.shape) < 0.3)] = -100
    spans = {"start_logits": np.array([4, 3, 0, 3]), "end_logits": np.array([7, 3, 0, 3])}
    if kind == "joint question":
        inputs["start_positions"] = spans["start_logits"].astype("int32")
        spans["answerable_logits"] = np.array([0, 0, 1, 0], "float32")
    targets = {
        "encoder": np.zeros((4, 12, 32), "float32"),
        "masked tokens": labels,
        "one label": np.array([2, 0, 1, 1]),
        "mlp": np.array([1, 0, 1, 1]),
        "several labels": np.eye(4, 3, k=1),
        "regression": np.array([0.1, 1, 0, 0.5]),
        "tokens": labels,
        "question": spans,
        "joint question": spans,
        "choice": np.array([1, 0]),
    }
    return inputs, targets[kind]


def pretraining_model(seed=1, objective=None, options=None, **fields):
    """A model for pre-training of one layer of the size "tiny", which `fields` change."""
    fields = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 32,
        "num_hidden_layers": 1,
    } | fields
    keras.utils.set_random_seed(seed)
    return ConvBertForPreTraining(
        ConvBertConfig.from_size("tiny", **fields),
        Objective(**({"generator_hidden_size": 0.5} | (objective or {}))),
        SPECIAL,
        seed=seed,
        **(options or {}),
    )


def compiled_pretraining_model(seed=1, steps_per_execution=1, **fields):
    """A `pretraining_model` with an optimizer for 20 steps."""
    model = pretraining_model(seed, **fields)
    optimizer = create_optimizer(1e-3, 20, 4)
    model.compile(optimizer, jit_compile=False, steps_per_execution=steps_per_execution)
    return model


def moments(optimizer):
    """(first, second) for each variable that the optimizer updates, in the variable's shape."""
    shapes, found = [tuple(variable.shape) for variable in optimizer._trainable_variables], {}
    moments = zip(optimizer.first_moments, optimizer.second_moments, strict=True)
    for group, pair in zip(optimizer.groups, moments, strict=True):
        ends = np.cumsum([math.prod(shapes[i]) for i in group])[:-1]
        parts = zip(*(np.split(np.asarray(moment), ends) for moment in pair), strict=True)
        for i, both in zip(group, parts, strict=True):
            found[i] = tuple(part.reshape(shapes[i]) for part in both)
    return [found[i] for i in range(len(shapes))]


def fit_pretraining(model, inputs, steps, callbacks=(), epochs=1):
    """`steps` steps on the same batch; returns the history."""
    dataset = tf.data.Dataset.from_tensors(inputs).repeat(steps * epochs)
    return model.fit(
        dataset,
        epochs=epochs,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history
