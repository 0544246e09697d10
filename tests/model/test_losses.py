import keras
import numpy as np
import pytest

from model.losses import BinaryCrossEntropy, PositionCrossEntropy, TokenCrossEntropy

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
LOG_PROBS = LOGITS - np.log(np.exp(LOGITS).sum(axis=-1, keepdims=True))
TARGETS = np.array([[1, -100, 3], [0, -100, -100]])
LOSSES = -np.array([LOG_PROBS[0, 0, 1] + LOG_PROBS[0, 2, 3], LOG_PROBS[1, 0, 0]])


def test_tokens_without_a_target_do_not_count():
    total = TokenCrossEntropy(reduction="sum")(TARGETS, LOGITS)
    assert float(total) == pytest.approx(LOSSES.sum(), rel=1e-5)
    mean = TokenCrossEntropy()(TARGETS, LOGITS)
    assert float(mean) == pytest.approx(LOSSES.sum() / 3, rel=1e-5)
    assert float(TokenCrossEntropy()(np.full((2, 3), -100), LOGITS)) == 0.0


def test_examples_may_have_weights():
    weights = np.array([0.0, 2.0])
    total = TokenCrossEntropy(reduction="sum")(TARGETS, LOGITS, sample_weight=weights)
    assert float(total) == pytest.approx(2 * LOSSES[1], rel=1e-5)
    targets, logits = np.array([1.0, 0.0]), np.array([0.5, -2.0], "float32")
    losses = np.log1p(np.exp([-0.5, -2.0]))
    assert float(BinaryCrossEntropy()(targets, logits)) == pytest.approx(losses.mean(), rel=1e-5)
    total = BinaryCrossEntropy(reduction="sum")(targets, logits, sample_weight=weights)
    assert float(total) == pytest.approx(2 * losses[1], rel=1e-5)


def test_positions_outside_the_row_do_not_count():
    expected = -LOG_PROBS[0, 0, 2]
    for outside in (4, -1):
        loss = PositionCrossEntropy()(np.array([2, outside]), LOGITS[:, 0])
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    both = PositionCrossEntropy(reduction="sum")(np.array([2, 3]), LOGITS[:, 0])
    assert float(both) == pytest.approx(expected - LOG_PROBS[1, 0, 3], rel=1e-5)


def test_classes_may_have_weights():
    weights = [1.0, 2.0, 0.0, 4.0]
    expected = -np.array([2 * LOG_PROBS[0, 0, 1] + 4 * LOG_PROBS[0, 2, 3], LOG_PROBS[1, 0, 0]])
    total = TokenCrossEntropy(weights, reduction="sum")(TARGETS, LOGITS)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-5)
    config = keras.losses.serialize(TokenCrossEntropy(weights, label_smoothing=0.1))["config"]
    assert (config["class_weights"], config["label_smoothing"]) == (weights, 0.1)


@pytest.mark.parametrize("axes", [1, 2])
def test_smoothed_labels(axes):
    targets, logits = (TARGETS, LOGITS) if axes == 2 else (TARGETS[:, 0], LOGITS[:, 0])
    one_hot = np.eye(4)[np.maximum(targets, 0)]
    kerass = keras.losses.CategoricalCrossentropy(True, label_smoothing=0.2, reduction=None)
    expected = (np.asarray(kerass(one_hot, logits)) * (targets >= 0)).sum()
    found = TokenCrossEntropy(label_smoothing=0.2, reduction="sum")(targets, logits)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [TokenCrossEntropy, PositionCrossEntropy, BinaryCrossEntropy])
def test_keras_can_save_them(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss(reduction="sum")))
    assert (type(again), again.reduction) == (loss, "sum")
