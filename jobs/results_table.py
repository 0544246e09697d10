"""Several tasks' results as one table: each task over its trials, and averages over the tasks.

Two averages have names. They are given only if all of their tasks are complete: all trials, on the
whole of GLUE's data. Otherwise, the average is called "average of N tasks":

- GLUE average: the mean of the nine tasks' scores. The score of a task with two metrics is their
  mean; that of MNLI is the mean of its two dev sets.
- papers' average, of the ConvBERT and ELECTRA papers: one metric for each task (Matthews for CoLA,
  Spearman for STS-B, accuracy for the others), without WNLI.
"""

import dataclasses
import math
import os
import statistics
from collections.abc import Iterable
from typing import Any

from common import files
from common.markdown import markdown_table
from data.tasks import glue
from jobs import figures

GLUE_METRICS = {name: task.metrics for name, task in glue.TASKS.items()}
GLUE_METRICS["mnli"] += ("accuracy_mismatched",)
PAPER_METRICS = {name: names[:1] for name, names in GLUE_METRICS.items() if name != "wnli"}
PAPER_METRICS["sts"] = ("spearman",)
# By name: how an average of fewer tasks is described, and each task's metrics.
AVERAGES = {
    "GLUE average": ("all metrics", GLUE_METRICS),
    "papers' average": ("one metric each", PAPER_METRICS),
}

EARLY_STOP = "early stop"
# How the dev set helped to choose the weights that it scores; see `kept_weights`.
CHOSEN_ON_DEV = {
    "best": "the weights with the best score on this dev set, so the scores are optimistic",
    EARLY_STOP: "the dev set decided when to stop, so the scores are optimistic",
}

PANELS_PER_ROW = 5


@dataclasses.dataclass(frozen=True)
class TaskResults:
    """One task's results."""

    name: str
    main_metrics: tuple[str, ...]  # to show, also for further dev sets ("accuracy_mismatched")
    trials: list[dict[str, Any]]  # the finished ones, with `metrics` (name → percent) and `seed`
    num_trials: int  # finished or not
    train_examples: int | None  # None if nothing was trained
    dev_examples: int
    hparams: dict[str, Any]


def over_trials(values: list[float]) -> dict[str, float | None]:
    """Median, mean, sample standard deviation (None for one value) and best."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "best": max(values),
    }


def score_rows(results: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The names of a task's metrics, and rows of a table: trial, seed, and a text for each score.

    `results` are of trials, as in the results file. Scores have two decimals; a missing one is
    None. Several trials are followed by their median, mean and deviation. Trials without scores are
    left out.
    """
    scored = [result for result in results if result["metrics"]]
    names = list(scored[-1]["metrics"]) if scored else []

    def row(first, second, numbers):
        return [first, second, *(None if n is None else f"{n:.2f}" for n in numbers)]

    rows = [row(r["trial"], r["seed"], map(r["metrics"].get, names)) for r in scored]
    columns = [[r["metrics"][name] for r in scored if name in r["metrics"]] for name in names]
    summaries = [over_trials(values) for values in columns]
    for key in ("median", "mean", "deviation") if len(scored) > 1 else ():
        rows.append(row(key, None, [summary[key] for summary in summaries]))
    return names, rows


def summarize(model_name: str, tasks: list[TaskResults]) -> dict[str, Any]:
    """The content of `summary.json`, from which the table and the picture are made."""
    rows = {task.name: _summarize_task(task) for task in tasks}
    averages = [
        _average(name, kind, metrics, rows)
        for name, (kind, metrics) in AVERAGES.items()
        if any(task in metrics and rows[task]["metrics"] for task in rows)
    ]
    return {"model": model_name, "tasks": rows, "averages": averages}


def _summarize_task(task):
    scored = [trial for trial in task.trials if trial["metrics"]]
    prefixes = tuple(f"{name}_" for name in task.main_metrics)
    metrics = {}
    for name in scored[0]["metrics"] if scored else ():
        if name in task.main_metrics or name.startswith(prefixes):
            values = [trial["metrics"][name] for trial in scored]
            metrics[name] = over_trials(values) | {"values": values}
    return {
        "metrics": metrics,
        "weights": ", ".join(sorted(set(map(kept_weights, scored)))),
        "seeds": [trial["seed"] for trial in scored],
        "num_trials": task.num_trials,
        "train_examples": task.train_examples,
        "dev_examples": task.dev_examples,
        "remarks": _remarks(task, scored),
        "hparams": task.hparams,
    }


def kept_weights(trial: dict[str, Any]) -> str:
    """Which weights of a trial were scored: "last", "best" or "early stop"; see `CHOSEN_ON_DEV`."""
    settings = trial.get("settings", {})
    if settings.get("keep", "last") == "last" and settings.get("early_stopping_patience"):
        return EARLY_STOP
    return settings.get("keep", "last")


def _remarks(task, scored):
    """Why the task is incomplete, is not GLUE's, or has optimistic scores."""
    remarks = []
    if len(scored) < task.num_trials:
        remarks.append(f"{len(scored)} of {task.num_trials} trials")
    remarks += [CHOSEN_ON_DEV[each] for each in sorted({*map(kept_weights, scored)} - {"last"})]
    expected = glue.NUM_EXAMPLES.get(task.name, {})
    counts = (("train", "training", task.train_examples), ("dev", "dev", task.dev_examples))
    for split, name, count in counts:
        whole = expected.get(split)
        # A few of QQP's rows are damaged.
        if whole and count is not None and abs(count - whole) > glue.MAX_DAMAGED_SHARE * whole:
            remarks.append(f"{count:,} {name} examples instead of GLUE's {whole:,}")
    return remarks


def _average(name, kind, metrics, rows):
    """One of `AVERAGES`, or the average of the tasks that have results."""
    present, missing = {}, {}
    for task, names in metrics.items():
        scored = rows[task]["metrics"] if task in rows else {}
        reasons = list(rows[task]["remarks"]) if task in rows else ["not run"]
        if scored:
            present[task] = tuple(metric for metric in names if metric in scored)
            reasons += [f"no {metric}" for metric in names if metric not in scored]
        if reasons:
            missing[task] = "; ".join(reasons)

    def mean_of(number):
        return statistics.fmean(
            statistics.fmean(rows[task]["metrics"][metric][number] for metric in names)
            for task, names in present.items()
        )

    return {
        "name": f"average of {len(present)} tasks, {kind}" if missing else name,
        "in_place_of": name if missing else None,
        "missing": missing,
        "metrics": {task: list(names) for task, names in present.items()},
        "of_medians": mean_of("median"),
        "of_means": mean_of("mean"),
    }


def to_markdown(summary: dict[str, Any]) -> str:
    """The summary as text."""
    tasks, averages = summary["tasks"], summary["averages"]
    header = ["task", "metric", "median", "mean", "deviation", "best", "trials"]
    header += ["training examples", "dev examples", "weights"]
    table = []
    for task, row in tasks.items():
        counts = [len(row["seeds"]), row["train_examples"], row["dev_examples"]]
        for metric, numbers in row["metrics"].items():
            scores = [_format(numbers[name], ".2f") for name in header[2:6]]
            counted = (_format(count, ",") for count in counts)
            table.append([task, metric, *scores, *counted, row["weights"]])
    text = f"# {summary['model']}: scores on dev sets, in percent\n\n"
    text += markdown_table(header, table, 2)
    remarks = [f"- {task}: {remark}\n" for task, row in tasks.items() for remark in row["remarks"]]
    text += "".join(["\n", *remarks] if remarks else [])
    if averages:
        keys = ("of_medians", "of_means")
        table = [[each["name"], *(_format(each[key], ".2f") for key in keys)] for each in averages]
        text += "\n" + markdown_table(["average", "of medians", "of means"], table) + "\n"
        text += "".join(map(_explanation, averages))
    return text


def _explanation(average):
    """The tasks and metrics of an average, and why it is not one of `AVERAGES`."""
    parts = [f"{task} {' and '.join(names)}" for task, names in average["metrics"].items()]
    text = f"- {average['name']}: {', '.join(parts)}."
    if average["missing"]:
        reasons = [f"{task} ({reason})" for task, reason in average["missing"].items()]
        text += f" Not the {average['in_place_of']}; incomplete: {', '.join(reasons)}."
    return text + "\n"


def _format(number, spec):
    return None if number is None else format(number, spec)


def draw(summary: dict[str, Any]):
    """A `matplotlib.figure.Figure` with a panel for each task that has scores."""
    from matplotlib.figure import Figure

    scored = {name: row for name, row in summary["tasks"].items() if row["metrics"]}
    columns = min(PANELS_PER_ROW, len(scored))
    rows = math.ceil(len(scored) / columns)
    with figures.style(**{"axes.grid.axis": "y"}):
        figure = Figure(figsize=(2.4 * columns + 0.6, 2.8 * rows + 0.6), layout="constrained")
        title = "dev scores in percent: trials (dots) and their median (bar)"
        figure.suptitle(f"{summary['model']}\n{title}", fontsize=11)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, row) in zip(panels, scored.items(), strict=False):
            axes.set_title(name + (" *" if row["remarks"] else ""))
            _draw_task(axes, row["metrics"])
        for axes in panels[len(scored) :]:
            axes.set_axis_off()
        notes = [f"* {name}: {text}" for name, row in scored.items() for text in row["remarks"]]
        figure.supxlabel("\n".join(notes), fontsize=8)
    return figure


def _draw_task(axes, metrics):
    dot, bar = figures.COLORS[:2]
    for x, numbers in enumerate(metrics.values()):
        values, median = numbers["values"], numbers["median"]
        # Side by side, so that equal scores do not hide each other.
        offsets = [(i + 0.5) / len(values) - 0.5 for i in range(len(values))]
        axes.plot([x + 0.4 * offset for offset in offsets], values, "o", color=dot, alpha=0.7)
        axes.plot([x - 0.25, x + 0.25], [median, median], color=bar, linewidth=2)
        axes.annotate(f"{median:.2f}", (x + 0.28, median), va="center", color=bar, fontsize=9)
    axes.set_xticks(range(len(metrics)), list(metrics))
    axes.set_xlim(-0.5, len(metrics) - 0.3)
    low, high = axes.get_ylim()
    margin = max(0.0, 2.0 - (high - low)) / 2  # small differences are not magnified
    axes.set_ylim(low - margin, high + margin)


def write(summary: dict[str, Any], directory: str | os.PathLike, name: str = "summary") -> None:
    """Writes `name`.json, `name`.md and, if there are scores, `name`.png."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name)
    files.write_json(f"{path}.json", summary)
    files.write_text(f"{path}.md", to_markdown(summary))
    if any(row["metrics"] for row in summary["tasks"].values()):
        figures.save(draw(summary), f"{path}.png")
