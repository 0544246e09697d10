"""What tests/support/processes.py imports before it forks: all that jobs need, as they do it."""

from common import lean_imports

lean_imports.install()

import tensorflow  # noqa: E402, F401

from data.records import batches  # noqa: E402, F401
from data.tasks import batching  # noqa: E402, F401
from model.training import callbacks  # noqa: E402, F401
