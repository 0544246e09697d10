import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from model.training.evaluation import PeriodicEvaluation, StopEvaluation
from tests.support.pretraining import SCORES
from tests.support.small_models import batch, compiled_pretraining_model, fit_pretraining


@pytest.fixture(scope="module")
def model():
    return compiled_pretraining_model()


def rows_of(count, seed):
    """Rows of which most is padding."""
    return batch([12] * count, width=32, seed=seed)


def evaluation_data(batches=2):
    return tf.data.Dataset.from_tensor_slices(rows_of(batches * 64, seed=5)).batch(64)


def test_scores_are_the_same_every_time_and_of_real_tokens(model):
    kernel = model.discriminator_head.prediction.kernel
    kernel.assign(30 * kernel)  # else the probabilities are too near for AUC's 200 thresholds
    scores = model.evaluate(evaluation_data(1), verbose=0, return_dict=True)
    assert scores.keys() == SCORES
    assert model.evaluate(evaluation_data(1), verbose=0, return_dict=True) == scores
    model.eval_random.state.assign(keras.random.SeedGenerator(model.seed + 1).state)
    outputs = model(rows_of(64, seed=5), training=False)
    labels, logits, weights = (
        np.array(outputs[name]).ravel() for name in ("is_replaced", "rtd_logits", "rtd_weights")
    )
    auc = roc_auc_score(labels, logits, sample_weight=weights)
    assert scores["rtd_auc"] == pytest.approx(auc, abs=0.01)
    said = (logits > 0) & (weights > 0)
    assert scores["rtd_recall"] == pytest.approx(labels[said].sum() / labels.sum(), abs=1e-4)
    assert scores["rtd_precision"] == pytest.approx(labels[said].mean(), abs=1e-4)


def test_padding_is_not_scored(model):
    padded, noisy = rows_of(64, seed=5), rows_of(64, seed=5)
    noise = np.random.default_rng(7).integers(5, 60, noisy["input_ids"].shape)
    noisy["input_ids"] = np.where(noisy["input_mask"], noisy["input_ids"], noise).astype("int32")
    scores, others = (
        model.evaluate(tf.data.Dataset.from_tensors(each), verbose=0, return_dict=True)
        for each in (padded, noisy)
    )
    assert others == pytest.approx(scores, abs=1e-5)


def test_the_logs_means_are_put_back(model):
    seen, written = [], []

    class Means(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([float(metric.result()) for metric in self.model.metrics])

    def evaluate():
        scores = model.evaluate(evaluation_data(), verbose=0, return_dict=True)
        assert scores["loss"] != seen[-1][0]
        return scores

    def write(scores, seconds):
        written.append((evaluation.step, scores.keys(), seconds > 0))

    evaluation = PeriodicEvaluation(evaluate, write, every=2, first_step=5, last_step=10)
    fit_pretraining(model, rows_of(4, seed=6), 5, callbacks=[Means(), evaluation, Means()])
    assert written == [(step, SCORES, True) for step in (6, 8, 10)]
    assert len(seen) == 10 and seen[0::2] == seen[1::2]
    assert len({means[0] for means in seen}) == 5


def test_a_stopped_evaluation_is_given_up(model):
    asked = []

    def should_stop():
        asked.append(True)
        return len(asked) == 2

    stop = StopEvaluation(should_stop)
    model.evaluate(evaluation_data(4), verbose=0, callbacks=[stop])
    assert stop.stopped and len(asked) == 2
    again = StopEvaluation(lambda: False)
    model.evaluate(evaluation_data(4), verbose=0, callbacks=[again])
    assert not again.stopped
