"""What Keras needs not import, it does not, and everything else may."""

import subprocess
import sys

CODE = """
import gc, sys
from common import lean_imports
lean_imports.install()
import tensorflow
found = [name for name in ("sklearn", "matplotlib") if name in sys.modules]
assert not found, found
assert gc.isenabled() and gc.get_freeze_count() > 10_000
import keras, matplotlib.pyplot, sklearn.metrics
assert tensorflow.keras.Model is keras.Model
assert sklearn.metrics.accuracy_score([1, 0], [1, 1]) == 0.5
"""


def test_only_what_keras_imports_is_left_out():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
