"""Text → tokens → examples → records → batches; tasks and metrics.

Names are imported on first use, so that a script's `--help` costs no TensorFlow import.
"""

import importlib

_PUBLIC = {"ConvBertTokenizer": "data.tokenizer.tokenizer"}

__all__ = ["ConvBertTokenizer"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
