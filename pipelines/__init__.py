"""Saved models as objects that take text: each joins a tokenizer with a network.

A name is imported when it is first used, so that importing the package does not import TensorFlow.
"""

import importlib

_MODULES = {
    "FeatureExtractor": "feature_extractor",
    "FillMask": "fill_mask",
    "MultipleChoice": "multiple_choice",
    "QuestionAnswerer": "question_answerer",
    "Tagger": "tagger",
    "TextClassifier": "classifier",
}

__all__ = list(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(f"pipelines.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
