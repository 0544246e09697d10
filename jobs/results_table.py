"""Several tasks' results as one table: each task over its trials, and averages over the tasks.

Two averages are known by name, and given only where all of their tasks are there, with all trials
and the whole of GLUE's data; otherwise there is an average of the tasks present, called just that:

- GLUE's: the mean of the nine tasks' scores, where a task with two metrics has their mean as its
  score, and MNLI that of its two dev sets.
- That of the ConvBERT and ELECTRA papers: one metric a task (Matthews for CoLA, Spearman for STS-B,
  accuracy for the others), and no WNLI.
"""

import dataclasses
import json
import math
import os
import statistics
from typing import Any

from common import files
from common.markdown import markdown_table
from data.tasks import glue

GLUE_METRICS = {name: task.metrics for name, task in glue.TASKS.items()}
GLUE_METRICS["mnli"] += ("accuracy_mismatched",)
PAPER_METRICS = {name: names[:1] for name, names in GLUE_METRICS.items() if name != "wnli"}
PAPER_METRICS["sts"] = ("spearman",)
# By name: what an average over fewer tasks is called, and each task's metrics.
AVERAGES = {
    "GLUE average": ("all metrics", GLUE_METRICS),
    "papers' average": ("one metric each", PAPER_METRICS),
}

# Examples in GLUE's training and dev files.
GLUE_EXAMPLES = {
    "cola": (8551, 1043),
    "sst": (67349, 872),
    "mrpc": (3668, 408),
    "sts": (5749, 1500),
    "qqp": (363846, 40430),
    "mnli": (392702, 9815),
    "qnli": (104743, 5463),
    "rte": (2490, 277),
    "wnli": (635, 71),
}

DOT, BAR = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, for color-blind readers
PANELS_A_ROW = 5


@dataclasses.dataclass(frozen=True)
class TaskResults:
    """What is known of one task.

    Args:
        name: the task's.
        main_metrics: what of `metrics` belongs in a table; with it comes the same of further dev
            sets, such as "accuracy_mismatched".
        trials: the finished ones, each with `metrics` (name → percent) and `seed`.
        num_trials: how many there are to be.
        train_examples: rows read from the training file; None where nothing was trained.
        dev_examples: rows read from the dev file.
        hparams: the task's hyper-parameters.
    """

    name: str
    main_metrics: tuple[str, ...]
    trials: list[dict[str, Any]]
    num_trials: int
    train_examples: int | None
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


def summarize(model_name: str, tasks: list[TaskResults]) -> dict[str, Any]:
    """The summary as it is written to `summary.json`: everything else is made from it."""
    rows = {task.name: _summarize_task(task) for task in tasks}
    averages = [
        _average(name, kind, metrics, rows)
        for name, (kind, metrics) in AVERAGES.items()
        if any(task in metrics and rows[task]["metrics"] for task in rows)
    ]
    return {"model": model_name, "tasks": rows, "averages": averages}


def _summarize_task(task):
    scored = [trial for trial in task.trials if trial["metrics"]]
    metrics = {}
    beginnings = tuple(f"{name}_" for name in task.main_metrics)
    for name in scored[0]["metrics"] if scored else ():
        if name not in task.main_metrics and not name.startswith(beginnings):
            continue
        values = [trial["metrics"][name] for trial in scored]
        metrics[name] = over_trials(values) | {"values": values}
    return {
        "metrics": metrics,
        "seeds": [trial["seed"] for trial in scored],
        "num_trials": task.num_trials,
        "train_examples": task.train_examples,
        "dev_examples": task.dev_examples,
        "remarks": _remarks(task, len(scored)),
        "hparams": task.hparams,
    }


def _remarks(task, num_scored):
    """Why these are not the task's results yet, or not GLUE's task."""
    remarks = []
    if num_scored < task.num_trials:
        remarks.append(f"{num_scored} of {task.num_trials} trials")
    if task.name in GLUE_EXAMPLES:
        train, dev = GLUE_EXAMPLES[task.name]
        found = (("training", task.train_examples, train), ("dev", task.dev_examples, dev))
        for kind, count, whole in found:
            # A few of QQP's rows are damaged.
            if count is not None and abs(count - whole) > glue.MAX_DAMAGED_SHARE * whole:
                remarks.append(f"not GLUE's {whole:,} {kind} examples, but {count:,}")
    return remarks


def _average(name, kind, metrics, rows):
    """One of `AVERAGES`, or what can be said in its place."""
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
        scores = [
            statistics.fmean(rows[task]["metrics"][metric][number] for metric in names)
            for task, names in present.items()
        ]
        return statistics.fmean(scores)

    return {
        "name": f"average of {len(present)} tasks, {kind}" if missing else name,
        "in_place_of": name if missing else None,
        "missing": missing,
        "metrics": {task: list(names) for task, names in present.items()},
        "of_medians": mean_of("median"),
        "of_means": mean_of("mean"),
    }


def to_markdown(summary: dict[str, Any]) -> str:
    """The summary as a text that is readable in a terminal, too."""
    header = ["task", "metric", "median", "mean", "deviation", "best", "trials"]
    table = []
    for task, row in summary["tasks"].items():
        counts = [_count(len(row["seeds"])), _count(row["train_examples"])]
        counts.append(_count(row["dev_examples"]))
        for metric, numbers in row["metrics"].items():
            scores = [_score(numbers[name]) for name in header[2:6]]
            table.append([task, metric, *scores, *counts])
    lines = [f"# {summary['model']}: scores on dev sets, in percent", ""]
    lines += markdown_table([*header, "training examples", "dev examples"], table, 2).splitlines()
    remarks = [
        f"- {task}: {remark}" for task, row in summary["tasks"].items() for remark in row["remarks"]
    ]
    lines += ["", *remarks] if remarks else []
    if summary["averages"]:
        table = [
            [average["name"], *(_score(average[k]) for k in ("of_medians", "of_means"))]
            for average in summary["averages"]
        ]
        header = ["average", "of medians", "of means"]
        lines += ["", *markdown_table(header, table).splitlines(), ""]
        lines += [_explanation(average) for average in summary["averages"]]
    return "\n".join(lines) + "\n"


def _explanation(average):
    """What an average is the mean of, and why it has not the name it might have had."""
    parts = [f"{task} {' and '.join(names)}" for task, names in average["metrics"].items()]
    text = f"- {average['name']}: {', '.join(parts)}."
    if average["missing"]:
        reasons = [f"{task} ({reason})" for task, reason in average["missing"].items()]
        text += f" It is not the {average['in_place_of']}, for want of {', '.join(reasons)}."
    return text


def _count(number):
    return "–" if number is None else f"{number:,}"


def _score(number):
    return "–" if number is None else f"{number:.2f}"


def draw(summary: dict[str, Any]):
    """A `matplotlib.figure.Figure` with a panel for each task that has scores."""
    import matplotlib
    from matplotlib.figure import Figure

    scored = {name: row for name, row in summary["tasks"].items() if row["metrics"]}
    columns = min(PANELS_A_ROW, len(scored))
    rows = math.ceil(len(scored) / columns)
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y"}
    with matplotlib.rc_context(style | {"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(2.4 * columns + 0.6, 2.8 * rows + 0.6), layout="constrained")
        words = "dev scores in percent: a dot a trial, the bar their median"
        figure.suptitle(f"{summary['model']}\n{words}", fontsize=11)
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
    for place, numbers in enumerate(metrics.values()):
        values, median = numbers["values"], numbers["median"]
        # Side by side, so that equal scores are seen as several.
        steps = [(i + 0.5) / len(values) - 0.5 for i in range(len(values))]
        axes.plot([place + 0.4 * step for step in steps], values, "o", color=DOT, alpha=0.7)
        axes.plot([place - 0.25, place + 0.25], [median, median], color=BAR, linewidth=2)
        axes.annotate(f"{median:.2f}", (place + 0.28, median), va="center", color=BAR, fontsize=9)
    axes.set_xticks(range(len(metrics)), list(metrics))
    axes.set_xlim(-0.5, len(metrics) - 0.3)
    low, high = axes.get_ylim()
    missing = max(0.0, 2.0 - (high - low)) / 2  # no spread is blown up beyond two points
    axes.set_ylim(low - missing, high + missing)


def write(summary: dict[str, Any], directory: str | os.PathLike, name: str = "summary") -> None:
    """Writes `summary.json`, `summary.md` and, if there are scores, `summary.png`; or as `name`."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name)
    files.write_text(f"{path}.json", json.dumps(summary, indent=2) + "\n")
    files.write_text(f"{path}.md", to_markdown(summary))
    if any(row["metrics"] for row in summary["tasks"].values()):
        with files.atomic_path(f"{path}.png") as temporary:
            draw(summary).savefig(temporary, format="png", dpi=130)
