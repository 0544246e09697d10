"""GLUE's copy on the Hugging Face hub, turned back into GLUE's own files.

The copy has the texts and labels of each task in parquet files, with numbers for labels. Columns
that it lacks, such as the parses of MNLI, are left empty: no task reads them.
"""

import functools
import io
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from common import hub_datasets
from common.errors import InputError
from data.tasks import glue
from data.tasks.examples import unexpected
from data.tasks.tables import read_table

ADDRESS = "hf://datasets/nyu-mll/glue"


class Folder(NamedTuple):
    """How a folder of the copy becomes one of GLUE's.

    Args:
        name: of the folder of the copy.
        texts: its columns of texts, in GLUE's order.
        header: of GLUE's training and dev files.
        test_header: of GLUE's test files.
        labels: what the numbers stand for; None for the task's own order.
    """

    name: str
    texts: tuple[str, ...]
    header: str
    test_header: str
    labels: tuple[str, ...] | None = None


_PAIR = ("sentence1", "sentence2")
_NLI = ("premise", "hypothesis")
_NLI_LABELS = ("entailment", "neutral", "contradiction")
_PAIR_HEADER = "index\tsentence1\tsentence2"
_MRPC = "#1 ID\t#2 ID\t#1 String\t#2 String"
_STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
_MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
# By the name of GLUE's folder. CoLA's training and dev files have no header.
FOLDERS = {
    "CoLA": Folder("cola", ("sentence",), "source\tlabel\tmark\tsentence", "index\tsentence"),
    "SST-2": Folder("sst2", ("sentence",), "sentence\tlabel", "index\tsentence"),
    "MRPC": Folder("mrpc", _PAIR, f"Quality\t{_MRPC}", f"index\t{_MRPC}"),
    "STS-B": Folder("stsb", _PAIR, f"{_STS}\tscore", _STS),
    "QQP": Folder(
        "qqp",
        ("question1", "question2"),
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "id\tquestion1\tquestion2",
    ),
    "MNLI": Folder("mnli", _NLI, f"{_MNLI}\tlabel1\tgold_label", _MNLI, _NLI_LABELS),
    "diagnostic": Folder("ax", _NLI, "", _PAIR_HEADER, _NLI_LABELS),
    "QNLI": Folder(
        "qnli",
        ("question", "sentence"),
        "index\tquestion\tsentence\tlabel",
        "index\tquestion\tsentence",
    ),
    "RTE": Folder("rte", _PAIR, f"{_PAIR_HEADER}\tlabel", _PAIR_HEADER),
    "WNLI": Folder("wnli", _PAIR, f"{_PAIR_HEADER}\tlabel", _PAIR_HEADER),
}


def make_files(
    task: glue.GlueTask, folder: str, splits: Iterable[str]
) -> Iterator[tuple[str, BinaryIO]]:
    """Downloads a folder of the copy; yields the name and content of GLUE's file of each split.

    Raises:
        InputError: the copy cannot be read, or has other files, columns, labels or numbers of rows
            than GLUE.
    """
    source = FOLDERS[folder]
    address = f"{ADDRESS}/{source.name}"
    found = hub_datasets.fetch(address, lambda name: name.endswith(".parquet"))
    for split in splits:
        name = os.path.basename(task.paths("", split)[0])
        start = name.removesuffix(".tsv").replace("dev", "validation").replace("diagnostic", "test")
        parts = [each for each in found.names if each.startswith(f"{source.name}/{start}-")]
        if not parts:
            has = ", ".join(map(os.path.basename, found.names)) or "none"
            raise InputError(f"{address}: expected a file {start}-*.parquet, found {has}")
        columns = (*source.texts, "label", "idx")
        rows = []
        for part in parts:
            table = read_table(os.path.join(found.directory, part), columns, has_header=False)
            rows += table.parse(functools.partial(_parse, task, source, split))
        expected = glue.NUM_EXAMPLES[task.name][split]
        if len(rows) != expected:
            raise InputError(f"{address}: {start}: expected {expected:,} rows, got {len(rows):,}")
        lines = [line for _, line in sorted(rows)]
        if task.has_header(split):
            lines.insert(0, _header(task, source, split))
        yield name, io.BytesIO("".join(f"{line}\n" for line in lines).encode())


def _header(task, source, split):
    return source.test_header if split in task.test_splits else source.header


def _parse(task, source, split, cells):
    """(index, line of GLUE's file) of a row of the copy."""
    import numpy as np

    *texts, label, index = cells
    for name, text in zip(source.texts, texts, strict=True):
        if not isinstance(text, str) or not set(text).isdisjoint("\t\r\n"):
            raise unexpected("a text of one line without tabs", f'"{name}"', text)
    *names, label_name = glue.HEADERS[task.name]
    values = dict(zip(names, texts, strict=True)) | {"index": str(index), "id": str(index)}
    if split in task.test_splits:
        if label != -1:
            raise unexpected("-1, since the labels of test sets are secret", '"label"', label)
    elif task.is_regression:
        values[label_name] = str(np.float32(label))
    else:
        labels = source.labels or task.labels
        if label not in range(len(labels)):
            raise unexpected(f"a number from 0 to {len(labels) - 1}", '"label"', label)
        values[label_name] = labels[label]
    header = _header(task, source, split).split("\t")
    return index, "\t".join(values.get(name, "") for name in header)
