"""The network's configuration, the table of sizes, and checked overrides of any dataclass.

Imports neither Keras nor NumPy: options can be checked before anything heavy is loaded.
"""

import dataclasses
import json
import os
from typing import Any

from common.errors import InputError
from common.fields import override, require, require_one_of
from common.files import parse_json_object, read_json_object

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "swish", "tanh")
CONV_TYPES = ("sdconv", "noconv")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SUMMARY_TYPES = ("first", "last")
# Fields of `ConvBertConfig` that say something of a head alone: models that differ in nothing else
# can share an encoder.
HEAD_FIELDS = ("classifier_dropout", "num_labels", "problem_type", "id2label", "score_range",
               "summary_type", "beam_size", "task_specific_params")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """One row of the table of sizes: an encoder, and its generator's share of the width."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    embedding_size: int
    linear_groups: int
    generator_hidden_size: float

    def config_fields(self) -> dict[str, int]:
        """The `ConvBertConfig` fields that this row sets; the feed-forward width is always 4 H."""
        fields = dataclasses.asdict(self)
        del fields["generator_hidden_size"]
        return fields | {"intermediate_size": 4 * self.hidden_size}


# ConvBERT, tables 1 and 6 of the paper and the release's configure_pretraining.py. `tiny` is this
# project's own, for tests and the quickstart.
MODEL_SIZES = {
    "tiny": ModelSize(4, 128, 4, 128, 2, 1 / 2),
    "small": ModelSize(12, 256, 4, 128, 1, 1 / 4),
    "medium-small": ModelSize(12, 384, 8, 128, 2, 1 / 4),
    "base": ModelSize(12, 768, 12, 768, 1, 1 / 3),
}


@dataclasses.dataclass(frozen=True)
class ConvBertConfig:
    """Everything that decides the network's shape and arithmetic; the defaults are ConvBERT-base.

    Field names are those of the original release; `config.json` uses Hugging Face's where the two
    differ (`linear_groups` is their `num_groups`).

    Args:
        attention_head_size: width D of one head. None, the original's rule, is
            `hidden_size // num_attention_heads`; Hugging Face's rule differs for odd head counts
            and for a `head_ratio` other than 2, so a loaded model reads D from its tensors.
        head_ratio: `num_attention_heads // head_ratio` heads attend, and as many convolve.
        conv_type: "sdconv" (span-based dynamic convolution) or "noconv" (ELECTRA's attention).
        linear_groups: groups of the feed-forward layers; 1 is a plain dense layer.
        mask_padding: padded positions are zero for the convolutions, so that no output depends on
            padding. False is what the original and Hugging Face compute.
        problem_type: how a classification head is trained and read: see `PROBLEM_TYPES`.
        id2label: the names of the labels, in order of their ids.
        score_range: of a regression, the scores that the outputs 0 and 1 mean.
        summary_type: the vector that says how good an answer of a multiple choice is: of the
            "first" token, [CLS], or of the "last". Hugging Face's models have the last unless
            their `config.json` says otherwise, and are read so.
        beam_size: how many starts, and ends of each, the joint question-answering head predicts.
        task_specific_params: by kind of task, how it was fine-tuned to read its texts. Nothing here
            uses it; predictions of new texts do.

    Raises:
        InputError: a value that no such network has; the message names the field.
    """

    vocab_size: int = 30522
    embedding_size: int = 768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    attention_head_size: int | None = None
    head_ratio: int = 2
    conv_type: str = "sdconv"
    conv_kernel_size: int = 9
    linear_groups: int = 1
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    mask_padding: bool = True
    num_labels: int = 2
    problem_type: str | None = None
    id2label: tuple[str, ...] | None = None
    score_range: tuple[float, ...] | None = None
    summary_type: str = "first"
    beam_size: int = 20
    task_specific_params: dict[str, Any] | None = None

    def __post_init__(self):
        for name in (
            "vocab_size",
            "embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "head_ratio",
            "conv_kernel_size",
            "linear_groups",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "num_labels",
            "beam_size",
        ):
            require(getattr(self, name) >= 1, name, "a positive integer", getattr(self, name))
        for name in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
        ):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, "a number in [0, 1)", value)
        require_one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        require_one_of("conv_type", self.conv_type, CONV_TYPES)
        require_one_of("summary_type", self.summary_type, SUMMARY_TYPES)
        if self.problem_type is not None:
            require_one_of("problem_type", self.problem_type, PROBLEM_TYPES)
        require(self.conv_kernel_size % 2 == 1, "conv_kernel_size", "odd", self.conv_kernel_size)
        if self.attention_head_size is None:
            require(
                self.hidden_size % self.num_attention_heads == 0,
                "hidden_size",
                f"a multiple of `num_attention_heads` ({self.num_attention_heads})",
                self.hidden_size,
            )
        else:
            require(self.attention_head_size >= 1, "attention_head_size", "a positive integer",
                    self.attention_head_size)  # fmt: skip
        # The original accepts this and silently halves the heads.
        require(
            self.conv_type == "sdconv" or self.head_ratio == 1,
            "head_ratio",
            '1 with conv_type "noconv", where nothing but attention uses the heads',
            self.head_ratio,
        )
        for name in ("hidden_size", "intermediate_size"):
            require(
                getattr(self, name) % self.linear_groups == 0,
                name,
                f"a multiple of `linear_groups` ({self.linear_groups})",
                getattr(self, name),
            )
        require(
            self.id2label is None or len(self.id2label) == self.num_labels,
            "id2label",
            f"one name for each of the {self.num_labels} labels",
            self.id2label,
        )
        require(
            self.score_range is None
            or (len(self.score_range) == 2 and self.score_range[0] < self.score_range[1]),
            "score_range",
            "the lowest and the highest score",
            self.score_range,
        )

    @property
    def num_heads(self) -> int:
        """N: heads that attend, and as many that convolve; at least one of each."""
        return max(1, self.num_attention_heads // self.head_ratio)

    @property
    def head_size(self) -> int:
        """D: width of one head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "ConvBertConfig":
        """The configuration of a row of `MODEL_SIZES`, with other fields overridden."""
        require_one_of("model_size", size, MODEL_SIZES)
        return override(cls(**MODEL_SIZES[size].config_fields()), overrides)

    def num_kernel_parameters(self) -> int:
        """Parameters of the encoder's tables and kernels and of a classifier: nearly all it has."""
        hidden, width = self.hidden_size, self.num_heads * self.head_size
        tables = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        total = tables * self.embedding_size + self.num_labels * hidden
        if self.embedding_size != hidden:
            total += self.embedding_size * hidden
        layer = 4 * hidden * width + 2 * hidden * self.intermediate_size // self.linear_groups
        if self.conv_type == "sdconv":
            taps = self.conv_kernel_size
            layer += 3 * hidden * width + taps * (hidden + width * self.num_heads)
        return total + self.num_hidden_layers * layer

    def generator(self, hidden_fraction: float, layer_fraction: float = 1.0) -> "ConvBertConfig":
        """The generator's configuration: width, feed-forward width and heads scaled together.

        Source: `get_generator_config` of the release's run_pretraining.py. Python's `round` and
        the release's both round halves to even.
        """
        return dataclasses.replace(
            self,
            hidden_size=round(self.hidden_size * hidden_fraction),
            intermediate_size=round(self.intermediate_size * hidden_fraction),
            num_attention_heads=max(1, round(self.num_attention_heads * hidden_fraction)),
            num_hidden_layers=max(1, round(self.num_hidden_layers * layer_fraction)),
        )

    def to_hf_dict(self, architecture: str) -> dict[str, Any]:
        """`config.json` as transformers reads it; what only this project knows keeps our name."""
        fields = dataclasses.asdict(self)
        fields["num_groups"] = fields.pop("linear_groups")
        fields["model_type"] = "convbert"
        fields["architectures"] = [architecture]
        fields["tie_word_embeddings"] = True
        labels = self.id2label or tuple(f"LABEL_{i}" for i in range(self.num_labels))
        fields["id2label"] = {str(i): label for i, label in enumerate(labels)}
        fields["label2id"] = {label: i for i, label in enumerate(labels)}
        del fields["num_labels"]
        if note := self.transformers_incompatibility():
            fields["transformers_note"] = note
        return fields

    def transformers_incompatibility(self) -> str | None:
        """Why Hugging Face's ConvBERT cannot hold these tensors; None where it can."""
        if self.conv_type != "sdconv":
            return f'Hugging Face\'s ConvBERT has no conv_type "{self.conv_type}"'
        theirs = self.hidden_size // self.num_heads // 2
        if self.head_size != theirs:
            return (
                f"Hugging Face's ConvBERT fixes the head size at hidden_size / (2 * heads) = "
                f"{theirs}; these tensors have {self.head_size}, as in the original release"
            )
        return None

    @classmethod
    def from_hf_dict(cls, fields: dict[str, Any], source: str) -> "ConvBertConfig":
        """The inverse of `to_hf_dict`, for any ConvBERT `config.json`; `source` is for errors.

        Fields that do not concern the network (Hugging Face writes many) are ignored.
        """
        kind = fields.get("model_type", "convbert")
        if kind != "convbert":
            raise InputError(f'{source}: `model_type` is "{kind}", not "convbert"')
        labels = fields.get("id2label") or {}
        if not isinstance(labels, dict) or not all(key.isdecimal() for key in labels):
            raise InputError(f"{source}: `id2label` must be an object of names by number")
        fields = dict(fields)
        if "num_groups" in fields:
            fields["linear_groups"] = fields.pop("num_groups")
        if labels := fields.pop("id2label", None):
            names = tuple(labels[key] for key in sorted(labels, key=int))
            fields["num_labels"] = len(names)
            if names != tuple(f"LABEL_{i}" for i in range(len(names))):  # those are no names
                fields["id2label"] = names
        known = {field.name for field in dataclasses.fields(cls)}
        if fields.get("problem_type") not in (None, *PROBLEM_TYPES):
            del fields["problem_type"]
        if fields.get("architectures") == ["ConvBertForMultipleChoice"]:
            fields.setdefault("summary_type", "last")  # transformers' default
            for name in ("summary_use_proj", "summary_activation"):
                if fields.get(name):
                    raise InputError(
                        f"{source}: `{name}` is {json.dumps(fields[name])}: a multiple-choice head "
                        "with a projection or an activation is not supported"
                    )
        try:
            return override(cls(), {k: v for k, v in fields.items() if k in known})
        except (InputError, OverflowError) as error:  # the latter: 10^400 for a fraction
            raise InputError(f"{source}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What pre-training optimizes, and with which generator (ELECTRA, arXiv:2003.10555).

    Args:
        electra_objective: replaced-token detection beside the generator's masked language
            modeling; False is masked language modeling with the full-size encoder alone.
        gen_weight: of the generator's loss.
        disc_weight: of the discriminator's loss.
        mask_prob: share of a sequence's tokens that are masked.
        uniform_generator: replacements are drawn uniformly from the vocabulary.
        untied_generator: False makes the discriminator's encoder the generator's too.
        untied_generator_embeddings: the generator has embeddings of its own, as wide as itself.
        generator_hidden_size: the generator's width as a share of the discriminator's.
        generator_layers: its number of layers, likewise.
        disallow_correct: never draw the true token.
        temperature: of the distribution that replacements are drawn from.
    """

    electra_objective: bool = True
    gen_weight: float = 1.0
    disc_weight: float = 50.0
    mask_prob: float = 0.15
    uniform_generator: bool = False
    untied_generator: bool = True
    untied_generator_embeddings: bool = False
    generator_hidden_size: float = 0.25
    generator_layers: float = 1.0
    disallow_correct: bool = False
    temperature: float = 1.0

    def __post_init__(self):
        for name in ("gen_weight", "disc_weight"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(0 < self.mask_prob < 1, "mask_prob", "between 0 and 1", self.mask_prob)
        require(self.temperature > 0, "temperature", "above 0", self.temperature)
        for name in ("generator_hidden_size", "generator_layers"):
            value = getattr(self, name)
            require(0 < value <= 1, name, "above 0 and at most 1", value)
        require(
            not (self.uniform_generator and self.untied_generator_embeddings),
            "untied_generator_embeddings",
            "false with uniform_generator, which has no embeddings",
            True,
        )
        require(
            self.untied_generator or not self.untied_generator_embeddings,
            "untied_generator_embeddings",
            "false with untied_generator false: then both are one encoder",
            True,
        )
        require(
            self.electra_objective or not self.uniform_generator,
            "uniform_generator",
            "false with electra_objective false: nothing would be trained",
            True,
        )

    @property
    def has_separate_generator(self) -> bool:
        """A generator network of its own exists."""
        return self.electra_objective and self.untied_generator and not self.uniform_generator


def as_config(config: ConvBertConfig | dict[str, Any]) -> ConvBertConfig:
    """A configuration, or the dict that a saved Keras model keeps of it."""
    return config if isinstance(config, ConvBertConfig) else override(ConvBertConfig(), config)


def load_hparams(text_or_path: str) -> dict[str, Any]:
    """`--hparams`: a JSON object, given as text (it starts with "{") or as the path of a file.

    Raises:
        InputError: no such file, not JSON (with line and column), or not an object.
    """
    if text_or_path.lstrip().startswith("{"):
        return parse_json_object(text_or_path, "--hparams")
    if not os.path.isfile(text_or_path):
        raise InputError(f"--hparams: not a JSON object, and no such file: {text_or_path}")
    return read_json_object(text_or_path)
