"""Hyper-parameters of pre-training: the defaults < the size's recipe < `--hparams`.

The names are the original's. The recipes are the paper's (appendix A) and the release's: 1,000,000
steps of 128 tokens, with the learning rates and batch sizes in `RECIPES`.
"""

import dataclasses
from typing import Any

from common.errors import InputError
from common.fields import MAX_SEED, override, require, setting
from model.config import MODEL_SIZES, ConvBertConfig, Execution, Objective

# The default learning rate and batch size of each model size.
RECIPES = {
    "tiny": {"learning_rate": 1e-3, "train_batch_size": 32},
    "small": {"learning_rate": 3e-4, "train_batch_size": 128},
    "medium-small": {"learning_rate": 5e-4, "train_batch_size": 128},
    "base": {"learning_rate": 2e-4, "train_batch_size": 256},
}


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Objective, Execution):
    """All hyper-parameters of a run; None stands for the size's own value."""

    model_size: str = setting("medium-small", "a row of the table of sizes", choices=MODEL_SIZES)
    model_hparam_overrides: dict = setting({}, "other fields of the network's configuration")
    embedding_size: int | None = setting(None, "width of the embeddings; null: the size's")
    conv_kernel_size: int | None = setting(None, "width of the convolutions; null: the size's")
    conv_type: str | None = setting(None, "sdconv or noconv; null: the size's")
    head_ratio: int | None = setting(None, "divides the number of heads; null: the size's")
    linear_groups: int | None = setting(None, "groups of the feed-forward layers; null: the size's")
    mask_padding: bool = setting(True, "padding changes no output; false: as the original")
    generator_hidden_size: float | None = setting(
        None, "generator's share of the width; null: the size's", above=0, most=1
    )
    do_train: bool = setting(True, "train")
    do_eval: bool = setting(False, "evaluate at the end, or without `do_train`")
    learning_rate: float | None = setting(None, "peak learning rate; null: the size's", above=0)
    lr_decay_power: float = setting(1.0, "power of the polynomial decay; 1: linear", least=0)
    weight_decay_rate: float = setting(0.01, "decoupled weight decay", least=0)
    num_warmup_steps: int = setting(10_000, "steps over which the learning rate rises", least=0)
    num_train_steps: int = setting(1_000_000, "steps of the whole run", least=1)
    train_batch_size: int | None = setting(None, "sequences in a batch; null: the size's", least=1)
    pretrain_tfrecords: str | None = setting(None, "null: DATA_DIR/pretrain_tfrecords")
    vocab_file: str | None = setting(None, "vocabulary; null: DATA_DIR/vocab.txt")
    init_checkpoint: str | None = setting(None, "initial weights: a run, a directory or a Hub name")
    max_seq_length: int | None = setting(None, "tokens in a sequence; null: the records'", least=8)
    steps_per_execution: int | None = setting(
        None, "steps in one backend call; null: up to 8 on GPUs, 1 on CPUs and JAX", least=1
    )
    iterations_per_loop: int = setting(100, "steps between two lines of the log", least=1)
    save_checkpoints_steps: int = setting(10_000, "steps between two checkpoints", least=1)
    keep_checkpoints: int = setting(3, "how many checkpoints to keep", least=1)
    eval_batch_size: int = setting(128, "sequences in an evaluation batch", least=1)
    eval_every: int | None = setting(None, "steps between evaluations; null: never", least=1)
    eval_tfrecords: str | None = setting(None, "null: held-out shards, or else training records")
    eval_holdout_shards: int = setting(0, "number of shards that are never trained on", least=0)
    num_eval_steps: int = setting(100, "batches in an evaluation", least=1)
    seed: int = setting(42, "seed of every random draw", least=0, most=MAX_SEED)

    def __post_init__(self):
        super().__post_init__()
        generator_hidden_size = MODEL_SIZES[self.model_size].generator_hidden_size
        recipe = RECIPES[self.model_size] | {"generator_hidden_size": generator_hidden_size}
        for name, value in recipe.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # a frozen dataclass, still being made
        require(
            self.eval_every is None or self.eval_tfrecords or self.eval_holdout_shards,
            "eval_every",
            "null unless `eval_tfrecords` or `eval_holdout_shards` gives records to evaluate on",
            self.eval_every,
        )
        require(self.do_train or self.do_eval, "do_train", "true if `do_eval` is false", False)

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> "PretrainingConfig":
        """The configuration that `--hparams` describes.

        Raises:
            InputError: an unknown name, a wrong type or an impossible value; the message names the
                field.
        """
        # `cls()` has the default size's recipe: unset it, so that the given size's applies.
        names = ("learning_rate", "train_batch_size", "generator_hidden_size")
        config = override(cls(), dict.fromkeys(names) | hparams)
        network = config.model_config(vocab_size=30522)  # raises if the architecture is impossible
        if config.has_separate_generator:
            fraction = config.generator_hidden_size
            try:
                network.generator(fraction, config.generator_layers)
            except InputError as error:
                raise InputError(f"`generator_hidden_size` {fraction}: {error}") from None
        steps = config.num_warmup_steps
        if steps != cls.num_warmup_steps and config.do_train:  # the default is only a warning
            expected = f"below `num_train_steps` ({config.num_train_steps:,})"
            require(steps < config.num_train_steps, "num_warmup_steps", expected, steps)
        return config

    def highest_learning_rate(self) -> float:
        """The highest rate of a schedule whose warm-up is longer than the run.

        After the share s of the run, the rate is `learning_rate` · (1 − s)^power · s · steps /
        warm-up steps.
        """
        power = self.lr_decay_power
        share = 1 / (power + 1)
        factor = (1 - share) ** power * share * self.num_train_steps / self.num_warmup_steps
        return self.learning_rate * factor

    def model_config(self, vocab_size: int, pad_token_id: int = 0) -> ConvBertConfig:
        """The discriminator's configuration for a vocabulary of `vocab_size` tokens."""
        names = ("embedding_size", "conv_kernel_size", "conv_type", "head_ratio", "linear_groups")
        fields = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        fields |= {"mask_padding": self.mask_padding, "vocab_size": vocab_size}
        fields |= {"pad_token_id": pad_token_id}
        given = self.model_hparam_overrides
        if "vocab_size" in given:
            raise InputError("`vocab_size` is not a hyper-parameter: the vocabulary decides it")
        return ConvBertConfig.from_size(self.model_size, **(fields | given))

    def objective(self) -> Objective:
        """The part of these hyper-parameters that is the model's objective."""
        names = [field.name for field in dataclasses.fields(Objective)]
        return Objective(**{name: getattr(self, name) for name in names})
