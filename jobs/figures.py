"""The common style of charts, and how they are saved."""

import contextlib
import os
from collections.abc import Iterator

from common import files

# Okabe and Ito's palette, for color-blind readers, without its yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@contextlib.contextmanager
def style(**more: object) -> Iterator[None]:
    """Inside, new axes have a light grid and no box; `more` are further matplotlib settings."""
    import matplotlib

    plain = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    with matplotlib.rc_context(plain | {"grid.alpha": 0.3} | more):
        yield


def save(figure, path: str | os.PathLike) -> None:
    """Writes a `matplotlib.figure.Figure` as a PNG, whole or not at all."""
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
