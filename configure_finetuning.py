"""Hyper-parameters of fine-tuning: the defaults < scripts/tasks/TASK.json < `--hparams`.

The names and the values are the original's (configure_finetuning.py of ConvBERT and ELECTRA). A
task's file applies only if the task is trained alone.
"""

import dataclasses
import math
import os
from typing import Any

from common.errors import InputError
from common.fields import MAX_SEED, check_settings, override, require, setting
from common.files import read_json_object
from model.config import HEAD_FIELDS, MODEL_SIZES, Execution

# Holds TASK.json for each task with values that differ from the defaults, and their `source`.
TASK_HPARAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts", "tasks")

# Fields of `ConvBertConfig` that the task or another hyper-parameter sets.
_SET_ELSEWHERE = {"vocab_size", "mask_padding", *HEAD_FIELDS}
_SET_ELSEWHERE -= {"classifier_dropout", "summary_type"}


@dataclasses.dataclass(frozen=True)
class FinetuningConfig(Execution):
    """The hyper-parameters of one job: one task, or several trained jointly.

    Raises:
        InputError: an impossible value; the message names the field and what it may be.
    """

    task_names: tuple[str, ...] = setting(("cola",), "several tasks are trained jointly")
    do_train: bool = setting(True, "train; false: evaluate the fine-tuned models")
    do_eval: bool = setting(True, "evaluate on the dev sets")
    num_trials: int = setting(1, "number of runs, each with its own seed", least=1)
    seed: int = setting(0, "seed of trial 1; trial i has seed + i - 1", least=0)
    eval_every: int | str | None = setting(
        None, 'steps between scores on the dev sets, or "epoch"; null: only at the end', least=1
    )
    keep: str = setting("last", "weights to keep, last or best on dev", choices=("last", "best"))
    early_stopping_patience: int | None = setting(
        None, "scores in a row without improvement that end training; null: no limit", least=1
    )
    keep_all_models: bool = setting(False, "keep every trial's model; false: only the last one's")
    write_test_outputs: bool = setting(True, "write predictions for the test files")
    n_writes_test: int = setting(5, "number of trials that write test predictions", least=0)
    # The saved model's config.json decides its shape: a size that contradicts it is an error.
    model_size: str | None = setting(None, "null: the saved model's", choices=MODEL_SIZES)
    model_hparam_overrides: dict[str, Any] = setting({}, "fields of the network to change")
    classifier_head: str = setting("linear", "head of a classifier", choices=("linear", "mlp"))
    mask_padding: bool = setting(True, "padding changes no output; false: as the original")
    learning_rate: float | None = setting(None, "null: 1e-4 at base's width, else 3e-4", above=0)
    weight_decay_rate: float = setting(0.01, "decoupled weight decay", least=0)
    layerwise_lr_decay: float = setting(0.8, "rate factor per layer, top down", above=0, most=1)
    num_train_epochs: float = setting(3.0, "passes over the training set", above=0)
    warmup_proportion: float = setting(0.1, "share of steps for warm-up", least=0, below=1)
    train_batch_size: int = setting(32, "examples in a training batch", least=1)
    eval_batch_size: int = setting(32, "examples in a batch of a dev set", least=1)
    predict_batch_size: int = setting(32, "examples in a batch of a test set", least=1)
    # [CLS], a token of each of two texts, and two [SEP].
    max_seq_length: int = setting(128, "maximum number of tokens in a sequence", least=5)
    class_weights: str | dict[str, Any] | None = setting(
        None, 'factors of the loss by label; "balanced": by how rare labels are; null: 1'
    )
    label_smoothing: float = setting(0.0, "share of a target spread evenly", least=0, below=1)
    double_unordered: bool = setting(True, "train on both orders of symmetric pairs")
    max_query_length: int = setting(64, "maximum tokens of a question; the rest is cut", least=1)
    doc_stride: int = setting(128, "tokens between the starts of two context windows", least=1)
    n_best_size: int = setting(20, "answers kept for each window and question", least=1)
    max_answer_length: int = setting(30, "maximum number of tokens of an answer", least=1)
    joint_prediction: bool = setting(True, "the end of an answer depends on its start")
    beam_size: int = setting(20, "starts, and ends per start, of the joint QA head", least=1)
    answerable_weight: float = setting(0.5, "weight of the loss of answerability", least=0)
    qa_na_threshold: float = setting(-2.75, "score above which a question has no answer")

    def __post_init__(self):
        check_settings(self)
        require(len(self.task_names) > 0, "task_names", "a list of tasks", list(self.task_names))
        most = MAX_SEED - self.num_trials + 1
        expected = f"at most {most} with `num_trials` {self.num_trials}"
        require(self.seed <= most, "seed", expected, self.seed)
        every = self.eval_every
        if every is None and (self.keep == "best" or self.early_stopping_patience or self.loggers):
            every = "epoch"
            object.__setattr__(self, "eval_every", every)  # a frozen dataclass, still being made
        expected = 'a number of steps, or "epoch"'
        require(not isinstance(every, str) or every == "epoch", "eval_every", expected, every)
        if self.do_train and every:
            expected = "true with `eval_every`, `keep`, `early_stopping_patience` or `loggers`"
            require(self.do_eval, "do_eval", expected, self.do_eval)
        weights = self.class_weights
        is_allowed = weights in (None, "balanced") or (
            isinstance(weights, dict) and weights and all(map(_is_factor, weights.values()))
        )
        expected = '"balanced", or an object with factors of at least 0 by label'
        require(is_allowed, "class_weights", expected, weights)
        for name in sorted(_SET_ELSEWHERE & self.model_hparam_overrides.keys()):
            expected = f"an object without `{name}`, which the task or another hyper-parameter sets"
            require(False, "model_hparam_overrides", expected, self.model_hparam_overrides)

    @classmethod
    def for_tasks(cls, tasks: tuple[str, ...], hparams: dict[str, Any]) -> "FinetuningConfig":
        """The configuration of a task trained alone, or of several jointly."""
        config, path = cls(), os.path.join(TASK_HPARAMS, f"{tasks[0]}.json")
        if len(tasks) == 1 and os.path.isfile(path):
            values = read_json_object(path)
            values.pop("source", None)
            try:
                config = override(config, values)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        return override(config, hparams | {"task_names": list(tasks)})


def _is_factor(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf
