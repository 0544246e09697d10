"""From the predictions of a run to the zip that gluebenchmark.com scores.

The zip has eleven files, each with the header `index<TAB>prediction` and a row for every example of
GLUE's test file, in its order. MNLI's model predicts three of them. Labels are GLUE's own strings,
scores run from 0 to 5.
"""

import dataclasses
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping

from common import files
from common.errors import InputError
from data.tasks import glue


@dataclasses.dataclass(frozen=True)
class SubmissionFile:
    """One file of the zip.

    Args:
        name: the file's name, without `.tsv`.
        task: the task whose model predicts it.
        split: the test split it is about.
        num_rows: examples in GLUE's test file.
        most_frequent: the label that GLUE's dev set has most often.
    """

    name: str
    task: str
    split: str
    num_rows: int
    most_frequent: str = ""


FILES = (
    SubmissionFile("CoLA", "cola", "test", 1063, "1"),
    SubmissionFile("SST-2", "sst", "test", 1821, "1"),
    SubmissionFile("MRPC", "mrpc", "test", 1725, "1"),
    SubmissionFile("STS-B", "sts", "test", 1379),
    SubmissionFile("QQP", "qqp", "test", 390_965, "0"),
    SubmissionFile("MNLI-m", "mnli", "test_matched", 9796, "entailment"),
    SubmissionFile("MNLI-mm", "mnli", "test_mismatched", 9847, "entailment"),
    SubmissionFile("QNLI", "qnli", "test", 5463, "not_entailment"),
    SubmissionFile("RTE", "rte", "test", 3000, "entailment"),
    SubmissionFile("WNLI", "wnli", "test", 146, "0"),
    SubmissionFile("AX", "mnli", "diagnostic", 1104, "entailment"),
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which trial of a task is handed in.

    Args:
        trial: its number; None if the task has no predictions.
        reason: why it is this one, in words.
        score: its dev score by the task's main metric, in percent; None if it is not known.
    """

    trial: int | None
    reason: str
    score: float | None = None


def prediction_path(model_dir: str, file: SubmissionFile, trial: int | str) -> str:
    """Where finetune.py writes a trial's predictions for one file of the zip."""
    name = f"{file.task}_{file.split}_{trial}.tsv"
    return os.path.join(model_dir, "test_predictions", name)


def choose_trial(model_dir: str, task_name: str, wanted: int | None = None) -> Choice:
    """The trial `wanted`, or the median one by the dev score of the task's main metric.

    Of an even number of trials it is the better one of the worse half. Trials without predictions
    do not count, nor do those whose predictions are left from a run with other settings.

    Args:
        model_dir: the model's folder, `DATA_DIR/models/MODEL_NAME`.
        task_name: a key of `glue.TASKS`.
        wanted: a trial's number; the predictions need not be there.

    Raises:
        InputError: there are predictions, but no dev scores to choose by.
    """
    results_path = os.path.join(model_dir, "results", f"{task_name}_results.json")
    metric = glue.get_task(task_name).metrics[0]
    scores = _dev_scores(results_path, task_name, metric)
    if wanted is not None:
        return Choice(wanted, "as asked for", scores.get(wanted))
    predicted = _trials_with_predictions(model_dir, task_name)
    if not predicted:
        return Choice(None, "no predictions")
    ranked = sorted((score, trial) for trial, score in scores.items() if trial in predicted)
    if not ranked:
        raise InputError(
            f"{task_name}: {results_path} has no dev score ({metric}) of a trial that wrote the "
            f"predictions there are ({', '.join(map(str, sorted(predicted)))}). Run finetune.sh "
            f"again, or name the trial: --trial {task_name}={min(predicted)}"
        )
    score, trial = ranked[(len(ranked) - 1) // 2]
    return Choice(trial, f"median of {len(ranked)}", score)


def _dev_scores(path, task_name, metric):
    """The main metric of each trial that made predictions; none if there is no results file."""
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)[task_name]
        return {
            entry["trial"]: entry["metrics"][metric]
            for entry in entries
            if metric in entry["metrics"] and entry["tests"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a results file ({error!r})") from None


def _trials_with_predictions(model_dir, task_name):
    """Trials that predicted at least one of the task's test splits."""
    folder = os.path.join(model_dir, "test_predictions")
    splits = "|".join(file.split for file in FILES if file.task == task_name)
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    matches = (re.fullmatch(rf"{task_name}_(?:{splits})_([0-9]+)\.tsv", name) for name in names)
    return {int(match[1]) for match in matches if match}


def read_predictions(path: str, file: SubmissionFile) -> list[str]:
    """A prediction for each row of GLUE's test file, as the leaderboard wants it.

    Raises:
        InputError: other rows than the test file's, or a row that is no prediction; the message
            has the place, what was expected and what came.
    """
    with open(path, encoding="utf-8", errors="replace") as stream:
        header, *rows = [line.split("\t") for line in stream.read().rstrip("\n").split("\n")]
    if header[:2] != ["index", "prediction"]:
        raise InputError(
            f'{path}, line 1: expected the columns "index" and "prediction", got '
            f'"{" ".join(header)}"'
        )
    if len(rows) != file.num_rows:
        raise InputError(
            f"{path}: expected {file.num_rows} predictions, one for each row of GLUE's "
            f"{file.name} test file, got {len(rows)}: was it predicted from another file?"
        )
    task = glue.get_task(file.task)
    predictions = []
    for index, row in enumerate(rows):
        if len(row) < 2 or row[0] != str(index):
            place = f"{path}, line {index + 2}"
            raise InputError(f'{place}: expected the index {index}, got "{" ".join(row)}"')
        prediction = _format(task, row[1])
        if prediction is None:
            allowed = "a number" if task.is_regression else f"one of {', '.join(task.labels)}"
            raise InputError(f'{path}, line {index + 2}: expected {allowed}, got "{row[1]}"')
        predictions.append(prediction)
    return predictions


def _format(task, text):
    """A label as it is, a score in GLUE's range and with three decimals; None if it is neither."""
    if not task.is_regression:
        return text if text in task.labels else None
    try:
        score = float(text)
    except ValueError:
        return None
    return f"{min(max(score, 0.0), glue.MAX_SCORE):.3f}" if math.isfinite(score) else None


def constant_predictions(file: SubmissionFile) -> list[str]:
    """What stands in for a task without predictions: the most frequent label in every row.

    For scores it is the middle of the range, and 0 in the first row: with a constant no
    correlation is defined.
    """
    if file.most_frequent:
        return [file.most_frequent] * file.num_rows
    return ["0.000"] + [f"{glue.MAX_SCORE / 2:.3f}"] * (file.num_rows - 1)


def write_zip(path: str, predictions: Mapping[str, list[str]]) -> None:
    """Writes the zip, whole or not at all; the same predictions always give the same bytes.

    Args:
        path: the file to write.
        predictions: by a file's name without `.tsv`, one prediction a row.

    Raises:
        InputError: the folder for it is not there.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"cannot write {path}: there is no folder {folder}")
    with files.atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, rows in predictions.items():
            lines = (f"{index}\t{prediction}\n" for index, prediction in enumerate(rows))
            # Without a date of its own a member has the same bytes at any time.
            member = zipfile.ZipInfo(f"{name}.tsv", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, "index\tprediction\n" + "".join(lines))
