"""From the predictions of a run to the zip file that gluebenchmark.com scores.

The zip has eleven files, each with the header `index<TAB>prediction` and a row for every example in
GLUE's test file, in the same order. The MNLI model predicts three of them. Labels are GLUE's own
strings; scores are between 0 and 5.
"""

import dataclasses
import os
import re
import zipfile
from collections.abc import Mapping

from common import files
from common.errors import InputError
from data.tasks import glue
from data.tasks.examples import parse_number
from jobs.trials import read_results_file


@dataclasses.dataclass(frozen=True)
class SubmissionFile:
    """One file of the zip."""

    name: str  # without `.tsv`
    task: str  # whose model predicts it
    split: str
    most_frequent: str = ""  # label in GLUE's dev set

    @property
    def num_rows(self) -> int:
        """The number of rows of GLUE's test file."""
        return glue.NUM_EXAMPLES[self.task][self.split]


FILES = (
    SubmissionFile("CoLA", "cola", "test", "1"),
    SubmissionFile("SST-2", "sst", "test", "1"),
    SubmissionFile("MRPC", "mrpc", "test", "1"),
    SubmissionFile("STS-B", "sts", "test"),
    SubmissionFile("QQP", "qqp", "test", "0"),
    SubmissionFile("MNLI-m", "mnli", "test_matched", "entailment"),
    SubmissionFile("MNLI-mm", "mnli", "test_mismatched", "entailment"),
    SubmissionFile("QNLI", "qnli", "test", "not_entailment"),
    SubmissionFile("RTE", "rte", "test", "entailment"),
    SubmissionFile("WNLI", "wnli", "test", "0"),
    SubmissionFile("AX", "mnli", "diagnostic", "entailment"),
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The trial of a task to submit."""

    trial: int | None  # None if the task has no predictions
    reason: str
    score: float | None = None  # on dev, by the task's main metric, in percent; None if unknown


def prediction_path(model_dir: str, file: SubmissionFile, trial: int | str) -> str:
    """Where finetune.py writes a trial's predictions for one file of the zip."""
    name = f"{file.task}_{file.split}_{trial}.tsv"
    return os.path.join(model_dir, "test_predictions", name)


def choose_trial(model_dir: str, task_name: str, requested: int | None = None) -> Choice:
    """The requested trial, or the median one by the dev score of the task's main metric.

    If the number of trials is even, the median is the best one of the worse half. A trial does not
    count if it has no predictions, or only those of an earlier run with other settings. The
    requested trial may lack predictions.

    Raises:
        InputError: as `read_results_file`; or there are predictions, but no dev scores to choose
            by.
    """
    results_path = os.path.join(model_dir, "results", f"{task_name}_results.json")
    metric = glue.get_task(task_name).metrics[0]
    scores = {
        result["trial"]: result["metrics"][metric]
        for result in read_results_file(results_path, task_name)
        if metric in result["metrics"] and result["tests"]
    }
    if requested is not None:
        return Choice(requested, "as requested", scores.get(requested))
    predicted = _trials_with_predictions(model_dir, task_name)
    if not predicted:
        return Choice(None, "no predictions")
    ranked = sorted((score, trial) for trial, score in scores.items() if trial in predicted)
    if not ranked:
        raise InputError(
            f"{task_name}: {results_path} has no dev score ({metric}) for the trials that have "
            f"predictions ({', '.join(map(str, sorted(predicted)))}). Run finetune.sh again, or "
            f"choose a trial: --trial {task_name}={min(predicted)}"
        )
    score, trial = ranked[(len(ranked) - 1) // 2]
    return Choice(trial, f"median of {len(ranked)}", score)


def _trials_with_predictions(model_dir, task_name):
    folder = os.path.join(model_dir, "test_predictions")
    splits = "|".join(file.split for file in FILES if file.task == task_name)
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    matches = (re.fullmatch(rf"{task_name}_(?:{splits})_([0-9]+)\.tsv", name) for name in names)
    return {int(match[1]) for match in matches if match}


def read_predictions(path: str, file: SubmissionFile) -> list[str]:
    """A prediction for each row of GLUE's test file, in the leaderboard's format.

    Raises:
        InputError: the columns or rows are not the test file's, or a value is not a prediction. The
            message names the file and, unless the number of rows is wrong, the line.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        header, *rows = [line.split("\t") for line in stream.read().rstrip("\n").split("\n")]
    if header[:2] != ["index", "prediction"]:
        raise InputError(
            f'{path}, line 1: expected the columns "index" and "prediction", got '
            f'"{" ".join(header):.100}"'
        )
    if len(rows) != file.num_rows:
        raise InputError(
            f"{path}: expected {file.num_rows} predictions, one for each row of GLUE's "
            f"{file.name} test file, got {len(rows)}"
        )
    task = glue.get_task(file.task)
    predictions = []
    for index, row in enumerate(rows):
        where = f"{path}, line {index + 2}"
        if len(row) < 2 or row[0] != str(index):
            raise InputError(f'{where}: expected the index {index}, got "{" ".join(row):.100}"')
        prediction = _format(task, row[1])
        if prediction is None:
            allowed = "a number" if task.is_regression else f"one of {', '.join(task.labels)}"
            raise InputError(f'{where}: expected {allowed}, got "{row[1]:.50}"')
        predictions.append(prediction)
    return predictions


def _format(task, text):
    """A label as it is, or a score in GLUE's range with three decimals; None if it is neither."""
    if not task.is_regression:
        return text if text in task.labels else None
    score = parse_number(text)
    return None if score is None else f"{min(max(score, 0.0), glue.MAX_SCORE):.3f}"


def constant_predictions(file: SubmissionFile) -> list[str]:
    """Predictions for a task without a model: the most frequent label in every row.

    Scores are the middle of the range, except for a 0 in the first row, because the correlation
    with a constant is undefined.
    """
    if file.most_frequent:
        return [file.most_frequent] * file.num_rows
    return ["0.000"] + [f"{glue.MAX_SCORE / 2:.3f}"] * (file.num_rows - 1)


def write_zip(path: str, predictions: Mapping[str, list[str]]) -> None:
    """Writes the zip, whole or not at all; the same predictions always give the same bytes.

    `predictions` has a list for each `SubmissionFile.name`.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"cannot write {path}: the directory {folder} does not exist")
    with files.atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, rows in predictions.items():
            lines = (f"{index}\t{prediction}\n" for index, prediction in enumerate(rows))
            # A constant date, so that the bytes do not depend on the time.
            member = zipfile.ZipInfo(f"{name}.tsv", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, "index\tprediction\n" + "".join(lines))
