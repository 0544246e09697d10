"""`results/TASK_report.html`: one page about a task's dev sets, with the errors to look at.

The page needs no other file and no network. Everything that comes from data is escaped.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from common import files
from common.markdown import with_share
from data.tasks.review import MISSED, RIGHT, WRONG, Confusion, Mistake, Piece, Review
from jobs import figures
from jobs.results_table import CHOSEN_ON_DEV, kept_weights, score_rows
from jobs.trials import Job, TaskData, Trials

MOST_CONFUSED = 30  # labels in a confusion matrix
MARKS = {
    RIGHT: "right, and predicted",
    MISSED: "right, but not predicted",
    WRONG: "predicted, but not right",
}
LONGEST_STRETCH = 2000  # characters without a mark; the middle of a longer one is left out

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto;
  padding: 0 1.5em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; } h3 { font-size: 1.05em; }
table { border-collapse: collapse; margin: .7em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
.matrix td { text-align: center; border: 1px solid #fff; min-width: 2.4em; }
.matrix tbody th { text-align: right; font-weight: 400; }
.matrix thead th { font-weight: 400; text-align: center; max-width: 7em; overflow-wrap: anywhere; }
.matrix td.diagonal { outline: 1px solid #555; outline-offset: -2px; }
article { border: 1px solid #ddd; border-radius: 6px; padding: .5em .9em; margin: .7em 0; }
article header { color: #555; } article header b { color: #222; }
article p { margin: .3em 0; white-space: pre-wrap; overflow-wrap: anywhere; }
article p i { color: #777; font-style: normal; font-size: .85em; margin-right: .6em; }
mark { padding: 0 .15em; border-radius: 3px; color: inherit; }
mark.right { background: #c9ecd9; } mark.missed { background: #d3e5f7; }
mark.wrong { background: #fbd3bd; }
mark small { color: #555; margin-left: .3em; }
.note { color: #555; }
"""


def write(job: Job, features: Any, outputs: Any, found: Trials, trial: int) -> None:
    """Writes the page of each of a job's tasks; a failure is a warning, since results matter more.

    `features` and `outputs` are the trial's, by task and split; `found` has results of all trials.
    """
    for part in job.parts:
        path = job.report(part.task)
        try:
            name = part.task.name
            reviews = {
                split: part.task.review(examples, features[name][split], outputs[name][split])
                for split, examples in part.dev.items()
            }
            lengths = describe_lengths(job, part, features[name])
            results = [found[number][name] for number in sorted(found)]
            title = f"{name}: {job.title}"
            files.write_text(path, make_page(title, results, trial, reviews, lengths))
        except Exception as error:
            logging.warning("%s: not written: %s: %s", path, type(error).__name__, error)


def describe_lengths(job: Job, part: TaskData, features: dict[str, Any]) -> list[list[str]]:
    """A row for each dev set: its name, how many examples it has, their lengths, what was cut."""
    rows = []
    for split, examples in part.dev.items():
        lengths = features[split].lengths
        quantiles = np.quantile(lengths, (0.5, 0.95, 1.0), method="higher")
        cuts = part.task.count_cut(job.encoder.tokenizer, examples, features[split])
        shares = (f"{with_share(*counts)} {what}" for what, counts in cuts.items())
        rows.append([split, f"{len(examples):,}", *map(str, quantiles), ", ".join(shares)])
    return rows


def make_page(
    title: str,
    results: Sequence[dict[str, Any]],
    trial: int,
    reviews: dict[str, Review],
    lengths: Sequence[Sequence[str]],
) -> str:
    """The page about a trial, whose `reviews` are by dev split.

    `results` are of all trials, as in the results file; `lengths` are from `describe_lengths`.
    """
    seed = next(result["seed"] for result in results if result["trial"] == trial)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        '<h2>Scores on the dev set, in percent</h2>\n<div class="wide" id="scores">',
        _scores(results),
        f"</div>\n{_remark(results)}<p>What follows is about trial {trial}, seed {seed}.</p>",
    ]
    for split, review in reviews.items():
        body += _split_sections(split, review)
    header = ["dev set", "examples", "tokens of a row: median", "95 %", "most", "longer than a row"]
    body += ['<h2>Lengths</h2>\n<div class="wide" id="lengths">', _table(header, lengths), "</div>"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    def row(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    head = f"<thead>{row('th', header)}</thead>"
    return "\n".join(
        ["<table>", head, "<tbody>", *(row("td", r) for r in rows), "</tbody></table>"]
    )


def _remark(results):
    """A warning if the dev set was also used to choose the weights that it scores."""
    kinds = sorted({kept_weights(result) for result in results if result["metrics"]} - {"last"})
    return "".join(f'<p class="note">Weights: {CHOSEN_ON_DEV[kind]}.</p>\n' for kind in kinds)


def _scores(results):
    """A table with a row for each trial, and their median, mean and deviation."""
    names, rows = score_rows(results)
    more = {result["trial"]: [result["num_examples"], result["seconds"]] for result in results}
    rows = [
        [*("–" if cell is None else cell for cell in row), *more.get(row[0], ["", ""])]
        for row in rows
    ]
    return _table(["trial", "seed", *names, "dev examples", "seconds"], rows)


def _split_sections(split: str, review: Review) -> list[str]:
    """The sections about one dev set; the ids end in the split's name."""
    parts = []

    def section(name, heading, *content):
        parts.append(f'<section id="{name}-{split}">\n<h2>{heading} ({split})</h2>')
        parts.extend([*content, "</section>"])

    if review.outcomes:
        total = sum(review.outcomes.values())
        rows = [[name, with_share(count, total)] for name, count in review.outcomes.items()]
        section("outcomes", "Outcomes", _table(["outcome", review.unit], rows))
    if review.labels:
        header = ["label", "precision", "recall", "F1", review.label_unit, "missed", "wrong"]
        rows = [
            [row.label, *(f"{score:.1f}" for score in row[1:4]), *(f"{n:,}" for n in row[4:])]
            for row in review.labels
        ]
        what = f"{review.label_unit} with the label that did not get it; wrong: others that got it"
        section("labels", "Labels", _table(header, rows), f'<p class="note">Missed: {what}.</p>')
    if review.confusion is not None:
        section("confusion", "Confusion matrix", *_confusion(review.confusion))
    if review.scores is not None:
        section("scatter", "Right and predicted scores", _scatter(review.scores))
    marks = {piece.mark for m in review.mistakes for _, pieces in m.texts for piece in pieces}
    legend = [f'<mark class="{mark}">{MARKS[mark]}</mark>' for mark in MARKS if mark in marks]
    if any(piece.note for m in review.mistakes for _, pieces in m.texts for piece in pieces):
        legend.append("small: right tag → predicted tag")
    articles = map(_article, review.mistakes)
    section("mistakes", _mistakes_heading(review), f"<p>{' '.join(legend)}</p>", *articles)
    return parts


def _confusion(confusion: Confusion) -> list[str]:
    """The matrix as a table, shaded by the share of each row."""
    counts, labels = confusion.counts, confusion.labels
    off = counts - np.diag(np.diag(counts))
    errors = off.sum(axis=0) + off.sum(axis=1)
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CONFUSED])
    totals = counts.sum(axis=1)
    rows = []
    for i in shown:
        cells = []
        for j in shown:
            share = counts[i, j] / max(1, totals[i])
            title = html.escape(f"{labels[i]} → {labels[j]}: {with_share(counts[i, j], totals[i])}")
            color = "0, 114, 178" if i == j else "213, 94, 0"
            text = "#fff" if share > 0.6 else "#222"
            style = f"background: rgba({color}, {share:.3f}); color: {text}"
            kind = ' class="diagonal"' if i == j else ""
            cells.append(f'<td{kind} style="{style}" title="{title}">{counts[i, j]}</td>')
        rows.append(f"<tr><th>{html.escape(labels[i])}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{html.escape(labels[j])}</th>" for j in shown)
    note = "Rows are right labels, columns predicted ones; a cell's shade is its share of the row."
    if len(shown) < len(labels):
        note += f" These are the {len(shown)} of {len(labels)} labels with the most errors."
    return [
        f'<p class="note">{note}</p>\n<div class="wide"><table class="matrix">',
        f"<thead><tr><th>right \\ predicted</th>{heads}</tr></thead>\n<tbody>",
        *rows,
        "</tbody></table></div>",
    ]


def _scatter(scores: np.ndarray) -> str:
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure(figsize=(5, 4.5), layout="constrained")
        axes = figure.subplots()
        bounds = [float(scores.min()), float(scores.max())]
        axes.plot(bounds, bounds, color=figures.COLORS[1], linewidth=1)
        axes.plot(*scores, "o", color=figures.COLORS[0], alpha=0.35, markersize=4)
        axes.set_xlabel("right score")
        axes.set_ylabel("predicted score")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
    data = base64.b64encode(picture.getvalue()).decode()
    alt = "A point for each example: the right score on the x-axis, the predicted one on the y-axis"
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def _mistakes_heading(review):
    if not review.mistakes:
        return f"No wrong {review.unit}"
    if review.scores is not None:
        return f"The {len(review.mistakes)} largest errors"
    total = f"{review.num_mistakes:,} wrong {review.unit}"
    if len(review.mistakes) == review.num_mistakes:
        return f"All {total}, the most confident first"
    return f"The {len(review.mistakes)} most confident of {total}"


def _article(mistake: Mistake) -> str:
    facts = [f"example {mistake.index}"]
    if mistake.label or mistake.prediction:
        facts.append(f"right <b>{html.escape(mistake.label)}</b>")
        facts.append(f"predicted <b>{html.escape(mistake.prediction)}</b>")
    if mistake.probability is not None:
        facts.append(f"probability {mistake.probability:.1%}")
    lines = [f"<article>\n<header>{' · '.join(facts)}</header>"]
    for name, pieces in mistake.texts:
        label = f"<i>{html.escape(name)}</i>" if name else ""
        lines.append(f"<p>{label}{''.join(map(_piece, pieces))}</p>")
    return "\n".join([*lines, "</article>"])


def _piece(piece: Piece) -> str:
    if not piece.mark:
        text, half = piece.text, LONGEST_STRETCH // 2
        if len(text) > LONGEST_STRETCH:
            text = f"{text[:half]} […{len(text) - LONGEST_STRETCH:,} characters…] {text[-half:]}"
        return html.escape(text)
    text, note = html.escape(piece.text), html.escape(piece.note)
    if note and piece.mark != RIGHT:
        text += f"<small>{note}</small>"
    return f'<mark class="{piece.mark}" title="{note or MARKS[piece.mark]}">{text}</mark>'
