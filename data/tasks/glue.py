"""The nine GLUE tasks as rows of one table.

Columns, label orders and headers are those of GLUE's own files, as in the original's
finetune/classification/classification_tasks.py. Columns are read by number, and must have GLUE's
names in the header. MRPC's test file doubles quotes as CSV does; they stay, as no field is quoted.
"""

import dataclasses
import os
from typing import ClassVar

from typing_extensions import override

from common.errors import InputError
from common.fields import unknown
from data.tasks.classification.task import ClassificationTask
from data.tasks.examples import listed, unexpected
from data.tasks.labels import REGRESSION
from data.tasks.tables import Column, Table

MAX_SCORE = 5.0  # STS-B scores run from 0 to 5
# GLUE's own files have a few damaged rows; a larger share of a file means that the file is broken.
MAX_DAMAGED_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueTask(ClassificationTask):
    """A task whose files are where GLUE or the original has them.

    Args:
        glue_name: GLUE's own name of the folder.
        dev_file: the name of the dev file, without `.tsv`.
        test_columns: the columns of the texts in test files; None for `text_columns`.
    """

    glue_name: str
    dev_file: str = "dev"
    test_columns: tuple[Column, ...] | None = None
    labels: tuple[str, ...] = ("0", "1")
    may_be_wider: bool = True  # a few rows have an extra tab

    file_hint = ". scripts/download_glue.py downloads GLUE's files"
    other_endings: ClassVar[tuple[str, ...]] = ()

    @override
    def paths(self, directory: str, split: str) -> list[str]:
        folders = [self.name, self.glue_name]
        if split == "diagnostic":
            folders.append("diagnostic")  # a separate folder in GLUE's download
        file_name = (self.dev_file if split == "dev" else split) + ".tsv"
        return [os.path.join(directory, folder, file_name) for folder in folders]

    @override
    def has_header(self, split: str) -> bool:
        return self.header or split in self.test_splits

    @override
    def columns(self, split: str) -> tuple[Column, ...]:
        if split == "diagnostic":
            return (1, 2)
        is_test = split in self.test_splits
        return self.test_columns if is_test and self.test_columns else self.text_columns

    @override
    def check_table(self, table: Table, is_test: bool) -> None:
        *texts, label = HEADERS[self.name]
        if not table.header and table.rows and label in (first := table.rows[0][1]):
            problem = f"expected no header, as in GLUE's file, got {listed(first)}"
            raise InputError(f"{table.path}, line 1: {problem}")
        for name, number in zip(texts if is_test else (*texts, label), table.columns, strict=True):
            found = table.header[number] if table.header else name
            if found.lower() != name.lower():
                error = unexpected(f'a header with "{name}"', f"column {number + 1}", found)
                raise InputError(f"{table.path}, line 1: {error}")
        label_at = table.columns[-1]
        rows = () if is_test else table.rows
        undecided = [place for place, row in rows if row[label_at : label_at + 1] == ["-"]]
        if undecided:
            problem = f'{len(undecided)} rows have the label "-": their annotators did not agree'
            raise InputError(f"{table.path}, {undecided[0]}: {problem}. Remove these rows")


# The names in the headers: of the texts, and of the label.
HEADERS = {
    "cola": ("sentence", "label"),
    "sst": ("sentence", "label"),
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "sts": ("sentence1", "sentence2", "score"),
    "qqp": ("question1", "question2", "is_duplicate"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "qnli": ("question", "sentence", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "wnli": ("sentence1", "sentence2", "label"),
}
_ENTAILMENT = ("entailment", "not_entailment")
_SCORES = {"labels": (), "problem_type": REGRESSION, "score_range": (0.0, MAX_SCORE)}
_STS = _SCORES | {"glue_name": "STS-B", "test_columns": (-2, -1), "unordered": True}
# In GLUE's train file a few questions contain a line break, which cuts the row in two, and two rows
# have an empty second question.
_QQP = {"glue_name": "QQP", "test_columns": (1, 2), "max_damaged_share": MAX_DAMAGED_SHARE}
_MNLI = {
    "glue_name": "MNLI",
    "labels": ("contradiction", "entailment", "neutral"),
    "dev_file": "dev_matched",
    "more_dev_splits": ("dev_mismatched",),
    "test_splits": ("test_matched", "test_mismatched", "diagnostic"),
}

# Positional: name, metrics, columns of the texts, column of the label.
_ROWS = (
    GlueTask("cola", ("mcc",), (3,), 1, glue_name="CoLA", test_columns=(1,), header=False),
    GlueTask("sst", ("accuracy",), (0,), 1, glue_name="SST-2", test_columns=(1,)),
    GlueTask("mrpc", ("accuracy", "f1"), (3, 4), 0, glue_name="MRPC", unordered=True),
    GlueTask("sts", ("pearson", "spearman"), (-3, -2), -1, **_STS),
    GlueTask("qqp", ("accuracy", "f1"), (3, 4), 5, **_QQP),
    GlueTask("mnli", ("accuracy",), (8, 9), -1, **_MNLI),
    GlueTask("qnli", ("accuracy",), (1, 2), 3, glue_name="QNLI", labels=_ENTAILMENT),
    GlueTask("rte", ("accuracy",), (1, 2), 3, glue_name="RTE", labels=_ENTAILMENT),
    GlueTask("wnli", ("accuracy",), (1, 2), 3, glue_name="WNLI"),
)
TASKS = {task.name: task for task in _ROWS}

# Examples in GLUE's files, by task and split; without the few damaged rows of QQP.
NUM_EXAMPLES = {
    "cola": {"train": 8551, "dev": 1043, "test": 1063},
    "sst": {"train": 67_349, "dev": 872, "test": 1821},
    "mrpc": {"train": 3668, "dev": 408, "test": 1725},
    "sts": {"train": 5749, "dev": 1500, "test": 1379},
    "qqp": {"train": 363_846, "dev": 40_430, "test": 390_965},
    "mnli": {"train": 392_702, "dev": 9815, "dev_mismatched": 9832}
    | {"test_matched": 9796, "test_mismatched": 9847, "diagnostic": 1104},
    "qnli": {"train": 104_743, "dev": 5463, "test": 5463},
    "rte": {"train": 2490, "dev": 277, "test": 3000},
    "wnli": {"train": 635, "dev": 71, "test": 146},
}


def get_task(name: str) -> GlueTask:
    """GLUE's task called `name`; an `InputError` lists the nine."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
