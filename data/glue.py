"""The nine GLUE tasks as rows of one table, and the reader of their TSV files.

Columns, label orders and headers are those of GLUE's own files, as in the original's
finetune/classification/classification_tasks.py. No field is quoted: a quote is a character of the
text (MRPC's test file has CSV-doubled quotes, which stay as they are).
"""

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Mapping

import numpy as np
from absl import logging

from errors import InputError

MAX_SCORE = 5.0  # STS-B scores run from 0 to 5


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """One task: where its files are, what their columns hold, and how it is scored.

    Args:
        name: the original's name, also that of the task's folder.
        glue_name: GLUE's own name of the folder.
        text_columns: columns of the text, or of the two texts, in train and dev files.
            Negative numbers count from the end of the header.
        label_column: column of the label in train and dev files.
        test_columns: for each test file (without `.tsv`) the columns of its texts.
        metrics: names of `data.metrics.METRICS`; the first is the task's own in summaries.
        labels: label strings in order of their ids; empty for a score in [0, `MAX_SCORE`].
        header: whether train and dev files begin with a header; test files always do.
        dev_split: name of the dev file.
        unordered: whether the order of the two texts has no meaning.
        has_damaged_rows: whether GLUE's own files are known to have unusable rows.
    """

    name: str
    glue_name: str
    text_columns: tuple[int, ...]
    label_column: int
    test_columns: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ("0", "1")
    header: bool = True
    dev_split: str = "dev"
    unordered: bool = False
    has_damaged_rows: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether the task predicts a score and not a label."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Width of the logits: one per label, one for a score."""
        return len(self.labels) or 1


_ENTAILMENT = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        GlueTask("cola", "CoLA", (3,), 1, {"test": (1,)}, ("mcc",), header=False),
        GlueTask("sst", "SST-2", (0,), 1, {"test": (1,)}, ("accuracy",)),
        GlueTask(
            "mrpc", "MRPC", (3, 4), 0, {"test": (3, 4)}, ("accuracy", "f1"), unordered=True
        ),
        GlueTask(
            "sts", "STS-B", (-3, -2), -1, {"test": (-2, -1)}, ("pearson", "spearman"),
            labels=(), unordered=True,
        ),
        # In GLUE's train file a few questions contain a line break, which cuts the row in two,
        # and two have an empty second question.
        GlueTask(
            "qqp", "QQP", (3, 4), 5, {"test": (1, 2)}, ("accuracy", "f1"), has_damaged_rows=True
        ),
        GlueTask(
            "mnli", "MNLI", (8, 9), -1,
            {"test_matched": (8, 9), "test_mismatched": (8, 9), "diagnostic": (1, 2)},
            ("accuracy",), labels=("contradiction", "entailment", "neutral"),
            dev_split="dev_matched",
        ),
        GlueTask("qnli", "QNLI", (1, 2), 3, {"test": (1, 2)}, ("accuracy",), labels=_ENTAILMENT),
        GlueTask("rte", "RTE", (1, 2), 3, {"test": (1, 2)}, ("accuracy",), labels=_ENTAILMENT),
        GlueTask("wnli", "WNLI", (1, 2), 3, {"test": (1, 2)}, ("accuracy",)),
    )
}  # fmt: skip

# Above this share of a file, unusable rows are no longer the known damage of GLUE's own files.
MAX_DAMAGED_SHARE = 1e-3


@dataclasses.dataclass(frozen=True)
class Examples:
    """One file's examples, in file order.

    Args:
        path: the file.
        sha256: hash of its bytes.
        texts: the first or only text of each example.
        text_pairs: the second texts; None for tasks on one text.
        labels: int32 `[N]` label ids, or float32 `[N]` scores; None for a test file.
    """

    path: str
    sha256: str
    texts: list[str]
    text_pairs: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)

    def with_swapped_pairs(self) -> "Examples":
        """These examples, followed by the same ones with their two texts exchanged."""
        return dataclasses.replace(
            self,
            texts=self.texts + self.text_pairs,
            text_pairs=self.text_pairs + self.texts,
            labels=np.concatenate([self.labels, self.labels]),
        )


def get_task(name: str) -> GlueTask:
    """The row of the table called `name`; an `InputError` lists the tasks there are."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    raise InputError(f'unknown task "{name}". Available: {", ".join(TASKS)}.{hint}')


def load_examples(task: GlueTask, directory: str, split: str) -> Examples:
    """Reads a split that must exist.

    Args:
        task: a row of `TASKS`.
        directory: the folder that holds the tasks' folders, `$DATA_DIR/finetuning_data`.
        split: "train", "dev" or a key of `task.test_columns`.

    Raises:
        InputError: the file is missing, or a line of it cannot be used; the message has the
            place, what was expected and what came.
    """
    paths = candidate_paths(task, directory, split)
    for path in paths:
        if os.path.isfile(path):
            return _read_tsv(task, path, split)
    raise InputError(
        f"task {task.name}: no {split} file. Put it at {paths[0]} or {paths[1]}; "
        "gluebenchmark.com has GLUE's files"
    )


def load_test_examples(task: GlueTask, directory: str) -> dict[str, Examples]:
    """The test splits found, by name; a missing one is a warning. See `load_examples`."""
    found = {}
    for split in task.test_columns:
        paths = candidate_paths(task, directory, split)
        if any(os.path.isfile(path) for path in paths):
            found[split] = load_examples(task, directory, split)
        else:
            logging.warning("%s: no test predictions, for there is no %s", task.name, paths[0])
    return found


def candidate_paths(task: GlueTask, directory: str, split: str) -> list[str]:
    """Where a split's file may be: the original's folder names, then GLUE's."""
    folders = [task.name, task.glue_name]
    if split == "diagnostic":
        folders.append("diagnostic")  # a folder of its own in GLUE's download
    file_name = (task.dev_split if split == "dev" else split) + ".tsv"
    return [os.path.join(directory, folder, file_name) for folder in folders]


def _read_tsv(task, path, split):
    is_test = split in task.test_columns
    rows, sha256 = _split_rows(path)
    has_header = task.header or is_test
    width = len(rows[0]) if has_header and rows else 0
    columns = task.test_columns[split] if is_test else task.text_columns
    wanted = columns if is_test else (*columns, task.label_column)
    if has_header and rows:
        # Columns from the end are those of the header: a row may have a stray tab more.
        wanted = [column + width if column < 0 else column for column in wanted]
        _check_header(task, path, rows[0], wanted, is_test)
    first_line = 2 if has_header else 1
    records, damaged = [], []
    for line, row in enumerate(rows[first_line - 1 :], start=first_line):
        try:
            records.append(_parse_row(task, row, wanted, width, is_test))
        except InputError as error:
            problem = f"{path}, line {line}: {error}"
            if is_test or not task.has_damaged_rows:
                raise InputError(problem) from None
            damaged.append(problem)
    if damaged:
        _report_damaged(damaged, len(rows), path)
    if not records:
        raise InputError(f"{path}: no examples in the file")
    labels = None
    if not is_test:
        dtype = np.float32 if task.is_regression else np.int32
        labels = np.array([record[-1] for record in records], dtype)
    pairs = [record[1] for record in records] if len(columns) == 2 else None
    return Examples(path, sha256, [record[0] for record in records], pairs, labels)


def _split_rows(path):
    """A file's rows as lists of strings, without blank lines at the end; the file's hash."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: expected UTF-8 text, got other bytes") from None
    # Only "\n" ends a row: str.splitlines would also cut at characters inside a text.
    rows = [line.removesuffix("\r").split("\t") for line in text.rstrip("\r\n").split("\n")]
    return ([] if rows == [[""]] else rows), hashlib.sha256(content).hexdigest()


def _check_header(task, path, header, wanted, is_test):
    """A file without its header would lose its first example: refuse a header that is data."""
    if not 0 <= min(wanted) <= max(wanted) < len(header):
        names = ", ".join(str(column + 1) for column in wanted if column >= 0)
        raise InputError(
            f"{path}, line 1: expected a header of GLUE's {task.glue_name} file, with its texts "
            f"{'' if is_test else 'and label '}in columns {names}; got {len(header)} columns"
        )
    cell = header[0] if is_test else header[wanted[-1]]
    if cell.strip().isdigit() if is_test else _parse_label(task, cell) is not None:
        raise InputError(f'{path}, line 1: expected a header, got a row of data ("{cell}")')


def _parse_row(task, row, wanted, width, is_test):
    """The wanted cells of a row, texts first, the label parsed; errors without the place."""
    expected = max(width, max(wanted) + 1)
    if len(row) < expected:
        raise InputError(f"expected {expected} columns separated by tabs, got {len(row)}")
    cells = [row[column] for column in wanted]
    texts = cells if is_test else cells[:-1]
    for text, column in zip(texts, wanted, strict=False):
        if not text.strip():
            raise InputError(f"expected text in column {column + 1}, got none")
    if is_test:
        return texts
    label = _parse_label(task, cells[-1])
    if label is None:
        allowed = f"a score from 0 to {MAX_SCORE:g}"
        if not task.is_regression:
            allowed = "one of the labels " + ", ".join(task.labels)
        raise InputError(f'expected {allowed} in column {wanted[-1] + 1}, got "{cells[-1]}"')
    return [*texts, label]


def _parse_label(task, cell):
    """The label's id, or the score; None if it is neither."""
    cell = cell.strip()
    if not task.is_regression:
        return task.labels.index(cell) if cell in task.labels else None
    try:
        score = float(cell)
    except ValueError:
        return None
    return score if 0 <= score <= MAX_SCORE else None


def _report_damaged(damaged, num_rows, path):
    if len(damaged) > MAX_DAMAGED_SHARE * num_rows:
        raise InputError(damaged[0])
    logging.warning(
        "%s: left out %d unusable rows of %d, the first: %s",
        path, len(damaged), num_rows, damaged[0],
    )  # fmt: skip
