"""Puts the project's root on the path, for a script that is run as a file from any folder.

`python scripts/NAME.py` has scripts/ in front of its path; each script therefore imports this
module before any other of the project's.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
