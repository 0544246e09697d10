"""The nine GLUE tasks as rows of one table.

Columns, label orders and headers are those of GLUE's own files, as in the original's
finetune/classification/classification_tasks.py. No field is quoted: a quote is a character of the
text (MRPC's test file has CSV-doubled quotes, which stay as they are).
"""

import dataclasses
import difflib
import os

from data.tasks import REGRESSION, ClassificationTask
from errors import InputError

MAX_SCORE = 5.0  # STS-B scores run from 0 to 5
# Above this share of a file, unusable rows are no longer the known damage of GLUE's own files.
MAX_DAMAGED_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueTask(ClassificationTask):
    """A task whose files are where GLUE or the original has them.

    Args:
        glue_name: GLUE's own name of the folder.
        dev_split: name of the dev file.
    """

    glue_name: str
    dev_split: str = "dev"
    labels: tuple[str, ...] = ("0", "1")
    may_be_wider: bool = True  # a few rows have a stray tab more

    where_from = "; gluebenchmark.com has GLUE's files"

    def paths(self, directory: str, split: str) -> list[str]:
        """Where a split's file may be: the original's folder names, then GLUE's."""
        folders = [self.name, self.glue_name]
        if split == "diagnostic":
            folders.append("diagnostic")  # a folder of its own in GLUE's download
        file_name = (self.dev_split if split == "dev" else split) + ".tsv"
        return [os.path.join(directory, folder, file_name) for folder in folders]

    def has_header(self, split: str) -> bool:
        """Test files always have a header."""
        return self.header or split in self.test_columns


_ENTAILMENT = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        GlueTask("cola", (3,), 1, {"test": (1,)}, ("mcc",), glue_name="CoLA", header=False),
        GlueTask("sst", (0,), 1, {"test": (1,)}, ("accuracy",), glue_name="SST-2"),
        GlueTask(
            "mrpc", (3, 4), 0, {"test": (3, 4)}, ("accuracy", "f1"), glue_name="MRPC",
            unordered=True,
        ),
        GlueTask(
            "sts", (-3, -2), -1, {"test": (-2, -1)}, ("pearson", "spearman"), glue_name="STS-B",
            problem_type=REGRESSION, labels=(), score_range=(0.0, MAX_SCORE), unordered=True,
        ),
        # In GLUE's train file a few questions contain a line break, which cuts the row in two,
        # and two have an empty second question.
        GlueTask(
            "qqp", (3, 4), 5, {"test": (1, 2)}, ("accuracy", "f1"), glue_name="QQP",
            max_damaged_share=MAX_DAMAGED_SHARE,
        ),
        GlueTask(
            "mnli", (8, 9), -1,
            {"test_matched": (8, 9), "test_mismatched": (8, 9), "diagnostic": (1, 2)},
            ("accuracy",), glue_name="MNLI", labels=("contradiction", "entailment", "neutral"),
            dev_split="dev_matched",
        ),
        GlueTask(
            "qnli", (1, 2), 3, {"test": (1, 2)}, ("accuracy",), glue_name="QNLI",
            labels=_ENTAILMENT,
        ),
        GlueTask(
            "rte", (1, 2), 3, {"test": (1, 2)}, ("accuracy",), glue_name="RTE", labels=_ENTAILMENT
        ),
        GlueTask("wnli", (1, 2), 3, {"test": (1, 2)}, ("accuracy",), glue_name="WNLI"),
    )
}  # fmt: skip


def get_task(name: str) -> GlueTask:
    """The row of the table called `name`; an `InputError` lists the tasks there are."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    raise InputError(f'unknown task "{name}". Available: {", ".join(TASKS)}.{hint}')
