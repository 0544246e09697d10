"""Draws the curves of one or several pre-training runs into one PNG.

    python3 scripts/plot_run.py DATA_DIR/models/NAME [DATA_DIR/models/OTHER …] --output run.png

Reads each run's train_log.jsonl, even while the run is still going. Points are evaluations.
"""

import argparse
import os
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from common.fields import require
from common.files import parse_json_object
from jobs import figures
from jobs.loggers import LOG_FILE
from pipelines.command_line import check_output

PANELS = {
    "loss": "loss",
    "mlm_accuracy": "masked-token accuracy",
    "rtd_auc": "AUC of replaced-token detection",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens per second",
}
NOISY = ("loss", "mlm_accuracy", "rtd_auc", "tokens_per_second")
DASHES = ("-", "--", ":")  # for the first, second and third round of colors


def main(arguments: list[str] | None = None) -> None:
    """Reads the logs, draws them, writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help=f"directory with a {LOG_FILE}")
    parser.add_argument("--output", default="run.png", help="the picture (default: %(default)s)")
    args = parser.parse_args(arguments)
    check_output(args.output, ".png")
    names = [os.path.basename(os.path.abspath(path)) for path in args.runs]
    if len(set(names)) < len(names):
        names = args.runs
    figures.save(draw(names, [read_log(path) for path in args.runs]), args.output)
    print(args.output)


def read_log(run_dir: str | os.PathLike) -> list[dict]:
    """The lines of a run's log, which must have training steps."""
    path = Path(run_dir, LOG_FILE)
    if not path.is_file():
        raise InputError(f"no such file: {path}. Give a pre-training run, DATA_DIR/models/NAME")
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if texts and not texts[-1].endswith("\n"):
        texts.pop()  # being written, or the run was killed
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        lines.append(parse_json_object(text, where))
        step = lines[-1].get("step")
        require(isinstance(step, int), "step", "an integer", step, where)
        for name, value in lines[-1].items():
            require(isinstance(value, int | float), name, "a number", value, where)
    if not any("loss" in line for line in lines):
        raise InputError(f"{path} has no training steps yet")
    return lines


def draw(names: list[str], logs: list[list[dict]]):
    """A `matplotlib.figure.Figure` with a panel for each of `PANELS`, and one for the legend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    # A learning rate of 2.5e-4 is drawn as 2.5, with 1e-4 above the axis.
    with figures.style(**{"axes.formatter.limits": (-3, 6), "font.size": 9}):
        figure = Figure(figsize=(13, 7), layout="constrained")
        *panels, legend = figure.subplots(2, 3).flat
        for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            for index, log in enumerate(logs):
                _draw_curve(axes, metric, log, _style(index))
            if not axes.lines:
                axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
        panels[-1].set_ylim(bottom=0)
        panels[-1].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        handles = [legend.plot([], [], **_style(i), label=name)[0] for i, name in enumerate(names)]
        if any("eval_loss" in line for log in logs for line in log):
            handles += legend.plot([], [], "o", color="gray", label="evaluation")
        legend.set_axis_off()
        legend.legend(handles=handles, loc="upper left", frameon=False, fontsize=10)
    return figure


def _style(index: int) -> dict:
    rounds, color = divmod(index, len(figures.COLORS))
    return {"color": figures.COLORS[color], "linestyle": DASHES[rounds % len(DASHES)]}


def _draw_curve(axes, metric: str, log: list[dict], style: dict) -> None:
    """One run's curve, smoothed over a faint exact one, and its evaluations."""
    steps, values = _series(log, metric)
    smooth = smoothed(values) if metric in NOISY else values
    if smooth != values:
        axes.plot(steps, values, **style, alpha=0.25, linewidth=0.8)
    if steps:
        # A line through one point is invisible.
        axes.plot(steps, smooth, **style, marker="." if len(steps) == 1 else None)
    steps, values = _series(log, f"eval_{metric}")
    if steps:
        point = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "linestyle": "none"}
        axes.plot(steps, values, color=style["color"], **point, zorder=3)


def _series(log: list[dict], name: str) -> tuple[list[int], list[float]]:
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def smoothed(values: list[float]) -> list[float]:
    """Means over the nearest 5 % of the curve; a curve of fewer than 40 points is unchanged.

    The window is centered, so that the curve does not lag; it is narrower at the steep beginning,
    and cut off at the end.
    """
    reaches = [min(len(values) // 40, i) for i in range(len(values))]
    windows = [values[i - reach : i + reach + 1] for i, reach in enumerate(reaches)]
    return [sum(window) / len(window) for window in windows]


if __name__ == "__main__":
    errors.run(main)
