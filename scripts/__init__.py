"""Commands: `python scripts/NAME.py` from any folder, or `python -m scripts.NAME` from the root."""

import sys
import types

# Run as a module, a script has the root on its path already: its `import bootstrap` does nothing.
sys.modules.setdefault("bootstrap", types.ModuleType("bootstrap"))
