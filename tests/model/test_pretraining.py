import keras
import numpy as np
import pytest
import tensorflow as tf

from model.config import max_predictions_per_seq
from model.masking import mask_tokens, replace_positions, sample_tokens
from model.pretraining import HistogramAUC
from model.training.optimizer import create_optimizer
from tests.support.eager import eagerly
from tests.support.small_models import (
    NO_DROPOUT,
    SPECIAL,
    VOCAB_SIZE,
    batch,
    fit_pretraining,
    pretraining_model,
)


def as_numpy(outputs):
    return {name: np.asarray(value) for name, value in outputs.items()}


def masked(inputs, seed=0, mask_prob=0.15):
    return as_numpy(mask_tokens(inputs, mask_prob, SPECIAL, keras.random.SeedGenerator(seed)))


@pytest.mark.parametrize(("length", "expected"), [(128, 19), (512, 79), (32, 4), (5, 1)])
def test_max_predictions(length, expected):
    assert max_predictions_per_seq(length, 0.15) == expected
    assert max_predictions_per_seq(length, 0.9999) == length


def test_masking_rates_over_100_000_tokens():
    rows = 800  # of 128 tokens
    inputs = batch([128] * rows)
    out = masked(inputs)
    chosen = out["masked_lm_weights"].sum()
    assert chosen == 19 * rows  # 19 of 128, every time
    hidden = (out["masked_input_ids"] == SPECIAL.mask_id).sum()
    assert abs(hidden / chosen - 0.85) < 0.01
    assert abs(chosen / (rows * 128) - 19 / 128) < 0.01


def test_masked_positions_are_distinct_and_never_special_or_padding():
    lengths = np.random.default_rng(1).integers(4, 65, 300)
    inputs = batch(lengths, 64)
    out = masked(inputs)
    for row in range(300):
        count = int(out["masked_lm_weights"][row].sum())
        wanted = min(max(1, round(float(np.float32(lengths[row]) * np.float32(0.15)))), 9)
        assert count == min(wanted, lengths[row] - 3)
        positions = out["masked_lm_positions"][row][:count]
        assert len(set(positions)) == count
        assert inputs["input_mask"][row][positions].all()
        ids = inputs["input_ids"][row][positions]
        assert not np.isin(ids, [SPECIAL.cls_id, SPECIAL.sep_id, SPECIAL.mask_id]).any()
        assert (out["masked_lm_ids"][row][:count] == ids).all()
        changed = np.flatnonzero(out["masked_input_ids"][row] != inputs["input_ids"][row])
        assert set(changed) <= set(positions)
        assert (out["masked_input_ids"][row][changed] == SPECIAL.mask_id).all()


def test_every_candidate_is_drawn_equally_often():
    inputs = {name: np.repeat(value, 2000, axis=0) for name, value in batch([23]).items()}
    out = masked(inputs)  # 3 of the 20 candidates each time
    drawn = out["masked_lm_positions"][out["masked_lm_weights"] > 0]
    counts = np.bincount(drawn, minlength=23)
    assert counts[[0, 2, 22]].sum() == 0
    share = counts[counts > 0] / counts.sum()
    assert len(share) == 20
    assert np.abs(share - 1 / 20).max() < 0.01


def test_a_row_without_candidates_masks_nothing():
    inputs = {"input_ids": [[2, 3, 3, 0]], "input_mask": [[1, 1, 1, 0]], "segment_ids": [[0] * 4]}
    inputs = {name: np.array(value, "int32") for name, value in inputs.items()}
    out = masked(inputs)
    assert out["masked_lm_weights"].sum() == 0
    assert (out["masked_input_ids"] == inputs["input_ids"]).all()


def test_the_same_seed_gives_the_same_batch():
    inputs = batch([64] * 8)
    first, second, other = masked(inputs, 7), masked(inputs, 7), masked(inputs, 8)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert (first["masked_input_ids"] != other["masked_input_ids"]).any()


def test_replace_positions():
    out = replace_positions(
        np.array([[10, 11, 12], [13, 14, 15]]),
        np.array([[2, 0], [1, 0]]),
        np.array([[1.0, 1.0], [1.0, 0.0]]),
        np.array([[7, 8], [30521, 9]]),
    )
    np.testing.assert_array_equal(out, [[8, 11, 7], [13, 30521, 15]])


def sampled(logits, uniforms, temperature=1.0, disallowed=None):
    logits, uniforms = np.float32(logits), np.float32(uniforms)
    return np.asarray(sample_tokens(logits, temperature, uniforms, disallowed))


def test_sampling_follows_the_tempered_softmax():
    logits = np.tile(np.log([0.1, 0.2, 0.7]).astype("float32"), (1, 20_000, 1))
    uniforms = np.random.default_rng(0).random((1, 20_000), "float32")
    for temperature in (1.0, 0.5):
        expected = np.array([0.1, 0.2, 0.7]) ** (1 / temperature)
        drawn = sampled(logits, uniforms, temperature)
        share = np.bincount(drawn[0], minlength=3) / drawn.size
        np.testing.assert_allclose(share, expected / expected.sum(), atol=0.01)
    drawn = sampled(logits, uniforms, 1.0, np.full((1, 20_000), 2))
    np.testing.assert_allclose(np.bincount(drawn[0])[:2] / drawn.size, [1 / 3, 2 / 3], atol=0.01)


@pytest.mark.parametrize("vocab", [2, 5, 16, 61, 300])
def test_evenly_spread_uniforms_give_each_token_its_exact_share(vocab):
    logits = np.random.default_rng(vocab).normal(size=vocab) * 2
    uniforms = (np.arange(100_000) + 0.5) / 100_000
    drawn = sampled(np.tile(logits, (1, 100_000, 1)), uniforms[None])
    share = np.bincount(drawn[0], minlength=vocab) / 100_000
    expected = np.exp(logits) / np.exp(logits).sum()
    # The grid puts up to one point too many or too few into a token's stretch.
    np.testing.assert_allclose(share, expected, atol=2.1e-5)


def test_no_uniform_draws_a_token_of_probability_zero():
    random = np.random.default_rng(0)
    uniforms = [0, 1e-45, 1e-30, 1e-7, 0.3, 0.5, 1 - 2**-23, 1 - 2**-24, 1]
    for vocab in (2, 61, 1000):
        possible = random.random((50, vocab)) < 0.05
        possible[np.arange(50), random.integers(0, vocab, 50)] = True
        logits = np.where(possible, random.normal(size=possible.shape) * 5, -1e4)
        drawn = sampled(np.tile(logits[:, None], (1, 9, 1)), np.tile(uniforms, (50, 1)))
        assert np.take_along_axis(possible, drawn, axis=1).all()


def test_generator_learns_nothing_from_the_discriminator_but_through_the_embeddings():
    model = pretraining_model()
    inputs = {name: tf.constant(value) for name, value in batch([32] * 4).items()}
    with tf.GradientTape() as tape:
        loss = model(inputs, training=True)["rtd_loss"]
    shared = {id(v) for v in model.discriminator.embeddings.trainable_variables}
    generator = model.generator.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in generator])
    touched = {id(v) for v, g in zip(generator, gradients, strict=True) if g is not None}
    assert touched == shared


def test_sampled_tokens_reach_the_discriminator():
    model = pretraining_model()
    out = as_numpy(model({k: tf.constant(v) for k, v in batch([32] * 8).items()}))
    chosen = out["masked_lm_weights"] > 0
    replaced = (out["sampled_ids"] != out["masked_lm_ids"]) & chosen
    assert out["is_replaced"].sum() == replaced.sum() > 0


OBJECTIVES = {
    "electra": {},
    "mlm": {"electra_objective": False},
    "uniform": {"uniform_generator": True},
    "tied": {"untied_generator": False},
    "own_embeddings": {"untied_generator_embeddings": True},
    "half_layers": {"generator_layers": 0.5},
    "disallow_correct": {"disallow_correct": True, "temperature": 2.0},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_with_fit(name):
    # Of two layers, half can be the generator's.
    layers = 2 if name == "half_layers" else 1
    model = pretraining_model(objective=OBJECTIVES[name], num_hidden_layers=layers)
    model.compile(optimizer=create_optimizer(5e-3, 40), jit_compile=False)
    before = [np.asarray(v) for v in model.trainable_variables]
    history = fit_pretraining(model, batch([32] * 8), steps=8, epochs=2)
    assert history["loss"][1] < history["loss"][0]
    after = [np.asarray(v) for v in model.trainable_variables]
    unchanged = [
        v.path
        for v, a, b in zip(model.trainable_variables, before, after, strict=True)
        if (a == b).all()
    ]
    assert unchanged == []
    if name == "uniform":
        assert history["mlm_loss"][1] == pytest.approx(np.log(VOCAB_SIZE), abs=1e-4)
    with eagerly():
        scores = [
            model.evaluate(batch([32] * 8), batch_size=4, verbose=0, return_dict=True)
            for _ in range(2)
        ]
    assert scores[0] == scores[1]  # the same masks and samples every time
    assert 0 <= scores[0]["mlm_accuracy"] <= 1
    assert ("rtd_auc" in scores[0]) == (name != "mlm")


@pytest.mark.parametrize(
    ("name", "networks"),
    [("electra", 2), ("mlm", 1), ("uniform", 1), ("tied", 1), ("own_embeddings", 2)],
)
def test_variables_of_every_objective(name, networks):
    model = pretraining_model(objective=OBJECTIVES[name])
    names = [row.tf1_name for row in model.tensors()]
    assert len(names) == len(set(names)) == len(model.trainable_variables)
    assert {id(row.variable) for row in model.tensors()} == {
        id(v) for v in model.trainable_variables
    }
    assert len(model.saved_models()) == networks
    for _, rows, _ in model.saved_models().values():
        assert len({row.hf_name for row in rows}) == len({id(row.variable) for row in rows})
    own = "generator/embeddings/word_embeddings" in names
    assert own == (name == "own_embeddings")
    assert any(n.startswith("discriminator_predictions/") for n in names) == (name != "mlm")
    assert any(n.startswith("generator_predictions/") for n in names) == (name != "uniform")


def trained(**options):
    """The losses of eight steps without dropout on padded rows, and the model after them."""
    model = pretraining_model(options=options, **NO_DROPOUT)
    scaled = options.get("dtype") == "mixed_float16"
    optimizer = create_optimizer(1e-3, 40, dynamic_loss_scale=scaled)
    model.compile(optimizer=optimizer, jit_compile=False)
    if scaled:
        optimizer.loss_scale.assign(64.0)  # from the usual one, the first steps would overflow
    lengths = [9, 12, 30, 32, 16, 10, 20, 31]
    return fit_pretraining(model, batch(lengths, 32), steps=1, epochs=8), model


@pytest.fixture(scope="module")
def usual():
    return trained()


def test_a_gradient_in_parts_is_the_whole_batchs(usual):
    history, model = trained(gradient_accumulation_steps=4)
    assert history.keys() == usual[0].keys()
    for name, values in usual[0].items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    for variable, other in zip(
        model.trainable_variables, usual[1].trainable_variables, strict=True
    ):
        np.testing.assert_allclose(variable, other, atol=1e-5, err_msg=variable.path)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_the_precision_trains_alike(usual, dtype):
    history, model = trained(dtype=dtype)
    # A sampled token may differ from float32's, and with it a label.
    np.testing.assert_allclose(history["mlm_loss"], usual[0]["mlm_loss"], rtol=0.02)
    np.testing.assert_allclose(history["loss"], usual[0]["loss"], rtol=0.1)
    assert history["loss"][-1] < history["loss"][0]
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert model.discriminator.encoder_layers[0].compute_dtype == dtype.removeprefix("mixed_")
    assert int(model.optimizer.iterations) == 8


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_layers_that_are_computed_again_change_nothing(options):
    """Dropout included: it draws the same numbers again."""
    found = []
    for remat in (False, True):
        model = pretraining_model(options=options, num_hidden_layers=2)
        model.set_remat(remat)
        model.compile(optimizer=create_optimizer(1e-3, 40), jit_compile=False)
        history = fit_pretraining(model, batch([9, 12, 30, 32], 32), steps=1, epochs=3)
        found.append([history["loss"], *map(np.array, model.trainable_variables)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_histogram_has_kerass_auc():
    draw = np.random.default_rng(0)
    ours, theirs = HistogramAUC(), keras.metrics.AUC()
    for _ in range(3):
        labels = draw.integers(0, 2, (500, 1)).astype("float32")
        scores = np.clip(draw.normal(0.4 + 0.2 * labels, 0.3), 0, 1).astype("float32")
        scores[:5, 0] = 0, 1, 0.5, 1 / 199, 198 / 199
        weights = draw.integers(0, 2, 500).astype("float32")
        for metric in (ours, theirs):
            metric.update_state(labels, scores, sample_weight=weights)
    assert float(ours.result()) == pytest.approx(float(theirs.result()), abs=1e-6)
    for variable, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(variable, other, atol=1e-4)
