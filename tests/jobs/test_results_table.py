import json
import re
import struct

import pytest

from data.tasks import glue
from jobs import results_table


def results(name, scores, num_trials=None, **counts):
    """A task's results; a task's further metrics are each ten points above the one before."""
    names, trials = results_table.GLUE_METRICS[name], []
    for seed, value in enumerate(scores):
        metrics = {metric: value + 10 * i for i, metric in enumerate(names)}
        trials.append({"metrics": metrics, "seed": seed})
    train, dev = (glue.NUM_EXAMPLES[name][split] for split in ("train", "dev"))
    counts = {"train_examples": train, "dev_examples": dev, "hparams": {}} | counts
    main_metrics, num_trials = glue.TASKS[name].metrics, num_trials or len(scores)
    return results_table.TaskResults(name, main_metrics, trials, num_trials, **counts)


def whole_suite():
    """Three trials a task, around 50, 51, …: the median a point over the lowest, the mean two."""
    return [results(name, [50 + i, 49 + i, 54 + i]) for i, name in enumerate(glue.TASKS)]


def summarize(tasks):
    return results_table.summarize("m", tasks)


def averages_of(tasks):
    return {each["name"]: each for each in summarize(tasks)["averages"]}


def test_a_tasks_trials():
    row = summarize([results("cola", [1.0, 5.0, 2.0, 4.0])])["tasks"]["cola"]
    assert row["metrics"]["mcc"] == {
        "median": 3.0,
        "mean": 3.0,
        "deviation": pytest.approx((10 / 3) ** 0.5),  # of a sample: over n - 1
        "best": 5.0,
        "values": [1.0, 5.0, 2.0, 4.0],
    }
    assert (row["seeds"], row["num_trials"], row["remarks"]) == ([0, 1, 2, 3], 4, [])
    assert (row["train_examples"], row["dev_examples"]) == (8551, 1043)
    assert results_table.over_trials([7.0])["deviation"] is None


def test_averages_of_a_whole_suite():
    found = averages_of(whole_suite())
    assert set(found) == {"GLUE average", "papers' average"}
    # The tasks are cola, sst, mrpc, sts, qqp, mnli, qnli, rte, wnli. GLUE's average is over all, of
    # which four have a second score ten points up: five points more.
    expected = sum(range(50, 59)) / 9 + 4 * 5 / 9
    assert found["GLUE average"]["of_medians"] == pytest.approx(expected)
    assert found["GLUE average"]["of_means"] == pytest.approx(expected + 1)
    # The papers': eight tasks, of which STS-B has Spearman, its second.
    expected = sum(range(50, 58)) / 8 + 10 / 8
    assert found["papers' average"]["of_medians"] == pytest.approx(expected)
    assert found["papers' average"]["of_means"] == pytest.approx(expected + 1)
    assert "wnli" not in found["papers' average"]["metrics"]
    assert not found["GLUE average"]["missing"] and not found["papers' average"]["missing"]


def test_the_papers_average_equals_their_tables():
    """The ConvBERT paper's row for medium-small, and ELECTRA's for its small model."""
    names = ("mnli", "qnli", "qqp", "rte", "sst", "mrpc", "cola", "sts")
    for scores, average in (
        ((82.1, 88.7, 88.4, 65.3, 89.2, 84.6, 56.4, 82.9), 79.7),
        ((78.9, 87.9, 88.3, 68.5, 88.3, 87.4, 56.8, 86.8), 80.4),
    ):
        pairs = zip(names, scores, strict=True)
        found = averages_of(
            [results(name, [score - 10 * (name == "sts")]) for name, score in pairs]
        )
        assert round(found["papers' average"]["of_medians"], 1) == average
        assert found["average of 8 tasks, all metrics"]["missing"] == {"wnli": "not run"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "not run"),
        (results("rte", [60.0], num_trials=3), "1 of 3 trials"),
        (results("rte", [], num_trials=1), "0 of 1 trials"),
        (results("rte", [60.0], train_examples=5), "5 training examples instead of GLUE's 2,490"),
        (results("rte", [60.0], dev_examples=276), "276 dev examples instead of GLUE's 277"),
    ],
)
def test_an_incomplete_average_has_another_name(change, reason):
    tasks = [change if task.name == "rte" else task for task in whole_suite()]
    tasks = [task for task in tasks if task]
    has_scores = bool(change and change.trials)
    found = averages_of(tasks)
    first, second = found
    assert first == f"average of {8 + has_scores} tasks, all metrics"
    assert second == f"average of {7 + has_scores} tasks, one metric each"
    for each, name in zip(found.values(), results_table.AVERAGES, strict=True):
        assert each["missing"] == {"rte": reason} and each["in_place_of"] == name
        assert ("rte" in each["metrics"]) == has_scores
    scores = [50 + i + 5 * (i in (2, 3, 4, 5)) for i in range(9) if i != 7]
    scores += [60] if has_scores else []
    assert found[first]["of_medians"] == pytest.approx(sum(scores) / len(scores))
    text = results_table.to_markdown(summarize(tasks))
    assert f"Not the GLUE average; incomplete: rte ({reason})." in text
    assert not re.search(r"^\| (GLUE|papers') average", text, re.MULTILINE)


def test_the_glue_average_needs_mnlis_mismatched_dev_set():
    tasks = whole_suite()
    for trial in tasks[5].trials:
        del trial["metrics"]["accuracy_mismatched"]
    first, second = summarize(tasks)["averages"]
    assert (first["name"], second["name"]) == ("average of 9 tasks, all metrics", "papers' average")
    assert first["missing"] == {"mnli": "no accuracy_mismatched"}
    assert first["metrics"]["mnli"] == ["accuracy"]


def test_a_few_damaged_rows_do_not_matter():
    tasks = whole_suite()
    tasks[4] = results("qqp", [54, 53, 58], train_examples=363_700)
    assert list(averages_of(tasks)) == ["GLUE average", "papers' average"]


def test_other_tasks_are_in_the_table_but_in_no_average():
    trials = [{"metrics": {"accuracy": 1.0, "best_threshold": 0.5}, "seed": 0}]
    own = results_table.TaskResults("mine", ("accuracy",), trials, 1, 9, 9, {})
    table = summarize([own])
    assert (table["averages"], table["tasks"]["mine"]["remarks"]) == ([], [])
    assert averages_of([own, *whole_suite()]) == averages_of(whole_suite())
    assert list(table["tasks"]["mine"]["metrics"]) == ["accuracy"]
    text = results_table.to_markdown(table)
    assert "| mine | accuracy |   1.00 | 1.00 |         – | 1.00 |" in text


def test_table_as_text():
    lines = results_table.to_markdown(summarize(whole_suite())).splitlines()
    assert lines[0] == "# m: scores on dev sets, in percent"
    assert lines[2].split("|")[1].strip() == "task"
    assert len({len(line) for line in lines[2:17]}) == 1  # columns as in a table
    cells = [cell.strip() for cell in lines[7].strip("|").split("|")]
    scores = ["62.00", "63.00", "2.65", "66.00"]
    assert cells == ["mrpc", "f1", *scores, "3", "3,668", "408", "last"]
    assert "| GLUE average    |      56.22 |    57.22 |" in lines
    assert lines[-1] == (
        "- papers' average: cola mcc, sst accuracy, mrpc accuracy, sts spearman, qqp accuracy, "
        "mnli accuracy, qnli accuracy, rte accuracy."
    )


def test_files(tmp_path):
    tasks = [*whole_suite()[:3], results("rte", [60.0], num_trials=2)]
    table, folder = summarize(tasks), tmp_path / "results"
    results_table.write(table, folder)
    assert json.loads((folder / "summary.json").read_text()) == table
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert text == results_table.to_markdown(table)
    content = (folder / "summary.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert 1000 < width < 1500 and 300 < height < 600  # four panels in a row
    assert len(list(folder.iterdir())) == 3

    folder = tmp_path / "without_scores"
    results_table.write(summarize([results("rte", [], num_trials=1)]), folder)
    assert {path.name for path in folder.iterdir()} == {"summary.json", "summary.md"}


def test_the_picture_shows_trials_and_their_median():
    figure = results_table.draw(summarize(whole_suite()))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list(glue.TASKS)
    mrpc = panels[2]
    assert [label.get_text() for label in mrpc.get_xticklabels()] == ["accuracy", "f1"]
    dots, median, *_ = mrpc.lines
    assert list(dots.get_ydata()) == [52, 51, 56] and len(set(dots.get_xdata())) == 3
    assert list(median.get_ydata()) == [52, 52]
    assert [text.get_text() for text in mrpc.texts] == ["52.00", "62.00"]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"keep": "best", "early_stopping_patience": 2}, "best"),
        ({"keep": "last", "early_stopping_patience": 2}, "early stop"),
        ({"keep": "last", "early_stopping_patience": None}, "last"),
    ],
)
def test_scores_of_weights_that_the_dev_set_has_chosen_are_not_those_of_the_papers(
    settings, weights
):
    tasks = whole_suite()
    for trial in tasks[0].trials:
        trial["settings"] = settings
    summary = summarize(tasks)
    assert summary["tasks"]["cola"]["weights"] == weights
    assert summary["tasks"]["sst"]["weights"] == "last"
    names = [average["name"] for average in summary["averages"]]
    is_usual = weights == "last"
    assert (names == ["GLUE average", "papers' average"]) == is_usual
    assert ("optimistic" in results_table.to_markdown(summary)) != is_usual
