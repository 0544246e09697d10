"""Puts the project's root on the path, for a script that is run as a file from any folder.

`python scripts/NAME.py` puts scripts/ first on the path, not the root. Each script therefore
imports this module before any other of the project's.
"""

import importlib.util
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
if importlib.util.find_spec("absl") is None:
    sys.exit(
        f"error: packages from requirements.txt are missing in {sys.executable}; "
        "bash quickstart.sh makes .venv"
    )
