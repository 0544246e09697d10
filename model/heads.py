"""Encoders with a head: one class per kind of task, with the loss that trains it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
from keras import ops
from typing_extensions import override

from common.errors import InputError
from common.fields import require_one_of
from model.config import HEAD_FIELDS, as_config
from model.convbert import ConvBertModel, PretrainedModel
from model.layers.base import MASK_BIAS
from model.layers.heads import ClassificationHead, JointSpanHead, MaskedLMHead
from model.losses import BinaryCrossEntropy, PositionCrossEntropy, TokenCrossEntropy
from model.weights import pretrained


class HeadModel(PretrainedModel):
    """A ConvBERT encoder and a head that reads its vectors.

    Args:
        config: a `ConvBertConfig`.
        convbert: a `ConvBertModel` to share with other heads; None creates one.

    Call arguments:
        inputs: the dict of `ConvBertModel`, unless the class says otherwise.
    """

    head_name = "classifier"  # the attribute that holds the head's layer
    # Names of the outputs of shape [B, T, …]; a single output is called "logits".
    token_outputs: tuple[str, ...] = ()
    # Names of inputs that the head reads and the encoder does not.
    further_inputs: tuple[str, ...] = ()
    # For a class with several kinds of head: the argument that selects one, and its values, each
    # under a tensor's name. The first kind whose tensor a file contains is the kind of its head; if
    # there is none, the last kind is the default.
    kind_argument = ""
    kinds: Mapping[str, Any] = {}
    # For the losses of labels; set them before `compile`. See `TokenCrossEntropy`.
    class_weights: tuple[float, ...] | None = None
    label_smoothing = 0.0

    def __init__(self, config, convbert: ConvBertModel | None = None, **kwargs):
        super().__init__(config, **kwargs)
        if convbert is None:
            convbert = ConvBertModel(self.config, name="convbert", dtype=self.dtype_policy)
        ours, theirs = dataclasses.asdict(self.config), dataclasses.asdict(convbert.config)
        different = [n for n in ours if n not in HEAD_FIELDS and ours[n] != theirs[n]]
        if different:
            raise InputError(
                "the encoder `convbert` and the head have different configurations: "
                f"{', '.join(different)}"
            )
        self.convbert = convbert

    def add_head(self, layer_class, name: str, *arguments, **options) -> None:
        """Creates the head's layer and its variables."""
        layer = layer_class(*arguments, name=name, dtype=self.dtype_policy, **options)
        setattr(self, self.head_name, layer)
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the head's variables; no shape is needed."""
        tokens = (None,) if self.token_outputs else ()
        getattr(self, self.head_name).build((None, *tokens, self.config.hidden_size))

    @override
    def encoder(self):
        return self.convbert

    @override
    def call(self, inputs, training=False):
        hidden = self.convbert(encoder_inputs(inputs, self.further_inputs), training=training)
        return self.apply_head(hidden, inputs, training=training)

    def apply_head(self, hidden, inputs: dict, training=False):
        """Returns the outputs for the encoder's vectors [B, T, H] and the inputs behind them."""
        raise NotImplementedError

    def head_loss(self, reduction: str) -> keras.losses.Loss:
        """Returns the loss of a head with one output: by default cross-entropy, targets int [B]."""
        if self.class_weights or self.label_smoothing:
            return self.token_loss(reduction)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)

    def token_loss(self, reduction: str) -> keras.losses.Loss:
        """Returns the cross-entropy with the head's `class_weights` and `label_smoothing`."""
        return TokenCrossEntropy(self.class_weights, self.label_smoothing, reduction=reduction)

    def objective(self, reduction: str = "sum") -> dict[str, Any]:
        """Returns the arguments `loss` and `loss_weights` of `compile` that train the head.

        The reduction "sum" adds the examples' losses, as the original does in fine-tuning.
        "sum_over_batch_size" is their mean (over tokens, if tokens have targets), as in Hugging
        Face's models.
        """
        return {"loss": self.head_loss(reduction), "loss_weights": None}

    @override
    def tensors(self):
        return self.convbert.tensors() + pretrained.classifier_tensors(self.classifier)

    @classmethod
    @override
    def _options_from(cls, source, options):
        if not cls.kinds:
            return options
        shown = next((kind for name, kind in cls.kinds.items() if name in source.arrays), None)
        requested = options.get(cls.kind_argument)
        if requested is None:
            default = list(cls.kinds.values())[-1]
            return options | {cls.kind_argument: default if shown is None else shown}
        if shown not in (None, requested):
            raise InputError(
                f"`{cls.kind_argument}` of the head in {source.path} is {json.dumps(shown)}. "
                f"Received: {json.dumps(requested)}"
            )
        return options


def encoder_inputs(inputs, further: tuple[str, ...]):
    """Returns `inputs` without those that only a head reads."""
    if not further or not isinstance(inputs, dict):
        return inputs
    return {name: array for name, array in inputs.items() if name not in further}


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForMaskedLM(HeadModel):
    """A ConvBERT encoder that predicts masked tokens: ELECTRA's generator, or a plain MLM.

    Args:
        config: a `ConvBertConfig`.
        embeddings: an `Embeddings` layer to share with another encoder; None creates one.
        convbert: see `HeadModel`.

    Returns:
        Float32 logits [B, T, V]. Targets are int [B, T], -100 for tokens without one.
    """

    architecture = "ConvBertForMaskedLM"
    head_name = "head"
    token_outputs = ("logits",)

    def __init__(self, config, embeddings=None, convbert=None, **kwargs):
        if embeddings is not None:
            dtype = kwargs.get("dtype")
            convbert = ConvBertModel(as_config(config), embeddings, name="convbert", dtype=dtype)
        super().__init__(config, convbert, **kwargs)
        self.add_head(MaskedLMHead, "generator_predictions", self.config)

    @override
    def apply_head(self, hidden, inputs, training=False):
        return self.predict_tokens(hidden)

    def predict_tokens(self, hidden, multiple: int = 1):
        """Vectors [B, P, H] → float32 logits [B, P, V]; for `multiple`, see `MaskedLMHead`."""
        return self.head(hidden, self.convbert.embeddings.word_embeddings, multiple=multiple)

    @override
    def head_loss(self, reduction):
        return TokenCrossEntropy(reduction=reduction)

    @override
    def tensors(self):
        return self.convbert.tensors() + pretrained.masked_lm_tensors(self.head)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForSequenceClassification(HeadModel):
    """A ConvBERT encoder with a classifier, or a regressor, on the vector of [CLS].

    Args:
        config: a `ConvBertConfig`; there are `num_labels` outputs (1 for regression).
        classifier_head: "linear", the original's, or "mlp", Hugging Face's.
        convbert: see `HeadModel`.

    Returns:
        Float32 logits [B, num_labels]. Targets are int [B]; for multi-label classification 0 or 1,
        [B, num_labels]; for regression float [B].
    """

    architecture = "ConvBertForSequenceClassification"
    kind_argument = "classifier_head"
    kinds: ClassVar = {"classifier.out_proj.weight": "mlp", "classifier.weight": "linear"}

    def __init__(self, config, classifier_head: str = "linear", convbert=None, **kwargs):
        require_one_of("classifier_head", classifier_head, self.kinds.values())
        super().__init__(config, convbert, **kwargs)
        self.add_head(ClassificationHead, "classifier", self.config, classifier_head)

    @override
    def apply_head(self, hidden, inputs, training=False):
        return self.classifier(hidden[:, 0], training=training)

    @override
    def head_loss(self, reduction):
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.config.num_labels == 1):
            return keras.losses.MeanSquaredError(reduction=reduction)
        if kind == "multi_label_classification":  # the mean over an example's labels
            smoothing = {"label_smoothing": self.label_smoothing, "reduction": reduction}
            return keras.losses.BinaryCrossentropy(from_logits=True, **smoothing)
        return super().head_loss(reduction)

    def get_config(self):
        """The constructor's arguments."""
        return super().get_config() | {"classifier_head": self.classifier.kind}


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForTokenClassification(HeadModel):
    """A ConvBERT encoder with Hugging Face's classifier of each token's vector.

    Args:
        config: a `ConvBertConfig`; there are `num_labels` outputs.
        convbert: see `HeadModel`.

    Returns:
        Float32 logits [B, T, num_labels]. Targets are int [B, T], -100 for tokens without one.
    """

    architecture = "ConvBertForTokenClassification"
    token_outputs = ("logits",)

    def __init__(self, config, convbert=None, **kwargs):
        super().__init__(config, convbert, **kwargs)
        self.add_head(ClassificationHead, "classifier", self.config)

    @override
    def apply_head(self, hidden, inputs, training=False):
        return self.classifier(hidden, training=training)

    @override
    def head_loss(self, reduction):
        return self.token_loss(reduction)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForQuestionAnswering(HeadModel):
    """A ConvBERT encoder that finds where a text answers a question: [CLS] question [SEP] text.

    Args:
        config: a `ConvBertConfig`. Its labels are ignored: the outputs are start and end.
        joint_prediction: use the original's head, where the end depends on the start, instead of
            Hugging Face's; see `model.layers.heads.JointSpanHead`.
        beam_size: beam size of the joint head; None means `config.beam_size`.
        answerable_weight: weight of the joint head's loss for whether there is an answer.
        convbert: see `HeadModel`.

    Call arguments:
        inputs: the dict of `ConvBertModel`. The joint head needs `segment_ids`, 1 for the text,
            and, in training, `start_positions`, int [B].

    Returns:
        Hugging Face's head: float32 {"start_logits": [B, T], "end_logits": [B, T]}; with
        `mask_padding`, padding has no probability. The joint head: see `JointSpanHead.call`.
        Targets of `start_logits` and `end_logits` are positions int [B], 0 if there is no answer;
        positions outside the row are ignored. Targets of `answerable_logits` are 1.0 if there is
        no answer, otherwise 0.0.
    """

    architecture = "ConvBertForQuestionAnswering"
    head_name = "head"
    token_outputs = ("start_logits", "end_logits")
    kind_argument = "joint_prediction"
    kinds: ClassVar = {"qa_joint.start.weight": True, "qa_outputs.weight": False}

    def __init__(
        self,
        config,
        joint_prediction: bool = False,
        beam_size: int | None = None,
        answerable_weight: float = 0.5,
        convbert=None,
        **kwargs,
    ):
        config = as_config(config)
        labels = {"num_labels": 2, "id2label": None, "problem_type": None, "score_range": None}
        beam_size = beam_size or config.beam_size
        config = dataclasses.replace(config, **labels, beam_size=beam_size)
        super().__init__(config, convbert, **kwargs)
        self.joint_prediction = joint_prediction
        self.answerable_weight = answerable_weight
        if joint_prediction:
            self.further_inputs = ("start_positions",)
            self.add_head(JointSpanHead, "qa_joint", config)
        else:
            self.add_head(keras.layers.Dense, "qa_outputs", 2)

    @override
    def apply_head(self, hidden, inputs, training=False):
        mask = inputs.get("input_mask")
        if not self.joint_prediction:
            logits = ops.cast(self.head(hidden), "float32")
            if mask is not None and self.config.mask_padding:
                padding = 1.0 - ops.cast(ops.expand_dims(mask, -1), "float32")
                logits += padding * MASK_BIAS
            return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}
        if "segment_ids" not in inputs:
            raise ValueError(
                "The joint question-answering head needs `segment_ids`, 1 for the tokens of the "
                f"text. Received: {sorted(inputs)}"
            )
        return self.head(hidden, mask, inputs["segment_ids"], inputs.get("start_positions"))

    @override
    def objective(self, reduction="sum"):
        names = ("start_logits", "end_logits")
        losses = {name: PositionCrossEntropy(reduction=reduction) for name in names}
        weights = {"start_logits": 0.5, "end_logits": 0.5}
        if self.joint_prediction:
            losses["answerable_logits"] = BinaryCrossEntropy(reduction=reduction)
            weights["answerable_logits"] = self.answerable_weight
        return {"loss": losses, "loss_weights": weights}

    @override
    def tensors(self):
        rows = pretrained.joint_span_tensors if self.joint_prediction else pretrained.span_tensors
        return self.convbert.tensors() + rows(self.head)

    def get_config(self):
        """The constructor's arguments."""
        names = ("joint_prediction", "answerable_weight")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForMultipleChoice(HeadModel):
    """A ConvBERT encoder that picks one of several rows: a question with each of its answers.

    Args:
        config: a `ConvBertConfig`. Its `summary_type` selects the token whose vector the head
            reads: the "first" or the "last". With `mask_padding`, "last" is the last token before
            the padding. Without it, "last" is the row's last position, even if it is padding, as in
            Hugging Face's model.
        convbert: see `HeadModel`.
        classifier_head: "linear", or "mlp" for Hugging Face's with `summary_use_proj`.

    Call arguments:
        inputs: the dict of `ConvBertModel`, with arrays [B, choices, T].

    Returns:
        Float32 logits [B, choices]. Targets are int [B].
    """

    architecture = "ConvBertForMultipleChoice"
    input_rank = 3
    kind_argument = "classifier_head"
    kinds: ClassVar = {pretrained.PROJECTION: "mlp", "classifier.weight": "linear"}

    def __init__(self, config, convbert=None, classifier_head: str = "linear", **kwargs):
        require_one_of("classifier_head", classifier_head, self.kinds.values())
        super().__init__(config, convbert, **kwargs)
        self.add_head(ClassificationHead, "classifier", self.config, classifier_head, units=1)

    @override
    def tensors(self):
        rows = pretrained.classifier_tensors(self.classifier, is_choice=True)
        return self.convbert.tensors() + rows

    def get_config(self):
        """The constructor's arguments."""
        return super().get_config() | {"classifier_head": self.classifier.kind}

    @override
    def call(self, inputs, training=False):
        arrays = inputs.values() if isinstance(inputs, dict) else [inputs]
        shapes = [tuple(array.shape) for array in arrays]
        if any(len(shape) != 3 for shape in shapes):
            raise ValueError(f"Expected arrays [B, choices, T]. Received: shapes {shapes}")
        rows = {
            name: ops.reshape(array, (-1, ops.shape(array)[2])) for name, array in inputs.items()
        }
        logits = super().call(rows, training=training)  # [B · choices]
        return ops.reshape(logits, (-1, ops.shape(inputs["input_ids"])[1]))

    @override
    def apply_head(self, hidden, inputs, training=False):
        vectors = hidden[:, 0]
        if self.config.summary_type == "last":
            vectors = hidden[:, -1]
            if "input_mask" in inputs and self.config.mask_padding:
                mask = ops.cast(inputs["input_mask"], "int32")
                last = ops.argmax(mask * ops.arange(ops.shape(mask)[1], dtype="int32"), axis=-1)
                is_last = ops.one_hot(last, ops.shape(mask)[1], dtype=hidden.dtype)
                vectors = ops.squeeze(ops.matmul(ops.expand_dims(is_last, 1), hidden), axis=1)
        return ops.squeeze(self.classifier(vectors, training=training), axis=-1)
