"""Draws the curves of a pre-training run, or of several over one another, into one PNG.

    python3 scripts/plot_run.py DATA_DIR/models/NAME [DATA_DIR/models/OTHER …] --output run.png

Reads each run's train_log.jsonl, also while the run goes on. Points are evaluations.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors, files
from common.errors import InputError

LOG_FILE = "train_log.jsonl"
PANELS = {
    "loss": "loss",
    "mlm_accuracy": "masked-token accuracy",
    "rtd_auc": "AUC of replaced-token detection",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens a second",
}
NOISY = ("loss", "mlm_accuracy", "rtd_auc", "tokens_per_second")
# Okabe and Ito's palette, which color-blind readers can tell apart, without its yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")  # a further round of the colors each


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's log.

    Args:
        name: in the legend.
        lines: of training, ascending by step.
        evaluations: the lines with `eval_` names, likewise.
    """

    name: str
    lines: list[dict]
    evaluations: list[dict]


def main(arguments: list[str] | None = None) -> None:
    """Reads the logs, draws them, writes the picture."""
    args = parse_arguments(arguments)
    output = Path(args.output)
    if output.suffix != ".png":
        raise InputError(f"--output must end in .png. Received: {output}")
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output: the folder {output.parent} does not exist.")
    figure = draw(
        [read_run(path, name) for path, name in zip(args.runs, names(args.runs), strict=True)]
    )
    with files.atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    print(output)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help=f"folder with a {LOG_FILE}")
    parser.add_argument("--output", default="run.png", help="the picture (default: %(default)s)")
    return parser.parse_args(arguments)


def names(paths: list[str]) -> list[str]:
    """The folders' own names; where two are the same, the paths as they were given."""
    own = [os.path.basename(os.path.abspath(path)) for path in paths]
    return own if len(set(own)) == len(own) else list(paths)


def read_run(directory: str | os.PathLike, name: str) -> Run:
    """Reads the log of the run in `directory`.

    Raises:
        InputError: there is no log, it has no line of training, or a line of it is not one.
    """
    if not os.path.isdir(directory):
        raise InputError(f"no such folder: {directory}")
    path = os.path.join(directory, LOG_FILE)
    if not os.path.isfile(path):
        raise InputError(
            f"no {LOG_FILE} in {directory}. Give the folder of a pre-training run, "
            "DATA_DIR/models/NAME."
        )
    with open(path, encoding="utf-8") as file:
        texts = file.readlines()
    if texts and not texts[-1].endswith("\n"):
        texts.pop()  # being written, or cut when the run was killed
    parsed = [_parse(text, f"{path}, line {i}") for i, text in enumerate(texts, start=1)]
    run = Run(
        name,
        [line for line in parsed if "loss" in line],
        [line for line in parsed if "eval_loss" in line],
    )
    if not run.lines:
        raise InputError(f"{path} has no line of training yet.")
    return run


def _parse(text: str, place: str) -> dict:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise InputError(f"{place}: not JSON: {error}") from None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        raise InputError(f"{place}: expected an object with a whole number as `step`.")
    return line


def draw(runs: list[Run]):
    """A `matplotlib.figure.Figure` with a panel for each of `PANELS`, and one for the legend."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    style = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.formatter.limits": (-3, 6),  # a learning rate as 2.5 with 1e-4 above the axis
        "grid.alpha": 0.3,
        "font.size": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13, 7), layout="constrained")
        *panels, legend = figure.subplots(2, 3).flat
        for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            for index, run in enumerate(runs):
                _draw_curve(axes, metric, run, index)
            if not axes.lines:
                axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
        panels[-1].set_ylim(bottom=0)
        panels[-1].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        _draw_legend(legend, runs)
    return figure


def _draw_curve(axes, metric: str, run: Run, index: int) -> None:
    """One run's curve, the unsmoothed one faint behind it, and its evaluations."""
    style = _style(index)
    steps, values = _series(run.lines, metric)
    smooth = smoothed(values) if metric in NOISY else values
    if smooth != values:
        axes.plot(steps, values, **style, alpha=0.25, linewidth=0.8)
    if steps:
        # A curve of one point would not be seen.
        axes.plot(steps, smooth, **style, marker="." if len(steps) == 1 else None)
    steps, values = _series(run.evaluations, f"eval_{metric}")
    if steps:
        marker = {"marker": "o", "markersize": 6, "markeredgecolor": "white"}
        axes.plot(steps, values, color=style["color"], linestyle="none", **marker, zorder=3)


def _style(index: int) -> dict:
    rounds, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "linestyle": DASHES[rounds % len(DASHES)]}


def _series(lines: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have `name`."""
    having = [line for line in lines if name in line]
    return [line["step"] for line in having], [line[name] for line in having]


def smoothed(values: list[float]) -> list[float]:
    """Means over the nearest 5 % of the curve: of fewer than 40 points, the values themselves.

    The window is centered, so that the curve does not lag; it is narrower at the steep beginning,
    and cut at the end.
    """
    reach = len(values) // 40
    means = []
    for i in range(len(values)):
        near = min(reach, i)
        window = values[i - near : i + near + 1]
        means.append(sum(window) / len(window))
    return means


def _draw_legend(axes, runs: list[Run]) -> None:
    """The runs' names, and what a point is if there is one, where a sixth panel would be."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_style(index), label=run.name) for index, run in enumerate(runs)]
    if any(run.evaluations for run in runs):
        point = {"linestyle": "none", "marker": "o", "color": "gray"}
        handles.append(Line2D([], [], **point, label="evaluation"))
    axes.set_axis_off()
    axes.legend(handles=handles, loc="upper left", frameon=False, fontsize=10)


if __name__ == "__main__":
    errors.run(main)
