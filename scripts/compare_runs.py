"""Tables of an experiment's results: scores of every variant, and differences with intervals.

    python3 scripts/compare_runs.py docs/experiments/tiny --baseline convbert

Reads the folders that run_experiment.py has written, and prints Markdown: what pre-training cost
and reached; the scores of the tasks (mean, sample standard deviation, number); and the differences
"baseline − variant" between models with the same seeds. Their 95 % intervals are percentiles of
10,000 bootstrap samples, which draw seeds of pre-training and, within each, seeds of fine-tuning. A
difference is within noise if its interval contains 0.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401

from common import errors, files
from common.errors import InputError
from common.fields import require
from common.markdown import markdown_table
from jobs.loggers import LOG_FILE

Variants = dict[str, dict[int, dict[str, Any]]]  # runs by variant and seed of pre-training
RESULTS = "results.json"
NUM_SAMPLES = 10_000


def main(arguments: list[str] | None = None) -> None:
    """Reads all results and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="folder with a folder of results for each run")
    parser.add_argument(
        "--baseline", required=True, metavar="VARIANT", help="the variant to compare others with"
    )
    args = parser.parse_args(arguments)
    variants = read_variants(args.results)
    require(args.baseline in variants, "--baseline", f"one of {', '.join(variants)}", args.baseline)
    tables = (
        pretraining_table(variants),
        score_table(variants),
        difference_table(variants, args.baseline),
    )
    print("\n".join(table for table in tables if table.count("\n") > 2), end="")  # has rows


def read_variants(folder: str) -> Variants:
    """The results of all runs; one without a seed of pre-training has seed 0."""
    variants: Variants = {}
    for path in sorted(Path(folder).glob(f"*/{RESULTS}")):
        name, _, seed = path.parent.name.rpartition("_")
        if not (name and seed.isdecimal()):
            name, seed = path.parent.name, "0"
        run = files.read_json_object(path)
        log = path.with_name(LOG_FILE)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        run["log"] = [files.parse_json_object(line, str(log)) for line in lines]
        variants.setdefault(name, {})[int(seed)] = run
    if not variants:
        raise InputError(f"{folder}: no folder in it has a {RESULTS}")
    return variants


def pretraining_table(variants: Variants) -> str:
    """Costs, and the last evaluation on held-out text: means over seeds, deviations in brackets."""
    header = ["variant", "parameters of the encoder", "operations per token", "runs"]
    header += ["masked-token accuracy", "AUC", "tokens per second"]
    rows = []
    for name, runs in variants.items():
        logged = [run for run in runs.values() if run["log"]]
        if logged:
            costs = logged[0]["parameters"]["encoder"], logged[0]["flops_per_token"]
            cells = [f"{costs[0]:,}", f"{costs[1] / 1e6:.1f} M", len(logged)]
            for key, factor in (("eval_mlm_accuracy", 100), ("eval_rtd_auc", 1)):
                cells.append(spread([factor * series(run["log"], key)[-1] for run in logged]))
            speeds = [statistics.median(series(run["log"], "tokens_per_second")) for run in logged]
            rows.append([name, *cells, f"{statistics.median(speeds):,.0f}"])
    return markdown_table(header, rows)


def series(log: list[dict[str, float]], key: str) -> list[float]:
    """The values of a key of the log; a single NaN if it was never logged."""
    return [line[key] for line in log if key in line] or [float("nan")]


def spread(values: list[float]) -> str | None:
    """Mean, and the sample standard deviation of several in brackets; None for NaN."""
    if any(map(math.isnan, values)):
        return None
    mean = statistics.fmean(values)
    digits = 3 if abs(mean) <= 1 else 2
    deviation = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{deviation}"


def task_names(variants: Variants) -> dict[str, str]:
    """All tasks with their main metrics, in the order of the first run that has them."""
    runs = [run for runs in variants.values() for run in runs.values()]
    return {task: row["metric"] for run in runs for task, row in run["scores"].items()}


def scores_of(run: dict[str, Any], task: str) -> dict[str, float]:
    """A task's scores by the seed of fine-tuning, in order; {} if it was not run."""
    values = run["scores"].get(task, {"values": {}})["values"]
    return {seed: values[seed] for seed in sorted(values, key=int)}


def score_table(variants: Variants) -> str:
    """Mean, deviation and number of the scores of all seeds, by variant and task."""
    tasks = task_names(variants)
    header = ["variant", "n", *(f"{task}, {metric}" for task, metric in tasks.items())]
    rows = []
    for name, runs in variants.items():
        columns = [
            [score for run in runs.values() for score in scores_of(run, task).values()]
            for task in tasks
        ]
        cells = [spread(column) if column else None for column in columns]
        rows.append([name, max(map(len, columns)), *cells])
    return markdown_table(header, rows)


def difference_table(variants: Variants, baseline: str) -> str:
    """Paired differences "baseline − variant" with their 95 % intervals."""
    header = ["difference", "task", "pairs", "mean", "95 % interval", ""]
    rows = []
    for name, runs in variants.items():
        first, second = variants[baseline], runs
        # Random weights have no seed of pre-training: they are compared with every one.
        if not any(run["log"] for run in first.values()):
            first = dict.fromkeys(second, first[0])
        elif not any(run["log"] for run in second.values()):
            second = dict.fromkeys(first, second[0])
        pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
        for task in task_names(variants) if name != baseline and pairs else ():
            scores = [(scores_of(a, task), scores_of(b, task)) for a, b in pairs]
            shared = [s for s in scores[0][0] if all(s in a and s in b for a, b in scores)]
            if shared:
                differences = [[a[seed] - b[seed] for seed in shared] for a, b in scores]
                low, high = interval(differences)
                verdict = "within noise" if low <= 0 <= high else ""
                values = [value for row in differences for value in row]
                cells = [len(values), f"{statistics.fmean(values):+.2f}"]
                rows.append(
                    [f"{baseline} − {name}", task, *cells, f"{low:+.2f} to {high:+.2f}", verdict]
                )
    return markdown_table(header, rows, 2)


def interval(differences: list[list[float]]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of paired differences [P, F].

    Rows are seeds of pre-training, columns those of fine-tuning. First rows are drawn, then columns
    in each of them, because scores of the same pre-trained model are not independent.
    """
    import numpy as np

    table = np.array(differences)
    rows, columns = table.shape
    random = np.random.default_rng(0)
    drawn_rows = random.integers(rows, size=(NUM_SAMPLES, rows, 1))
    drawn_columns = random.integers(columns, size=(NUM_SAMPLES, rows, columns))
    means = table[drawn_rows, drawn_columns].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    errors.run(main)
