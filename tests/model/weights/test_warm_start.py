import shutil

import numpy as np
import pytest

from common.errors import InputError
from model.weights import warm_start
from model.weights.warm_start import find_models
from tests.support.small_models import VOCAB_SIZE, pretraining_model


def values(model):
    return {row.tf1_name: np.array(row.variable) for row in model.tensors()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and the directory of the run that left it."""
    directory = tmp_path_factory.mktemp("saved")
    model = pretraining_model(1)
    model.save_pretrained(directory)
    return directory, values(model)


def same(ours, theirs, names):
    """Which of the weights `names` are equal in two models."""
    return {name for name in names if np.array_equal(ours[name], theirs[name])}


def start(directory, objective=None, **fields):
    """A new model that starts from a directory; its weights before and after that."""
    model = pretraining_model(2, objective, **fields)
    before = values(model)
    warm_start.initialize(model.saved_models(), find_models(directory))
    return model, before, values(model)


def named(names, part):
    return {name for name in names if part in name}


def test_a_run_gives_every_weight(saved, warnings):
    directory, theirs = saved
    _, before, after = start(directory)
    matrices = {name for name, value in theirs.items() if value.ndim > 1}
    assert len(matrices) > 20 and same(before, theirs, matrices) == set()
    assert same(after, theirs, theirs) == set(theirs)
    assert warnings == []


def test_rows_without_a_token_are_left_out(tmp_path):
    larger = pretraining_model(1, vocab_size=VOCAB_SIZE + 4)
    larger.save_pretrained(tmp_path)
    theirs = {name: value[:VOCAB_SIZE] for name, value in values(larger).items()}
    model = pretraining_model(2)
    with pytest.raises(InputError, match="64 tokens, but this run has 60"):
        warm_start.initialize(model.saved_models(), find_models(tmp_path))
    warm_start.initialize(model.saved_models(), find_models(tmp_path), same_vocabulary=True)
    ours = {name: value[:VOCAB_SIZE] for name, value in values(model).items()}
    assert same(ours, theirs, theirs) == set(theirs)
    smaller = pretraining_model(2, vocab_size=VOCAB_SIZE + 5)
    with pytest.raises(InputError, match="64 tokens, but this run has 65"):
        warm_start.initialize(smaller.saved_models(), find_models(tmp_path), same_vocabulary=True)


def test_the_discriminator_alone(saved, warnings):
    directory, theirs = saved
    _, before, after = start(directory / "discriminator")
    generator = {name for name in theirs if name.startswith("generator")}
    assert 20 < len(generator) < len(theirs) - 20
    assert same(after, theirs, theirs) >= theirs.keys() - generator
    assert same(after, before, generator) == generator
    (warning,) = warnings
    assert f"{directory / 'discriminator'}: no generator/" in warning


def test_an_encoder_without_heads(tmp_path, warnings):
    encoder = pretraining_model(3).discriminator
    encoder.save_pretrained(tmp_path)
    _, before, after = start(tmp_path)
    theirs, heads = values(encoder), named(after, "predictions")
    assert same(after, theirs, theirs) == set(theirs)
    assert len(heads) == 9 and same(after, before, heads) == heads
    assert len(warnings) == 2 and "no generator/" in warnings[1]
    assert "missing: discriminator_predictions.dense.weight (128, 128)" in warnings[0]


def test_between_objectives(saved, tmp_path, warnings):
    directory, theirs = saved
    masked, _, after = start(directory, {"electra_objective": False})
    encoder = named(theirs, "electra/")
    assert same(after, theirs, encoder) == encoder
    assert len(warnings) == 1 and "missing: generator_predictions" in warnings[0]
    masked.save_pretrained(tmp_path)
    _, _, after = start(tmp_path)
    assert same(after, theirs, encoder) == encoder
    _, _, after = start(directory, {"uniform_generator": True})
    assert same(after, theirs, after) == set(after)


def test_shared_embeddings_are_the_discriminators(saved, tmp_path):
    directory, theirs = saved
    shutil.copytree(directory / "discriminator", tmp_path / "discriminator")
    other = pretraining_model(7)
    other.generator.save_pretrained(tmp_path / "generator")
    _, _, after = start(tmp_path)
    shared, generator = named(theirs, "electra/embeddings/"), named(theirs, "generator/")
    assert len(shared) == 5 and same(after, theirs, shared) == shared
    assert same(after, values(other), generator) == generator


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"intermediate_size": 256}, r"intermediate\.dense\.weight: \(2, 64, 256\) .* 128\)"),
        ({"num_hidden_layers": 2}, r"missing: encoder\.layer\.1\.attention\.self\.query\.weight"),
        ({"max_position_embeddings": 16}, r"position_embeddings\.weight: \(32, 128\) .* \(16, "),
        ({"vocab_size": 61}, r"a vocabulary of 60 tokens, .* 61"),
        ({"hidden_act": "relu"}, r"`hidden_act` is 'gelu' in .*, but 'relu'"),
    ],
)
def test_another_network(saved, fields, message):
    with pytest.raises(InputError, match=message):
        start(saved[0], **fields)


def test_nothing_to_start_from(saved, tmp_path):
    with pytest.raises(InputError, match=r"`init_checkpoint`: .*missing is neither"):
        start(tmp_path / "missing")
    (tmp_path / "discriminator").mkdir()
    with pytest.raises(InputError, match=r"no such file: .*discriminator/config\.json"):
        start(tmp_path)
