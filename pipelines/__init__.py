"""Saved models as objects that take text: each joins a tokenizer with a network.

`data` and `model` do not know each other, so what needs both lives here. Names are imported on
first use, so that finding out what a directory holds costs no TensorFlow import.
"""

import importlib

_PUBLIC = {
    "FeatureExtractor": "pipelines.feature_extractor",
    "FillMask": "pipelines.fill_mask",
    "MultipleChoice": "pipelines.multiple_choice",
    "QuestionAnswerer": "pipelines.question_answerer",
    "Tagger": "pipelines.tagger",
    "TextClassifier": "pipelines.classifier",
}

__all__ = [
    "FeatureExtractor",
    "FillMask",
    "MultipleChoice",
    "QuestionAnswerer",
    "Tagger",
    "TextClassifier",
]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
