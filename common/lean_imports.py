"""Makes the first import of TensorFlow and Keras in a process take half as long.

Keras imports scikit-learn, and with it SciPy's statistics, for wrappers, and Matplotlib for plots
of images; without them, it does without. And of the million objects that an import makes, Python
would look for garbage among all of them again and again.
"""

import functools
import gc
import importlib.abc
import importlib.machinery
import sys

from typing_extensions import override

LEAN = ("tensorflow", "keras")  # TensorFlow imports Keras
UNNEEDED = ("sklearn", "matplotlib")


class _LeanImports(importlib.abc.MetaPathFinder):
    _importing = False

    @override
    def find_spec(self, fullname, path=None, target=None):
        if fullname in UNNEEDED and self._importing:
            raise ModuleNotFoundError(f"not imported for Keras: {fullname}", name=fullname)
        if fullname not in LEAN or self._importing:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(self._execute, spec.loader.exec_module)
        return spec

    def _execute(self, execute, module):
        self._importing = True
        gc.disable()
        try:
            execute(module)
        finally:
            self._importing = False
            gc.enable()
            gc.freeze()  # modules stay: to look at them again would be no use


def install() -> None:
    """Makes such an import in this process lean; everything else imports as ever."""
    sys.meta_path.insert(0, _LeanImports())
