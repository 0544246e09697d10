"""Tagging: a tag for each word, which marks entities or stands by itself.

Entities (names, chunks) are read in whatever scheme a file has, learned in another, BIOES by
default as in the original, scored as CoNLL's conlleval does, and written in the file's own scheme.
Tags of another kind (parts of speech) are taken as they are.

A tagging task of one's own needs no more than {"kind": "tagging"} as its JSON file, and files of
one word a line, the word in the first column and the tag in the last (see `conll`): train.txt,
dev.txt and test.txt, or .conll, .conllu or .tsv, in $DATA_DIR/finetuning_data/NAME. Further fields:

    name         of the folder, the results and the models; by default the JSON file's own name
    tags         "entities" (the default), tags such as B-PER and O; or "labels", any tags
    scheme       what entities are learned as: "BIOES" (the default), "BIO" or "IOB1"
    word_column  number from 1; by default the first, and FORM in .conllu files
    tag_column   number from 1; by default the last, and UPOS in .conllu files
    metrics      list, the task's main one first: f1, precision and recall of entities; accuracy
                 and macro_f1 of labels
    files        {"train": …, "dev": …, "test": …} where they are elsewhere; relative to the JSON
                 file's folder. Any further name is another test set
"""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from absl import logging

from common import files
from common.errors import InputError
from common.fields import check_fields, require
from data.tasks.base import Examples, Task
from data.tasks.tagging import conll
from data.tasks.task_fields import files_beside, is_files, is_list, is_name, tests_among

KIND = "tagging"
ENTITIES = "entities"
LABELS = "labels"
METRICS = {ENTITIES: ("f1", "precision", "recall"), LABELS: ("accuracy", "macro_f1")}
ENDINGS = (".txt", ".conll", ".conllu", ".tsv")

_SHOWN = 20  # labels in a message
_UNKNOWN = -100  # the target of a word whose tag is not among the labels


@dataclasses.dataclass(frozen=True)
class SentenceExamples(Examples):
    """One file's sentences.

    Args:
        path: the file.
        sha256: hash of its bytes.
        words: of all sentences, one after the other.
        tags: the words', as they are in the file; None for a test file without them.
        row_splits: int64 `[sentences + 1]`; sentence i is `words[row_splits[i]:row_splits[i + 1]]`.
    """

    words: list[str]
    tags: list[str] | None
    row_splits: np.ndarray

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    @property
    def num_characters(self) -> int:
        """See `Examples`."""
        return sum(map(len, self.words))


@dataclasses.dataclass(frozen=True)
class TaggingTask(Task):
    """A task of one tag a word.

    Args:
        name: also that of the task's folder.
        metrics: some of `METRICS[tags]`; the first is the task's own in summaries.
        tags: a key of `METRICS`: what tags say.
        scheme: of `data.tasks.tagging.conll.SCHEMES`, what entities are learned as.
        word_column: number from 0; None as in `data.tasks.tagging.conll.read_conll`.
        tag_column: likewise.
        test_names: the test splits.
        labels: the tags that the model knows, in order of their ids; None is those found in the
            training file: see `complete`.
        file_scheme: of the training file's entities; found likewise.
        num_columns: of the training file; found likewise.
    """

    tags: str = ENTITIES
    scheme: str = "BIOES"
    word_column: int | None = None
    tag_column: int | None = None
    test_names: tuple[str, ...] = ("test",)
    labels: tuple[str, ...] | None = None
    file_scheme: str | None = None
    num_columns: int | None = None

    architecture: ClassVar[str] = "ConvBertForTokenClassification"
    endings: ClassVar[tuple[str, ...]] = ENDINGS

    @property
    def test_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.test_names

    def complete(self, directory: str) -> "TaggingTask":
        """The task with the labels that its training file has; see `Task.load`."""
        path = self.find_file(directory, "train")
        file = self._read_conll(path, may_lack_tags=False)
        tags, scheme = Counter(file.tags), None
        if self.tags == ENTITIES:
            scheme, misfits = conll.find_scheme(file.tags, file.row_splits)
            _warn_of_misfits(file, scheme, misfits)
            tags = Counter(tag[2:] for tag in file.tags if tag != conll.OUTSIDE)
        if len(tags) < (1 if scheme else 2):
            wanted = "entities" if scheme else "two or more different tags"
            raise InputError(f"{path}: expected {wanted}, got no tag but {file.tags[0]}")
        shown = [f"{tag} ({tags[tag]:,})" for tag in sorted(tags)[:_SHOWN]]
        logging.info(
            "%s: %d words of %d sentences; %s (words): %s",
            self.name, len(file.words), len(file.row_splits) - 1,
            f"{len(tags)} types of entities, in {scheme}" if scheme else f"{len(tags)} tags",
            ", ".join(shown),
        )  # fmt: skip
        labels = conll.all_tags(sorted(tags), self.scheme) if scheme else tuple(sorted(tags))
        return dataclasses.replace(
            self, labels=labels, file_scheme=scheme, num_columns=file.num_columns
        )

    def read(self, path: str, split: str) -> SentenceExamples:
        """See `Task.load`."""
        file = self._read_conll(path, may_lack_tags=split in self.test_splits)
        if file.tags is not None and split != "train":
            self._warn_of_unknown_tags(file)
        return SentenceExamples(path, file.sha256, file.words, file.tags, file.row_splits)

    def make_features(self, tokenizer, examples, options, training):
        """See `Task`: one row a sentence or a window of one, a target a word's first token."""
        from data.tasks.tagging.features import make_tagging_features

        targets = np.zeros(len(examples.words), np.int32)
        if examples.tags is not None:
            ids = {label: number for number, label in enumerate(self.labels)}
            tags = self._as_learned(examples.tags, examples.row_splits)
            targets = np.array([ids.get(tag, _UNKNOWN) for tag in tags], np.int32)
        features = make_tagging_features(
            tokenizer, examples.words, examples.row_splits, targets, options.max_seq_length
        )
        if features.num_windowed:
            logging.info(
                "%s: %d of %d sentences are longer than %d tokens and read in windows",
                examples.path, features.num_windowed, len(examples), options.max_seq_length,
            )  # fmt: skip
        if features.num_cut:
            logging.warning(
                "%s: %d words have more than the %d tokens of a row, and are read without the last",
                examples.path, features.num_cut, options.max_seq_length,
            )  # fmt: skip
        return features

    def model_fields(self) -> dict[str, Any]:
        """See `Task`."""
        return {"num_labels": len(self.labels), "id2label": self.labels}

    def saved_options(self, options: Any) -> dict[str, Any]:
        """See `Task`."""
        return {KIND: {"scheme": self.file_scheme}} if self.tags == ENTITIES else {}

    def score(self, examples, features, outputs) -> dict[str, float]:
        """See `Task`; outputs are logits `[tokens, labels]`."""
        predicted = self.predictions(examples, features, outputs)
        if self.tags == ENTITIES:
            scores = conll.score_entities(examples.tags, predicted, examples.row_splits)
            return {name: scores[name] for name in self.metrics}
        from data.tasks.metrics import compute_metrics

        ids = {tag: number for number, tag in enumerate(sorted({*examples.tags, *predicted}))}
        gold, found = ([ids[tag] for tag in tags] for tags in (examples.tags, predicted))
        return compute_metrics(self.metrics, gold, found)

    def predictions(self, examples, features, outputs) -> list[str]:
        """Each word's tag, entities in the scheme of the training file; arguments as of `score`."""
        numbers = outputs[features.word_positions].argmax(axis=-1)
        tags = [self.labels[number] for number in numbers]
        if self.tags == ENTITIES:
            return conll.convert_tags(tags, examples.row_splits, self.file_scheme)
        return tags

    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """A CoNLL file, columns between tabs: word, the file's tag if it has any, predicted tag."""
        columns = [examples.words, examples.tags, self.predictions(examples, features, outputs)]
        rows = list(zip(*(column for column in columns if column is not None), strict=True))
        lines = []
        for begin, end in itertools.pairwise(examples.row_splits):
            lines += ["\t".join(row) for row in rows[begin:end]]
            lines.append("")
        files.write_text(path, "\n".join(lines) + "\n")

    def _read_conll(self, path, may_lack_tags):
        file = conll.read_conll(
            path, self.word_column, self.tag_column, self.num_columns, may_lack_tags
        )
        if self.tags == ENTITIES and file.tags is not None:
            for line, tag in zip(file.lines, file.tags, strict=True):
                if not conll.is_entity_tag(tag):
                    raise InputError(
                        f"{path}, line {line}: expected O, or B-, I-, E- or S- and an entity's "
                        f'type, got "{tag}". Tags that mark no entities need "tags": "{LABELS}"'
                    )
        return file

    def _as_learned(self, tags, starts):
        return conll.convert_tags(tags, starts, self.scheme) if self.tags == ENTITIES else tags

    def _warn_of_unknown_tags(self, file):
        """What the training file has not can never be predicted, and counts as wrong."""

        def name(tag):
            return (self.tags == ENTITIES and tag.partition("-")[2]) or tag

        known = {name(label) for label in self.labels}
        unknown = Counter(tag for tag in map(name, file.tags) if tag not in known)
        if unknown:
            logging.warning(
                "%s: %d words have tags that the training file has not, and count as wrong: %s",
                file.path, unknown.total(), ", ".join(sorted(unknown)[:_SHOWN]),
            )  # fmt: skip


def _warn_of_misfits(file, scheme, places):
    if places:
        logging.warning(
            "%s: %d tags do not fit the others' scheme, %s, and are read as conlleval reads them; "
            "the first is %s in line %d",
            file.path, len(places), scheme, file.tags[places[0]], file.lines[places[0]],
        )  # fmt: skip


class _Conll2000(TaggingTask):
    """CoNLL-2000 has no dev set, and what is taken for one is the user's to say."""

    where_from = (
        "; CoNLL-2000 is train.txt and test.txt, without a dev file. To report scores on the test "
        "set, copy test.txt to dev.txt; to tune anything, move the end of train.txt there"
    )


TASKS: Mapping[str, TaggingTask] = {"chunk": _Conll2000("chunk", METRICS[ENTITIES])}


def task_from_fields(path: str, fields: Mapping[str, Any]) -> TaggingTask:
    """The task that the fields of the JSON file `path` describe; see above.

    Raises:
        InputError: a field is unknown or impossible.
    """
    values = {"name": os.path.splitext(os.path.basename(path))[0], "tags": ENTITIES} | fields
    check_fields(path, values, _FIELDS)
    tags = values["tags"]
    allowed = METRICS[tags]
    metrics = tuple(values.get("metrics", allowed))
    require(
        set(metrics) <= set(allowed),
        "metrics",
        f"among {', '.join(allowed)} of {tags}",
        metrics,
        path,
    )
    require(
        tags == ENTITIES or "scheme" not in values,
        "scheme",
        f"absent for {LABELS}",
        values.get("scheme"),
        path,
    )
    columns = [values.get(name) for name in ("word_column", "tag_column")]
    require(
        None in columns or columns[0] != columns[1],
        "tag_column",
        "another column than `word_column`",
        columns[1],
        path,
    )
    word_column, tag_column = (column and column - 1 for column in columns)
    given = files_beside(path, values)
    return TaggingTask(
        values["name"],
        metrics,
        tags=tags,
        scheme=values.get("scheme", "BIOES"),
        word_column=word_column,
        tag_column=tag_column,
        test_names=tests_among(given),
        files=given,
    )


_COLUMN = (lambda v: type(v) is int and v >= 1, "a column's number, from 1")
_FIELDS = {
    "name": (is_name, "letters, digits, dots, - and _"),
    "tags": (lambda v: v in list(METRICS), f'"{ENTITIES}" or "{LABELS}"'),
    "scheme": (lambda v: v in conll.SCHEMES, "one of " + ", ".join(conll.SCHEMES)),
    "word_column": _COLUMN,
    "tag_column": _COLUMN,
    "metrics": (lambda v: is_list(v, lambda m: isinstance(m, str), 1), "a list of names"),
    "files": (is_files, "an object of file names by split"),
}
