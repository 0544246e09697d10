"""The network, its objective, its optimiser and its checkpoints, on any Keras backend.

Names are imported on first use, so that reading a configuration costs no Keras import.
"""

import importlib

_PUBLIC = {
    "ConvBertConfig": "model.config",
    "ConvBertModel": "model.convbert",
    "ConvBertForPreTraining": "model.pretraining",
    "ConvBertForMaskedLM": "model.heads",
    "ConvBertForSequenceClassification": "model.heads",
    "ConvBertForTokenClassification": "model.heads",
    "ConvBertForQuestionAnswering": "model.heads",
    "ConvBertForMultipleChoice": "model.heads",
    "JointModel": "model.joint",
}

__all__ = [
    "ConvBertConfig",
    "ConvBertForMaskedLM",
    "ConvBertForMultipleChoice",
    "ConvBertForPreTraining",
    "ConvBertForQuestionAnswering",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertModel",
    "JointModel",
]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
