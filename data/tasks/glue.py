"""The nine GLUE tasks as rows of one table.

Columns, label orders and headers are those of GLUE's own files, as in the original's
finetune/classification/classification_tasks.py. No field is quoted: a quote is a character of the
text (MRPC's test file has CSV-doubled quotes, which stay as they are).
"""

import dataclasses
import os
from collections.abc import Mapping

from data.tasks.base import find_task
from data.tasks.classification.task import REGRESSION, ClassificationTask

MAX_SCORE = 5.0  # STS-B scores run from 0 to 5
# Above this share of a file, unusable rows are no longer the known damage of GLUE's own files.
MAX_DAMAGED_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueTask(ClassificationTask):
    """A task whose files are where GLUE or the original has them.

    Args:
        glue_name: GLUE's own name of the folder.
        dev_files: by dev split the name of its file, without `.tsv`; "dev" is the first.
    """

    glue_name: str
    dev_files: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"dev": "dev"})
    labels: tuple[str, ...] = ("0", "1")
    may_be_wider: bool = True  # a few rows have a stray tab more

    where_from = "; gluebenchmark.com has GLUE's files"

    def paths(self, directory: str, split: str) -> list[str]:
        """Where a split's file may be: the original's folder names, then GLUE's."""
        folders = [self.name, self.glue_name]
        if split == "diagnostic":
            folders.append("diagnostic")  # a folder of its own in GLUE's download
        file_name = self.dev_files.get(split, split) + ".tsv"
        return [os.path.join(directory, folder, file_name) for folder in folders]

    @property
    def more_dev_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return tuple(self.dev_files)[1:]

    def has_header(self, split: str) -> bool:
        """Test files always have a header."""
        return self.header or split in self.test_columns


_ENTAILMENT = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        GlueTask(
            name="cola", glue_name="CoLA", metrics=("mcc",), text_columns=(3,), label_column=1,
            test_columns={"test": (1,)}, header=False,
        ),
        GlueTask(
            name="sst", glue_name="SST-2", metrics=("accuracy",), text_columns=(0,),
            label_column=1, test_columns={"test": (1,)},
        ),
        GlueTask(
            name="mrpc", glue_name="MRPC", metrics=("accuracy", "f1"), text_columns=(3, 4),
            label_column=0, test_columns={"test": (3, 4)}, unordered=True,
        ),
        GlueTask(
            name="sts", glue_name="STS-B", metrics=("pearson", "spearman"), text_columns=(-3, -2),
            label_column=-1, test_columns={"test": (-2, -1)}, problem_type=REGRESSION, labels=(),
            score_range=(0.0, MAX_SCORE), unordered=True,
        ),
        # In GLUE's train file a few questions contain a line break, which cuts the row in two,
        # and two have an empty second question.
        GlueTask(
            name="qqp", glue_name="QQP", metrics=("accuracy", "f1"), text_columns=(3, 4),
            label_column=5, test_columns={"test": (1, 2)}, max_damaged_share=MAX_DAMAGED_SHARE,
        ),
        GlueTask(
            name="mnli", glue_name="MNLI", metrics=("accuracy",), text_columns=(8, 9),
            label_column=-1, labels=("contradiction", "entailment", "neutral"),
            dev_files={"dev": "dev_matched", "dev_mismatched": "dev_mismatched"},
            test_columns={
                "test_matched": (8, 9), "test_mismatched": (8, 9), "diagnostic": (1, 2)
            },
        ),
        GlueTask(
            name="qnli", glue_name="QNLI", metrics=("accuracy",), text_columns=(1, 2),
            label_column=3, test_columns={"test": (1, 2)}, labels=_ENTAILMENT,
        ),
        GlueTask(
            name="rte", glue_name="RTE", metrics=("accuracy",), text_columns=(1, 2),
            label_column=3, test_columns={"test": (1, 2)}, labels=_ENTAILMENT,
        ),
        GlueTask(
            name="wnli", glue_name="WNLI", metrics=("accuracy",), text_columns=(1, 2),
            label_column=3, test_columns={"test": (1, 2)},
        ),
    )
}  # fmt: skip


def get_task(name: str) -> GlueTask:
    """GLUE's task called `name`; an `InputError` lists the nine."""
    return find_task(name, TASKS)
