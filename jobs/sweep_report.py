"""What a sweep has found: a table, a picture, and the best settings for finetune.py."""

import dataclasses
import json
import math
import os
from typing import Any

from common import files
from common.markdown import markdown_table
from jobs import figures
from jobs.sweep_space import Range, Settings, Space
from jobs.sweep_study import NOTE

BEST = "best_hparams.json"
PANELS_PER_ROW = 4
OPTIMISTIC = (
    "The best of these settings was chosen on the dev set, so its score is optimistic: the more "
    "settings were tried, the more so. Before you compare it with other results, train with other "
    "seeds, or use a test set."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting."""

    number: int  # from 1
    is_finished: bool  # else it was pruned
    score: float | None  # the last one of a setting that was pruned, if it had any
    settings: Settings
    num_scores: int  # during the training with the first seed
    note: str


def read_rows(study: Any, space: Space) -> list[Row]:
    """The settings of an Optuna study that are done, in order."""
    from optuna.trial import TrialState

    rows = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        settings = {
            name: value if isinstance(space[name], Range) else json.loads(value)
            for name, value in trial.params.items()
        }
        is_finished, count = trial.state == TrialState.COMPLETE, len(trial.intermediate_values)
        note = trial.user_attrs.get(NOTE, "")
        rows.append(Row(trial.number + 1, is_finished, trial.value, settings, count, note))
    return rows


def best_of(rows: list[Row]) -> Row | None:
    """The finished setting with the best score, on a tie the first; None if none has finished."""
    finished = [row for row in rows if row.is_finished]
    return max(finished, key=lambda row: row.score, default=None)


def describe(settings: Settings) -> str:
    """Settings in one line."""
    return ", ".join(f"{name} {_text(value)}" for name, value in settings.items())


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def to_markdown(title: str, metric: str, space: Space, rows: list[Row]) -> str:
    """The table: the finished settings from the best down, then those that were pruned."""

    def rank(row):
        return not row.is_finished, -math.inf if row.score is None else -row.score

    header = ["setting", metric, *space, "scores", "state"]
    table = []
    for row in sorted(rows, key=rank):
        score = None if row.score is None else f"{row.score:.2f}"
        values = [_text(value) for value in row.settings.values()]
        state = "finished" if row.is_finished else f"pruned: {row.note}"
        table.append([row.number, score, *values, row.num_scores, " ".join(state.split())])
    text = f"# {title}: {len(rows)} settings, {metric} on dev\n\n"
    return f"{text}{markdown_table(header, table)}\n{OPTIMISTIC}\n"


def draw(title: str, metric: str, space: Space, rows: list[Row]):
    """A `matplotlib.figure.Figure`: the scores in order, and against each hyper-parameter."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    columns = min(PANELS_PER_ROW, 1 + len(space))
    lines = math.ceil((1 + len(space)) / columns)
    with figures.style():
        figure = Figure(figsize=(3.2 * columns, 3 * lines + 0.6), layout="constrained")
        figure.suptitle(f"{title}: {metric} on dev\nring: pruned; orange: best", fontsize=11)
        history, *panels = figure.subplots(lines, columns, squeeze=False).flat
        history.set_title("settings in order")
        history.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _draw_points(history, rows, [row.number for row in rows])
        for axes, (name, values) in zip(panels, space.items(), strict=False):
            axes.set_title(name)
            found = [row.settings[name] for row in rows]
            if not isinstance(values, Range):
                found = [values.index(value) for value in found]
                axes.set_xticks(range(len(values)), list(map(_text, values)), rotation=15)
                axes.set_xlim(-0.5, len(values) - 0.5)
            elif values.log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            _draw_points(axes, rows, found)
        for axes in panels[len(space) :]:
            axes.set_axis_off()
    return figure


def _draw_points(axes, rows, xs):
    """A point for each row with a score: a ring if it was pruned, orange if it is the best."""
    dot, best = figures.COLORS[:2]
    for row, x in zip(rows, xs, strict=True):
        if row.score is not None:
            color = best if row == best_of(rows) else dot
            face = color if row.is_finished else "none"
            axes.plot(x, row.score, "o", color=color, markerfacecolor=face, alpha=0.8)


def write(directory: str, title: str, metric: str, space: Space, rows: list[Row], hparams) -> None:
    """Writes sweep.md, sweep.png and, as `BEST`, the best settings together with `hparams`."""
    content = (title, metric, space, rows)
    files.write_text(os.path.join(directory, "sweep.md"), to_markdown(*content))
    figures.save(draw(*content), os.path.join(directory, "sweep.png"))
    if best := best_of(rows):
        files.write_json(os.path.join(directory, BEST), hparams | best.settings)
