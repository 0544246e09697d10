import pytest

from common.errors import InputError
from configure_pretraining import RECIPES, PretrainingConfig
from model.config import MODEL_SIZES, Objective, load_hparams


@pytest.mark.parametrize(
    ("size", "rate", "batch", "generator"),
    [("small", 3e-4, 128, 1 / 4), ("medium-small", 5e-4, 128, 1 / 4), ("base", 2e-4, 256, 1 / 3)],
)
def test_a_size_brings_the_papers_recipe(size, rate, batch, generator):
    config = PretrainingConfig.from_hparams({"model_size": size})
    assert (config.learning_rate, config.train_batch_size) == (rate, batch)
    assert config.objective() == Objective(generator_hidden_size=generator)
    assert (config.num_train_steps, config.num_warmup_steps) == (1_000_000, 10_000)


def test_every_size_has_a_recipe():
    assert set(RECIPES) == set(MODEL_SIZES)


def test_the_default_is_medium_small():
    assert PretrainingConfig() == PretrainingConfig.from_hparams({})
    assert PretrainingConfig().model_size == "medium-small"


def test_hparams_win_over_the_size():
    config = PretrainingConfig.from_hparams(
        {
            "model_size": "base",
            "learning_rate": 1,
            "generator_hidden_size": 0.5,
            "embedding_size": 64,
            "mask_padding": False,
            "model_hparam_overrides": {"num_hidden_layers": 3},
        }
    )
    assert (config.learning_rate, config.train_batch_size) == (1.0, 256)
    assert config.objective().generator_hidden_size == 0.5
    network = config.model_config(vocab_size=77)
    assert (network.vocab_size, network.embedding_size, network.num_hidden_layers) == (77, 64, 3)
    assert not network.mask_padding


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"learning_rat": 1}, r"unknown hyper-parameter `learning_rat`\. Did you mean `learning_"),
        ({"model_size": "large"}, '`model_size` must be one of "tiny", "small"'),
        ({"train_batch_size": "16"}, "`train_batch_size` must be an integer or null"),
        ({"train_batch_size": 0}, "`train_batch_size` must be at least 1"),
        ({"num_train_steps": 1.5}, "`num_train_steps` must be an integer"),
        ({"learning_rate": -1.0}, "`learning_rate` must be above 0"),
        ({"num_warmup_steps": -1}, "`num_warmup_steps` must be at least 0"),
        ({"mask_prob": 0.0}, "`mask_prob` must be above 0 and below 1"),
        ({"do_train": False}, "`do_train` must be true"),
        ({"max_seq_length": 3}, "`max_seq_length` must be at least 8"),
        ({"seed": 2**32}, "`seed` must be at least 0 and at most 4294967295"),
        ({"learning_rate": float("inf")}, "`learning_rate` must be above 0"),
        ({"weight_decay_rate": float("inf")}, "`weight_decay_rate` must be at least 0"),
        ({"num_train_steps": 10**30}, r"`num_train_steps` must be below 2\^63"),
        (
            {"num_warmup_steps": 9, "num_train_steps": 9},
            r"`num_warmup_steps` must be below .* \(9\)",
        ),
        ({"generator_hidden_size": 0.3}, "`generator_hidden_size` 0.3: `hidden_size` must be"),
        ({"conv_kernel_size": 4}, "`conv_kernel_size` must be odd"),
        ({"model_hparam_overrides": {"hidden_sise": 4}}, "Did you mean `hidden_size`"),
        ({"model_hparam_overrides": {"vocab_size": 4}}, "`vocab_size` is not"),
        ({"model_hparam_overrides": [1]}, "`model_hparam_overrides` must be an object"),
    ],
)
def test_wrong_hparams_are_named(hparams, message):
    with pytest.raises(InputError, match=message):
        PretrainingConfig.from_hparams(hparams)


def test_long_hparams_are_not_repeated():
    with pytest.raises(InputError, match=r"no such file: x+… ") as caught:
        load_hparams("x" * 200_000)
    assert len(str(caught.value)) < 300
