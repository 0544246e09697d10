"""What is not needed is not imported, and what needs it itself still imports it."""

from tests.support.processes import run_python

CODE = """
import gc, sys
from common import lean_imports
lean_imports.install()
import tensorflow
found = [name for name in ("sklearn", "matplotlib") if name in sys.modules]
assert not found, found
assert gc.isenabled() and gc.get_freeze_count() > 10_000
from data.tokenizer.wordpiece import WordPiece
assert "tensorflow_text.python.ops.fast_wordpiece_tokenizer" in sys.modules
assert "tensorflow_text.python.ops.bert_tokenizer" not in sys.modules
import keras, matplotlib.pyplot, sklearn.metrics
assert tensorflow.keras.Model is keras.Model
assert sklearn.metrics.accuracy_score([1, 0], [1, 1]) == 0.5
"""


def test_imports_are_lean():
    run_python("-c", CODE)
