"""Hyper-parameters of fine-tuning: the defaults below < scripts/tasks/TASK.json < `--hparams`.

The names are the original's (configure_finetuning.py of ConvBERT and ELECTRA), and so are the
values in scripts/tasks, which hold where a task is trained alone. Checking them imports nothing
heavy.
"""

import dataclasses
import math
import os
from typing import Any

from common.errors import InputError
from common.fields import override, require, require_one_of
from model.config import MODEL_SIZES, load_hparams

# A JSON file a task; a task without one has the defaults below.
TASK_HPARAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts", "tasks")

# Fields of `ConvBertConfig` that the task, or another hyper-parameter, decides.
_HAVE_A_PLACE = (
    "vocab_size", "mask_padding", "num_labels", "id2label", "problem_type", "score_range",
    "beam_size", "task_specific_params",
)  # fmt: skip
_POSITIVE = (
    "num_trials", "train_batch_size", "eval_batch_size", "predict_batch_size", "max_query_length",
    "doc_stride", "n_best_size", "max_answer_length", "beam_size",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FinetuningConfig:
    """What one run of `finetune.py` does with one task.

    Args:
        task_names: the task to fine-tune on; several are learned jointly, by one encoder with a
            head for each.
        num_trials: runs with different seeds; trial i (from 1) has the seed `seed + i - 1`.
        model_size: "tiny", "small", "medium-small" or "base". The pre-trained model's
            `config.json` decides its shape: a size that contradicts it is an error. Without a
            pre-trained model, this is the size of the network, "medium-small" by default.
        model_hparam_overrides: `ConvBertConfig` fields to change, such as dropout rates.
        classifier_head: "linear" (the original's) or "mlp" (Hugging Face's).
        learning_rate: None is 1e-4 for a model as wide as the base size, else 3e-4.
        layerwise_lr_decay: factor on the learning rate per layer towards the input; 1 is one
            rate for all.
        num_train_epochs: passes over the training set; a fraction stops within a pass.
        warmup_proportion: share of the steps over which the learning rate rises.
        double_unordered: train on both orders of a pair where the order has no meaning.
        max_query_length: tokens of a question; the rest of it is not read.
        doc_stride: tokens from the start of one window of a long context to the next.
        n_best_size: answers kept of each window, and of each question.
        max_answer_length: tokens of the longest answer that is considered.
        joint_prediction: the original's head for question answering, in which the end depends on
            the start. False is Hugging Face's, with two independent logits a token.
        beam_size: starts, and ends of each, that the joint head considers.
        answerable_weight: of the loss of "can this be answered?", beside that of the answer.
        qa_na_threshold: "no answer" is said above it.
        mask_padding: padding changes no result, and batches are as long as their longest
            example. False is the original: every example padded to `max_seq_length`, and
            outputs that depend on it.
        write_test_outputs: write predictions for the test files, for the first `n_writes_test`
            trials.
        keep_all_models: False keeps only the last trial's fine-tuned model.
        deterministic: repeat results bit for bit, at the price of speed.

    Raises:
        InputError: an impossible value; the message names the field and what it may be.
    """

    task_names: tuple[str, ...] = ("cola",)
    do_train: bool = True
    do_eval: bool = True
    num_trials: int = 1
    seed: int = 0
    deterministic: bool = False
    keep_all_models: bool = False
    write_test_outputs: bool = True
    n_writes_test: int = 5
    model_size: str | None = None
    model_hparam_overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    classifier_head: str = "linear"
    mask_padding: bool = True
    learning_rate: float | None = None
    weight_decay_rate: float = 0.01
    layerwise_lr_decay: float = 0.8
    num_train_epochs: float = 3.0
    warmup_proportion: float = 0.1
    train_batch_size: int = 32
    eval_batch_size: int = 32
    predict_batch_size: int = 32
    max_seq_length: int = 128
    double_unordered: bool = True
    max_query_length: int = 64
    doc_stride: int = 128
    n_best_size: int = 20
    max_answer_length: int = 30
    joint_prediction: bool = True
    beam_size: int = 20
    answerable_weight: float = 0.5
    qa_na_threshold: float = -2.75

    def __post_init__(self):
        require(len(self.task_names) > 0, "task_names", "a list of tasks", list(self.task_names))
        require_one_of("classifier_head", self.classifier_head, ("linear", "mlp"))
        if self.model_size is not None:
            require_one_of("model_size", self.model_size, MODEL_SIZES)
        for name in _POSITIVE:
            require(getattr(self, name) >= 1, name, "a positive integer", getattr(self, name))
        for name in ("seed", "n_writes_test"):
            require(getattr(self, name) >= 0, name, "zero or more", getattr(self, name))
        for name in _HAVE_A_PLACE:
            require(
                name not in self.model_hparam_overrides,
                "model_hparam_overrides",
                f"without `{name}`, which has a place of its own",
                self.model_hparam_overrides,
            )
        # [CLS], a token of each text, and two [SEP].
        require(self.max_seq_length >= 5, "max_seq_length", "at least 5", self.max_seq_length)
        for name in ("learning_rate", "num_train_epochs"):
            value = getattr(self, name)
            allowed = value is None or 0 < value < math.inf
            require(allowed, name, "a finite number above 0", value)
        for name in ("weight_decay_rate", "answerable_weight"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, "a finite number, zero or more", value)
        is_finite = math.isfinite(self.qa_na_threshold)
        require(is_finite, "qa_na_threshold", "a finite number", self.qa_na_threshold)
        require(
            0 < self.layerwise_lr_decay <= 1,
            "layerwise_lr_decay",
            "above 0 and at most 1 (1: one rate for all layers)",
            self.layerwise_lr_decay,
        )
        require(
            0 <= self.warmup_proportion < 1,
            "warmup_proportion",
            "a share in [0, 1)",
            self.warmup_proportion,
        )

    @classmethod
    def for_tasks(cls, tasks: tuple[str, ...], hparams: dict[str, Any]) -> "FinetuningConfig":
        """The configuration of a task trained alone, or of several jointly.

        Args:
            tasks: their names.
            hparams: `--hparams` as read.
        """
        config, path = cls(), os.path.join(TASK_HPARAMS, f"{tasks[0]}.json")
        if len(tasks) == 1 and os.path.isfile(path):
            values = load_hparams(path)
            try:
                config = override(config, values)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        return override(config, hparams | {"task_names": list(tasks)})
