"""The network, its objective, its optimizer and its checkpoints, on any Keras backend.

A name is imported on first use, so that reading a configuration does not import Keras. Once Keras
is loaded, all are imported: `keras.models.load_model` finds only imported classes.
"""

import importlib
import sys

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

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    if "keras" in sys.modules:
        _import_all()
    return getattr(module, name)


def _import_all():
    for name in (*_PUBLIC.values(), "model.training.optimizer"):
        importlib.import_module(name)


if "keras" in sys.modules:
    _import_all()
