"""Rows and tokens that fill batches of few shapes, or parts of a batch, do not change anything."""

import keras
import numpy as np
import pytest

from data.tasks.batching import IGNORED, Features, gather_outputs, join_features, training_batches
from model import JointModel
from tests.support.small_models import NO_DROPOUT, VOCAB_SIZE, make

LENGTHS = [5, 9, 7, 12, 6, 17, 4]  # of examples; 7 fill no batches of 4


def features_of(kind):
    """Examples of a kind of model, of up to 24 tokens."""
    random = np.random.default_rng(0)
    num_rows = 2 if kind == "choice" else 1
    splits = np.concatenate([[0], np.cumsum(np.repeat(LENGTHS, num_rows))])
    ids = random.integers(5, VOCAB_SIZE, splits[-1]).astype(np.int32)
    segments = np.ones_like(ids)
    segments[splits[:-1]] = 0
    spans = {"start_logits": np.arange(1, 4).repeat(3)[:7], "end_logits": np.array([3] * 7)}
    classes = np.arange(7, dtype=np.int32) % 2
    targets = {
        "tokens": np.where(random.random(len(ids)) < 0.3, IGNORED, ids % 5).astype(np.int32),
        "several labels": np.eye(7, 3, dtype=np.float32),
        "regression": random.random((7, 1)).astype(np.float32),
        "joint question": spans | {"answerable_logits": classes.astype(np.float32)},
    }.get(kind, classes)
    inputs = {"start_positions": spans["start_logits"]} if "question" in kind else {}
    return Features(*(ids, segments, splits, targets, 24), inputs=inputs, rows_per_example=num_rows)


def model_and_features(kind):
    """A new model with dropout off, and its examples."""
    if kind != "joint":
        return make(kind, **NO_DROPOUT), features_of(kind)
    encoder = make("encoder", **NO_DROPOUT)
    names = ("one label", "regression", "tokens", "joint question")
    heads = {name: make(name, convbert=encoder, **NO_DROPOUT) for name in names}
    return JointModel(heads), join_features({name: features_of(name) for name in names})


def trained(kind, parts=1, **options):
    """The weights after a pass over the examples."""
    model, features = model_and_features(kind)
    model.gradient_accumulation_steps = parts
    model.compile(keras.optimizers.SGD(0.02), **model.objective(), run_eagerly=True)
    batches = training_batches(features, 4, 1.0, seed=0, **options)
    model.fit(batches.dataset(), shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "kind",
    ["one label", "several labels", "regression", "tokens", "joint question", "choice", "joint"],
)
def test_training(kind):
    plain = trained(kind)
    for one, other in zip(plain, trained(kind, parts=2, few_shapes=True), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", ["one label", "tokens", "joint question", "choice"])
def test_predictions(kind):
    model, features = model_and_features(kind)
    model.compile(run_eagerly=True)
    shared = (features, model.predict_on_batch, model.token_outputs, 4)
    plain, few = (gather_outputs(*shared, few_shapes=few_shapes) for few_shapes in (False, True))
    if not isinstance(plain, dict):
        plain, few = {"logits": plain}, {"logits": few}
    for name, array in plain.items():
        np.testing.assert_allclose(array, few[name], rtol=1e-6, atol=1e-6, err_msg=name)
