"""Text → tokens → records; tasks and metrics.

Names are imported when they are first used, so that `--help` does not load TensorFlow.
"""

import importlib

_PUBLIC = {"ConvBertTokenizer": "data.tokenizer.tokenizer"}

__all__ = ["ConvBertTokenizer"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
