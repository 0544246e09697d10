"""The hyper-parameters of pre-training, under the original's names.

Defaults, then the size's recipe, then `--hparams`: each later one wins. The recipe is the paper's
(appendix A) and the release's: 1,000,000 steps of 128 tokens, and per size the rates and batch
sizes in `RECIPES`.
"""

import dataclasses
from typing import Any

from common.errors import InputError
from common.fields import override, require, require_one_of
from model.config import MODEL_SIZES, ConvBertConfig, Objective


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a size trains with unless told otherwise."""

    learning_rate: float
    train_batch_size: int


RECIPES = {
    "tiny": Recipe(1e-3, 32),
    "small": Recipe(3e-4, 128),
    "medium-small": Recipe(5e-4, 128),
    "base": Recipe(2e-4, 256),
}

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(Objective):
    """All hyper-parameters of a run; None stands for the size's own value.

    Args:
        model_size: a row of `MODEL_SIZES`.
        model_hparam_overrides: further fields of `ConvBertConfig`, such as `num_hidden_layers`.
        mask_padding: False reproduces the original on padded input.
        pretrain_tfrecords: the folder of records; None is DATA_DIR/pretrain_tfrecords.
        vocab_file: None is DATA_DIR/vocab.txt.
        init_checkpoint: a run's directory, or a Hugging Face one or its name on the hub, that gives
            the first weights.
        max_seq_length: tokens a row; None is what the records hold.
        steps_per_execution: steps that are computed in one call of the backend, without a look at
            what happens in them: logs, checkpoints and signals wait for the call's end.
        iterations_per_loop: steps between two lines of the log.
        save_checkpoints_steps: steps between two checkpoints.
        keep_checkpoints: how many of them stay on the disk.
        eval_every: steps between two evaluations during training; None is never.
        eval_tfrecords: records to evaluate on; None is those that `eval_holdout_shards` keeps
            aside, and without any the training records, as in the original.
        eval_holdout_shards: so many of the last shards are never trained on.
        num_eval_steps: batches of an evaluation.
        gradient_accumulation_steps: parts that a batch is computed in, one after the other, for
            want of memory; the update is the whole batch's.
        num_devices: GPUs that share each batch; None is all there are (on JAX, of all processes).
        precision: a Keras dtype policy; weights and updates are float32 in any.
        jit_compile: compile the step with XLA; None does where it pays, on GPUs and TPUs.
        deterministic: repeat results bit for bit, at the price of speed: one thread on a CPU.
        seed: of the initialization, the data order, masks, samples and dropout.
    """

    model_size: str = "medium-small"
    model_hparam_overrides: dict = dataclasses.field(default_factory=dict)
    embedding_size: int | None = None
    conv_kernel_size: int | None = None
    conv_type: str | None = None
    head_ratio: int | None = None
    linear_groups: int | None = None
    mask_padding: bool = True
    generator_hidden_size: float | None = None
    do_train: bool = True
    do_eval: bool = False
    learning_rate: float | None = None
    lr_decay_power: float = 1.0
    weight_decay_rate: float = 0.01
    num_warmup_steps: int = 10_000
    num_train_steps: int = 1_000_000
    train_batch_size: int | None = None
    pretrain_tfrecords: str | None = None
    vocab_file: str | None = None
    init_checkpoint: str | None = None
    max_seq_length: int | None = None
    steps_per_execution: int = 1
    iterations_per_loop: int = 100
    save_checkpoints_steps: int = 10_000
    keep_checkpoints: int = 3
    eval_batch_size: int = 128
    eval_every: int | None = None
    eval_tfrecords: str | None = None
    eval_holdout_shards: int = 0
    num_eval_steps: int = 100
    gradient_accumulation_steps: int = 1
    num_devices: int | None = None
    precision: str = "float32"
    jit_compile: bool | None = None
    deterministic: bool = False
    seed: int = 42

    def __post_init__(self):
        require_one_of("model_size", self.model_size, MODEL_SIZES)
        require_one_of("precision", self.precision, PRECISIONS)
        recipe = dataclasses.asdict(RECIPES[self.model_size])
        recipe["generator_hidden_size"] = MODEL_SIZES[self.model_size].generator_hidden_size
        for name, value in recipe.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # frozen, but not born yet
        super().__post_init__()
        for name in (
            "num_train_steps",
            "train_batch_size",
            "eval_batch_size",
            "num_eval_steps",
            "steps_per_execution",
            "iterations_per_loop",
            "save_checkpoints_steps",
            "keep_checkpoints",
            "gradient_accumulation_steps",
        ):
            require(getattr(self, name) >= 1, name, "a positive integer", getattr(self, name))
        for name in (
            "num_warmup_steps",
            "weight_decay_rate",
            "lr_decay_power",
            "eval_holdout_shards",
            "seed",
        ):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        if self.max_seq_length is not None:
            require(self.max_seq_length >= 8, "max_seq_length", "at least 8", self.max_seq_length)
        if self.eval_every is not None:
            require(self.eval_every >= 1, "eval_every", "a positive integer", self.eval_every)
            require(
                self.eval_tfrecords is not None or self.eval_holdout_shards > 0,
                "eval_every",
                "null unless `eval_tfrecords` names records to score, or `eval_holdout_shards` "
                "keeps some of the training records aside",
                self.eval_every,
            )
        require(
            self.do_train or self.do_eval, "do_train", "true, unless do_eval is: one must be", False
        )

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> "PretrainingConfig":
        """The configuration that `--hparams` describes.

        Raises:
            InputError: an unknown name, a wrong type or an impossible value, by name.
        """
        # A size's own values must come from the size asked for, not from the default one.
        unset = {
            name: None
            for name in ("learning_rate", "train_batch_size", "generator_hidden_size")
            if name not in hparams
        }
        config = override(cls(), unset | hparams)
        config.model_config(vocab_size=30522)  # impossible architectures are errors now
        return config

    def model_config(self, vocab_size: int) -> ConvBertConfig:
        """The discriminator's configuration for a vocabulary of `vocab_size` tokens."""
        names = ("embedding_size", "conv_kernel_size", "conv_type", "head_ratio", "linear_groups")
        fields = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        fields |= {"mask_padding": self.mask_padding, "vocab_size": vocab_size}
        given = self.model_hparam_overrides
        if "vocab_size" in given:
            raise InputError("`vocab_size` is not a hyper-parameter: the vocabulary decides it")
        return ConvBertConfig.from_size(self.model_size, **(fields | given))

    def objective(self) -> Objective:
        """The part of these hyper-parameters that is the model's objective."""
        names = [field.name for field in dataclasses.fields(Objective)]
        return Objective(**{name: getattr(self, name) for name in names})
