"""The network's configuration, the table of sizes, and checked overrides of any dataclass.

Imports neither Keras nor NumPy: options can be checked before anything heavy is loaded.
"""

import dataclasses
import json
import math
import os
from typing import Any

from common.errors import InputError
from common.fields import (
    check_settings,
    override,
    require,
    require_one_of,
    setting,
    shortened,
)
from common.files import parse_json_object, read_json_object

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "swish", "tanh")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SUMMARY_TYPES = ("first", "last")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

# Fields of `ConvBertConfig` that concern only a head: models that differ only in these can share an
# encoder.
HEAD_FIELDS = (
    "classifier_dropout",
    "num_labels",
    "problem_type",
    "id2label",
    "score_range",
    "summary_type",
    "beam_size",
    "task_specific_params",
)


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
    """The network's shape and arithmetic; the defaults are ConvBERT-base.

    Field names are those of the original release. `config.json` uses Hugging Face's where the two
    differ (`linear_groups` is their `num_groups`).

    Raises:
        InputError: an impossible value; the message names the field.
    """

    vocab_size: int = setting(30522, "number of tokens in the vocabulary, V", least=1)
    embedding_size: int = setting(768, "width E of the embeddings", least=1)
    hidden_size: int = setting(768, "width H of the encoder", least=1)
    num_hidden_layers: int = setting(12, "number of encoder layers", least=1)
    num_attention_heads: int = setting(12, "heads, before division by head_ratio", least=1)
    # Hugging Face derives another width for odd head counts and for a `head_ratio` other than 2, so
    # a loaded model reads D from its tensors.
    attention_head_size: int | None = setting(None, "width D of a head; null: H / heads", least=1)
    head_ratio: int = setting(
        2, "1 / head_ratio of the heads attend, and as many convolve", least=1
    )
    conv_type: str = setting(
        "sdconv",
        "span-based dynamic convolution, or ELECTRA's attention alone",
        choices=("sdconv", "noconv"),
    )
    conv_kernel_size: int = setting(9, "width K of the convolution kernels; odd", least=1)
    linear_groups: int = setting(1, "groups of the feed-forward layers; 1: dense", least=1)
    intermediate_size: int = setting(3072, "width of the feed-forward layers", least=1)
    hidden_act: str = setting("gelu", "feed-forward activation", choices=ACTIVATIONS)
    hidden_dropout_prob: float = setting(0.1, "dropout of hidden states", least=0, below=1)
    attention_probs_dropout_prob: float = setting(0.1, "dropout of attention", least=0, below=1)
    classifier_dropout: float | None = setting(
        None, "dropout before a classifier; null: hidden_dropout_prob", least=0, below=1
    )
    max_position_embeddings: int = setting(512, "longest sequence in tokens", least=1)
    type_vocab_size: int = setting(2, "number of segment ids", least=1)
    initializer_range: float = setting(0.02, "standard deviation of the initial weights", least=0)
    layer_norm_eps: float = setting(1e-12, "epsilon of layer normalization", least=0)
    pad_token_id: int = setting(0, "id of [PAD]", least=0)
    mask_padding: bool = setting(True, "padding changes no output; false: as Hugging Face")
    num_labels: int = setting(2, "number of labels of a classification head", least=1)
    problem_type: str | None = setting(None, "loss of a classifier", choices=PROBLEM_TYPES)
    id2label: tuple[str, ...] | None = setting(None, "names of the labels, in order of their ids")
    score_range: tuple[float, ...] | None = setting(
        None, "the scores that outputs 0 and 1 stand for"
    )
    # Hugging Face's default is "last"; `from_hf_dict` takes care of it.
    summary_type: str = setting("first", "token that scores a choice", choices=SUMMARY_TYPES)
    beam_size: int = setting(
        20, "starts, and ends per start, of the joint QA head", least=1, most=1024
    )
    task_specific_params: dict[str, Any] | None = setting(None, "how to read texts for predictions")

    def __post_init__(self):
        check_settings(self)
        hidden, heads, groups = self.hidden_size, self.num_attention_heads, self.linear_groups
        labels, scores = self.id2label, self.score_range

        def check(is_allowed, name, expected):
            require(is_allowed, name, expected, getattr(self, name))

        check(self.conv_kernel_size % 2 == 1, "conv_kernel_size", "odd")
        is_multiple = self.attention_head_size or hidden % heads == 0
        check(is_multiple, "hidden_size", f"a multiple of `num_attention_heads` ({heads})")
        for name in ("hidden_size", "intermediate_size"):
            is_multiple = getattr(self, name) % groups == 0
            check(is_multiple, name, f"a multiple of `linear_groups` ({groups})")
        # The original accepts this and silently halves the heads.
        is_possible = self.conv_type == "sdconv" or self.head_ratio == 1
        check(is_possible, "head_ratio", '1 with conv_type "noconv", where all heads attend')
        has_names = labels is None or len(labels) == self.num_labels
        check(has_names, "id2label", f"one name for each of the {self.num_labels} labels")
        is_range = scores is None or (
            len(scores) == 2 and -math.inf < scores[0] < scores[1] < math.inf
        )
        check(is_range, "score_range", "the lowest and the highest score")

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
        """`config.json` as transformers reads it; fields of this project alone keep our names."""
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
        if kind not in ("convbert", "conv_bert"):  # "conv_bert" is in the release's first files
            raise InputError(f'{source}: `model_type` is {json.dumps(kind)}, not "convbert"')
        fields = dict(fields)
        if "num_groups" in fields:
            fields["linear_groups"] = fields.pop("num_groups")
        if "_num_labels" in fields:  # the name in transformers before version 3
            fields.setdefault("num_labels", fields.pop("_num_labels"))
        if fields.get("pad_token_id", 0) is None:
            del fields["pad_token_id"]
        if names := _label_names(fields.pop("id2label", None), source):
            fields["num_labels"] = len(names)
            if names != tuple(f"LABEL_{i}" for i in range(len(names))):  # these mean "no names"
                fields["id2label"] = names
        known = {field.name for field in dataclasses.fields(cls)}
        if fields.get("problem_type") not in (None, *PROBLEM_TYPES):
            del fields["problem_type"]
        if fields.get("architectures") == ["ConvBertForMultipleChoice"]:
            fields.setdefault("summary_type", "last")  # transformers' default
            expected = {"summary_activation": None}
            if fields.get("summary_use_proj"):  # as in our "mlp" head; the tensors must agree
                activation = fields.get("hidden_act", cls.hidden_act)
                expected = {"summary_activation": activation, "summary_proj_to_labels": None}
            for name, value in expected.items():
                if (fields.get(name) or None) != value:
                    raise InputError(
                        f"{source}: `{name}` is {json.dumps(fields.get(name))}: the projection of "
                        "a multiple-choice head must have H features and the activation "
                        "`hidden_act`, and a head without a projection has no activation. To load "
                        'only the encoder, set `architectures` to ["ConvBertModel"]'
                    )
        elif fields.get("summary_type") not in SUMMARY_TYPES:
            fields.pop("summary_type", None)
        try:
            return override(cls(), {k: v for k, v in fields.items() if k in known})
        except (InputError, OverflowError) as error:  # a fraction of 10^400 overflows
            raise InputError(f"{source}: {error}") from None


def _label_names(labels, source):
    """`id2label` of a config.json as a tuple; names that are numbers become strings."""
    if isinstance(labels, dict):  # a missing number has None
        labels = [labels.get(str(number)) for number in range(len(labels))]
    names = labels or []
    if not isinstance(names, list) or not all(type(name) in (str, int, float) for name in names):
        raise InputError(
            f"{source}: `id2label` must be an object that maps each number from 0 to a name (a "
            "string or a number)"
        )
    return tuple(map(str, names))


@dataclasses.dataclass(frozen=True)
class Objective:
    """What pre-training optimizes, and with which generator (ELECTRA, arXiv:2003.10555)."""

    electra_objective: bool = setting(True, "replaced-token detection; false: masked LM alone")
    gen_weight: float = setting(1.0, "weight of the generator's loss", least=0)
    disc_weight: float = setting(50.0, "weight of the discriminator's loss", least=0)
    mask_prob: float = setting(0.15, "share of tokens to mask", above=0, below=1)
    uniform_generator: bool = setting(False, "draw replacements uniformly, without a generator")
    untied_generator: bool = setting(True, "false: generator and discriminator are one encoder")
    untied_generator_embeddings: bool = setting(False, "separate embeddings for the generator")
    generator_hidden_size: float = setting(0.25, "generator's share of the width", above=0, most=1)
    generator_layers: float = setting(1.0, "generator's share of the layers", above=0, most=1)
    disallow_correct: bool = setting(False, "never draw the original token as its replacement")
    temperature: float = setting(1.0, "temperature of the generator's samples", above=0)

    def __post_init__(self):
        check_settings(self)

        def refuse(name, holds, reason):
            require(not (getattr(self, name) and holds), name, f"false if {reason}", True)

        embeddings = "untied_generator_embeddings"
        no_generator = "`uniform_generator` is true: there is no generator"
        one_encoder = "`untied_generator` is false: both are one encoder"
        untrained = "`electra_objective` is false: nothing would be trained"
        refuse(embeddings, self.uniform_generator, no_generator)
        refuse(embeddings, not self.untied_generator, one_encoder)
        refuse("uniform_generator", not self.electra_objective, untrained)

    @property
    def has_separate_generator(self) -> bool:
        """Whether the generator is a separate network."""
        return self.electra_objective and self.untied_generator and not self.uniform_generator


@dataclasses.dataclass(frozen=True)
class Execution:
    """How pre-training and fine-tuning compute and log: the result is the same up to rounding.

    `model.backends.distribution` checks the fields that depend on the devices.
    """

    gradient_accumulation_steps: int = setting(1, "micro-batches in a batch", least=1)
    num_devices: int | None = setting(
        None, "GPUs that share each batch; null: one on TensorFlow, all on JAX"
    )
    precision: str = setting("float32", "Keras dtype policy", choices=PRECISIONS)
    remat: bool = setting(False, "compute layers again for their gradients: less memory, slower")
    tf32: bool = setting(True, "float32 products may be TF32 on GPUs; false: exact, slower")
    jit_compile: bool | None = setting(None, "use XLA; null: on GPUs and TPUs")
    deterministic: bool = setting(False, "repeat results bit for bit; slower")
    loggers: tuple[str, ...] = setting((), "services to log to", choices=("wandb", "mlflow"))


def max_predictions_per_seq(length: int, mask_prob: float) -> int:
    """P: the most positions that are masked in a row of `length` tokens."""
    return min(length, max(1, int((mask_prob + 0.005) * length)))


def as_config(config: Any, kind: type = ConvBertConfig) -> Any:
    """A configuration, given as one or as the dict that a saved Keras model keeps of it."""
    return config if isinstance(config, kind) else override(kind(), config)


def load_hparams(text_or_path: str, option: str = "--hparams") -> dict[str, Any]:
    """`option`: a JSON object, given as text (it starts with "{") or as the path of a file.

    Raises:
        InputError: no such file, not JSON (with line and column), or not an object.
    """
    if text_or_path.lstrip().startswith("{"):
        return parse_json_object(text_or_path, option)
    if not os.path.isfile(text_or_path):
        text = shortened(text_or_path)
        raise InputError(f"{option}: not a JSON object, and no such file: {text}")
    return read_json_object(text_or_path)
