"""Makes the first import of TensorFlow and Keras in a process take half as long.

If they are installed, Keras imports scikit-learn (and with it SciPy's statistics) for wrappers, and
Matplotlib for plots of images. An import makes a million objects, and Python's garbage collector
would search them again and again. TensorFlow Text loads twenty libraries (100 MB), but only two of
them are needed.
"""

import functools
import gc
import importlib.abc
import importlib.machinery
import sys

from typing_extensions import override

LEAN = ("tensorflow", "keras")  # TensorFlow imports Keras
UNNEEDED = ("sklearn", "matplotlib")
# Packages whose modules are imported one by one: the package itself would import all of them.
EMPTY = ("tensorflow_text", "tensorflow_text.python", "tensorflow_text.python.ops")


class _LeanImports(importlib.abc.MetaPathFinder):
    _importing = False

    @override
    def find_spec(self, fullname, path=None, target=None):
        if fullname in UNNEEDED and self._importing:
            raise ModuleNotFoundError(f"not imported for Keras: {fullname}", name=fullname)
        is_empty = fullname in EMPTY
        if not is_empty and (fullname not in LEAN or self._importing):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = functools.partial(self._execute, spec.loader.exec_module)
            spec.loader.exec_module = (lambda module: None) if is_empty else execute
        return spec

    def _execute(self, execute, module):
        self._importing = True
        gc.disable()
        try:
            execute(module)
        finally:
            self._importing = False
            gc.enable()
            gc.freeze()  # modules are never garbage


def install() -> None:
    """Makes the first import of TensorFlow and Keras in this process lean; others are as usual."""
    sys.meta_path.insert(0, _LeanImports())
