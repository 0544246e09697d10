"""Encoders with a head: a class for each kind of task, and the loss that teaches it."""

import dataclasses
import json
from typing import Any

import keras
from keras import ops

from common.errors import InputError
from common.fields import require_one_of
from model.config import HEAD_FIELDS, as_config
from model.convbert import ConvBertModel, PretrainedModel
from model.layers.base import MASK_BIAS
from model.layers.heads import ClassificationHead, JointSpanHead, MaskedLMHead
from model.losses import BinaryCrossEntropy, PositionCrossEntropy, TokenCrossEntropy
from model.weights import pretrained

CLASSIFIER_HEADS = ("linear", "mlp")


class HeadModel(PretrainedModel):
    """A ConvBERT encoder and a head that reads its vectors.

    Args:
        config: a `ConvBertConfig`.
        convbert: a `ConvBertModel` to share with other heads; None makes one.
    """

    # Names of the outputs that are [B, T, …]; where there is a single output it is "logits".
    token_outputs: tuple[str, ...] = ()
    # Names of inputs that the head reads beside the encoder's.
    further_inputs: tuple[str, ...] = ()

    def __init__(self, config, convbert: ConvBertModel | None = None, **kwargs):
        super().__init__(config, **kwargs)
        if convbert is None:
            convbert = ConvBertModel(self.config, name="convbert", dtype=self.dtype_policy)
        different = [
            field.name
            for field in dataclasses.fields(self.config)
            if field.name not in HEAD_FIELDS
            and getattr(self.config, field.name) != getattr(convbert.config, field.name)
        ]
        if different:
            raise InputError(
                "`convbert`, the encoder to share, has another configuration than the head: "
                f"{', '.join(different)}"
            )
        self.convbert = convbert

    def encoder(self):
        """See `PretrainedModel.encoder`."""
        return self.convbert

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.convbert(encoder_inputs(inputs, self.further_inputs), training=training)
        return self.apply_head(hidden, inputs, training=training)

    def apply_head(self, hidden, inputs: dict, training=False):
        """The outputs, from the encoder's vectors [B, T, H] and what they were computed from."""
        raise TypeError(f"{type(self).__name__} has no head")

    def objective(self, reduction: str = "sum") -> dict[str, Any]:
        """The arguments `loss` and `loss_weights` of `compile` that train the head.

        Args:
            reduction: "sum" adds up the examples' losses, as the original does in fine-tuning;
                "sum_over_batch_size" is their mean (where tokens have targets: the tokens'), as
                Hugging Face has it.
        """
        raise TypeError(f"{type(self).__name__} has no loss of its own")


def encoder_inputs(inputs, further: tuple[str, ...]):
    """`inputs` without those that a head alone reads."""
    if not further or not isinstance(inputs, dict):
        return inputs
    return {name: array for name, array in inputs.items() if name not in further}


def cross_entropy(reduction: str) -> keras.losses.Loss:
    """Of logits [B, C] with targets int [B]."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForMaskedLM(HeadModel):
    """A ConvBERT encoder that predicts masked tokens: ELECTRA's generator, or a plain MLM.

    Args:
        config: a `ConvBertConfig`.
        embeddings: an `Embeddings` layer to share with another encoder; None makes one.
        convbert: a `ConvBertModel` to share with other heads; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`.

    Returns:
        Float32 logits [B, T, V]. Targets are int [B, T], -100 for a token that has none.
    """

    architecture = "ConvBertForMaskedLM"
    token_outputs = ("logits",)

    def __init__(self, config, embeddings=None, convbert=None, **kwargs):
        if embeddings is not None:
            dtype = kwargs.get("dtype")
            convbert = ConvBertModel(as_config(config), embeddings, name="convbert", dtype=dtype)
        super().__init__(config, convbert, **kwargs)
        self.head = MaskedLMHead(self.config, name="generator_predictions", dtype=self.dtype_policy)
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.head.build((None, None, self.config.hidden_size))

    def apply_head(self, hidden, inputs, training=False):
        """See `HeadModel.apply_head`."""
        return self.predict_tokens(hidden)

    def predict_tokens(self, hidden):
        """Vectors [B, P, H] → float32 logits [B, P, V]."""
        return self.head(hidden, self.convbert.embeddings.word_embeddings)

    def objective(self, reduction="sum"):
        """See `HeadModel.objective`."""
        return {"loss": TokenCrossEntropy(reduction=reduction), "loss_weights": None}

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + pretrained.masked_lm_tensors(self.head)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForSequenceClassification(HeadModel):
    """A ConvBERT encoder with a classifier, or a regressor, on the vector of [CLS].

    Args:
        config: a `ConvBertConfig`; `num_labels` outputs (1 for regression).
        classifier_head: "linear", the original's, or "mlp", Hugging Face's.
        convbert: a `ConvBertModel` to share with other heads; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`.

    Returns:
        Float32 logits [B, num_labels]. Targets are int [B]; for several labels an example 0 or 1,
        [B, num_labels]; for regression float [B].
    """

    architecture = "ConvBertForSequenceClassification"

    def __init__(self, config, classifier_head: str = "linear", convbert=None, **kwargs):
        require_one_of("classifier_head", classifier_head, CLASSIFIER_HEADS)
        super().__init__(config, convbert, **kwargs)
        self.classifier = ClassificationHead(
            self.config, classifier_head, name="classifier", dtype=self.dtype_policy
        )
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.classifier.build((None, self.config.hidden_size))

    def apply_head(self, hidden, inputs, training=False):
        """See `HeadModel.apply_head`."""
        return self.classifier(hidden[:, 0], training=training)

    def objective(self, reduction="sum"):
        """See `HeadModel.objective`."""
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.config.num_labels == 1):
            loss = keras.losses.MeanSquaredError(reduction=reduction)
        elif kind == "multi_label_classification":  # the mean over an example's labels
            loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
        else:
            loss = cross_entropy(reduction)
        return {"loss": loss, "loss_weights": None}

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + pretrained.classifier_tensors(self.classifier)

    @classmethod
    def _options_from(cls, source, options):
        """The head's kind is what the tensors say; asking for the other kind is an error."""
        names = set(source.arrays)
        kinds = {"classifier.weight": "linear", "classifier.out_proj.weight": "mlp"}
        found = next((kind for name, kind in kinds.items() if name in names), None)
        asked = options.get("classifier_head")
        if found and asked and found != asked:
            raise InputError(
                f'{source.path} has the "{found}" classifier head; asked for was "{asked}"'
            )
        return options | {"classifier_head": asked or found or "linear"}

    def get_config(self):
        """Arguments of the constructor."""
        return super().get_config() | {"classifier_head": self.classifier.kind}


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForTokenClassification(HeadModel):
    """A ConvBERT encoder with a classifier of each token's vector, Hugging Face's.

    Args:
        config: a `ConvBertConfig`; `num_labels` outputs.
        convbert: a `ConvBertModel` to share with other heads; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`.

    Returns:
        Float32 logits [B, T, num_labels]. Targets are int [B, T], -100 for a token that has none.
    """

    architecture = "ConvBertForTokenClassification"
    token_outputs = ("logits",)

    def __init__(self, config, convbert=None, **kwargs):
        super().__init__(config, convbert, **kwargs)
        self.classifier = ClassificationHead(
            self.config, name="classifier", dtype=self.dtype_policy
        )
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.classifier.build((None, None, self.config.hidden_size))

    def apply_head(self, hidden, inputs, training=False):
        """See `HeadModel.apply_head`."""
        return self.classifier(hidden, training=training)

    def objective(self, reduction="sum"):
        """See `HeadModel.objective`."""
        return {"loss": TokenCrossEntropy(reduction=reduction), "loss_weights": None}

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + pretrained.classifier_tensors(self.classifier)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForQuestionAnswering(HeadModel):
    """A ConvBERT encoder that finds where a text answers a question: [CLS] question [SEP] text.

    Args:
        config: a `ConvBertConfig`. What it says of labels is dropped: the outputs are start and
            end.
        joint_prediction: the original's head, where the end depends on the start, in place of
            Hugging Face's; see `model.layers.heads.JointSpanHead`.
        beam_size: of the joint head; None is `config.beam_size`.
        answerable_weight: of the loss that teaches the joint head whether there is an answer.
        convbert: a `ConvBertModel` to share with other heads; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`. The joint head needs `segment_ids`, 1 for the text,
            and, to be trained, `start_positions`, int [B].

    Returns:
        Hugging Face's head: float32 {"start_logits": [B, T], "end_logits": [B, T]}; with
        `mask_padding`, padding has no probability. The joint head: what its `call` says; its
        outputs differ with and without `start_positions`. Targets are positions int [B] for
        `start_logits` and `end_logits`, 0 where there is no answer (one outside the row does not
        count), and for `answerable_logits` 1.0 where there is no answer, else 0.0.
    """

    architecture = "ConvBertForQuestionAnswering"
    token_outputs = ("start_logits", "end_logits")

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
        config = dataclasses.replace(
            config,
            num_labels=2,
            id2label=None,
            problem_type=None,
            score_range=None,
            beam_size=beam_size or config.beam_size,
        )
        super().__init__(config, convbert, **kwargs)
        self.joint_prediction = joint_prediction
        self.answerable_weight = answerable_weight
        if joint_prediction:
            self.further_inputs = ("start_positions",)
            self.head = JointSpanHead(config, name="qa_joint", dtype=self.dtype_policy)
        else:
            self.head = keras.layers.Dense(2, name="qa_outputs", dtype=self.dtype_policy)
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.head.build((None, None, self.config.hidden_size))

    def apply_head(self, hidden, inputs, training=False):
        """See `HeadModel.apply_head`."""
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
                f"text that may hold the answer. Received: {sorted(inputs)}"
            )
        return self.head(hidden, mask, inputs["segment_ids"], inputs.get("start_positions"))

    def objective(self, reduction="sum"):
        """See `HeadModel.objective`."""
        names = ("start_logits", "end_logits")
        losses = {name: PositionCrossEntropy(reduction=reduction) for name in names}
        weights = {"start_logits": 0.5, "end_logits": 0.5}
        if self.joint_prediction:
            losses["answerable_logits"] = BinaryCrossEntropy(reduction=reduction)
            weights["answerable_logits"] = self.answerable_weight
        return {"loss": losses, "loss_weights": weights}

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        rows = pretrained.joint_span_tensors if self.joint_prediction else pretrained.span_tensors
        return self.convbert.tensors() + rows(self.head)

    @classmethod
    def _options_from(cls, source, options):
        """The head's kind is what the tensors say; asking for the other kind is an error."""
        found = None
        if any(name.startswith(("qa_outputs.", "qa_joint.")) for name in source.arrays):
            found = any(name.startswith("qa_joint.") for name in source.arrays)
        asked = options.get("joint_prediction")
        if None not in (found, asked) and found != asked:
            raise InputError(
                f"{source.path} has a question-answering head of `joint_prediction` "
                f"{json.dumps(found)}; asked for was {json.dumps(asked)}"
            )
        return options | {"joint_prediction": bool(found or asked)}

    def get_config(self):
        """Arguments of the constructor."""
        names = ("joint_prediction", "answerable_weight")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForMultipleChoice(HeadModel):
    """A ConvBERT encoder that picks one of several rows: a question with each of its answers.

    Args:
        config: a `ConvBertConfig`. Its `summary_type` says which vector of a row is read: that of
            the "first" token, or of the "last". With `mask_padding` that is the last token before
            the padding, so that no result depends on padding; without, it is the row's last
            position, padding or not, as Hugging Face has it.
        convbert: a `ConvBertModel` to share with other heads; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`, with arrays [B, choices, T].

    Returns:
        Float32 logits [B, choices]. Targets are int [B].
    """

    architecture = "ConvBertForMultipleChoice"
    input_rank = 3

    def __init__(self, config, convbert=None, **kwargs):
        super().__init__(config, convbert, **kwargs)
        self.classifier = ClassificationHead(
            self.config, units=1, name="classifier", dtype=self.dtype_policy
        )
        self.build(self.input_shapes())

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.classifier.build((None, self.config.hidden_size))

    def call(self, inputs, training=False):
        """See the class."""
        arrays = inputs.values() if isinstance(inputs, dict) else [inputs]
        shapes = [tuple(array.shape) for array in arrays]
        if any(len(shape) != 3 for shape in shapes):
            raise ValueError(f"Expected arrays [B, choices, T]. Received: shapes {shapes}")
        rows = {
            name: ops.reshape(array, (-1, ops.shape(array)[2])) for name, array in inputs.items()
        }
        logits = super().call(rows, training=training)  # [B · choices]
        return ops.reshape(logits, (-1, ops.shape(inputs["input_ids"])[1]))

    def apply_head(self, hidden, inputs, training=False):
        """Logits [B · choices] of rows; see `HeadModel.apply_head`."""
        vectors = hidden[:, 0]
        if self.config.summary_type == "last":
            vectors = hidden[:, -1]
            if "input_mask" in inputs and self.config.mask_padding:
                mask = ops.cast(inputs["input_mask"], "int32")
                last = ops.argmax(mask * ops.arange(ops.shape(mask)[1], dtype="int32"), axis=-1)
                places = ops.one_hot(last, ops.shape(mask)[1], dtype=hidden.dtype)
                vectors = ops.squeeze(ops.matmul(ops.expand_dims(places, 1), hidden), axis=1)
        return ops.squeeze(self.classifier(vectors, training=training), axis=-1)

    def objective(self, reduction="sum"):
        """See `HeadModel.objective`."""
        return {"loss": cross_entropy(reduction), "loss_weights": None}

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + pretrained.classifier_tensors(self.classifier)
