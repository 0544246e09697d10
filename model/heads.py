"""Encoders with a head."""

import keras

from errors import InputError
from model import checkpoint
from model.config import require_one_of
from model.convbert import ConvBertModel, PretrainedModel
from model.layers import ClassificationHead, MaskedLMHead

CLASSIFIER_HEADS = ("linear", "mlp")


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForMaskedLM(PretrainedModel):
    """A ConvBERT encoder that predicts masked tokens: ELECTRA's generator, or a plain MLM.

    Args:
        config: a `ConvBertConfig`.
        embeddings: an `Embeddings` layer to share with another encoder; None makes one.

    Call arguments:
        inputs: the dict of `ConvBertModel`.

    Returns:
        Float32 logits [B, T, V].
    """

    architecture = "ConvBertForMaskedLM"

    def __init__(self, config, embeddings=None, **kwargs):
        super().__init__(config, **kwargs)
        self.convbert = ConvBertModel(
            self.config, embeddings, name="convbert", dtype=self.dtype_policy
        )
        self.head = MaskedLMHead(self.config, name="generator_predictions", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.head.build()

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.convbert(inputs, training=training)
        return self.predict_tokens(hidden)

    def predict_tokens(self, hidden):
        """Vectors [B, P, H] → float32 logits [B, P, V]."""
        return self.head(hidden, self.convbert.embeddings.word_embeddings)

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + checkpoint.masked_lm_tensors(self.head)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForSequenceClassification(PretrainedModel):
    """A ConvBERT encoder with a classifier, or a regressor, on the vector of [CLS].

    Args:
        config: a `ConvBertConfig`; `num_labels` outputs (1 for regression).
        classifier_head: "linear", the original's, or "mlp", Hugging Face's.

    Call arguments:
        inputs: the dict of `ConvBertModel`.

    Returns:
        Float32 logits [B, num_labels].
    """

    architecture = "ConvBertForSequenceClassification"

    def __init__(self, config, classifier_head: str = "linear", **kwargs):
        super().__init__(config, **kwargs)
        require_one_of("classifier_head", classifier_head, CLASSIFIER_HEADS)
        self.convbert = ConvBertModel(self.config, name="convbert", dtype=self.dtype_policy)
        self.classifier = ClassificationHead(
            self.config, classifier_head, name="classifier", dtype=self.dtype_policy
        )
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; no shape is needed."""
        self.classifier.build()

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.convbert(inputs, training=training)
        return self.classifier(hidden[:, 0], training=training)

    def tensors(self):
        """See `PretrainedModel.tensors`."""
        return self.convbert.tensors() + checkpoint.classifier_tensors(self.classifier)

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
