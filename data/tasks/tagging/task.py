"""Tagging: one tag per word, which marks entities or is a label such as a part of speech.

Tags of entities (names, chunks) are read in whatever scheme a file has, learned in another (BIOES
by default, as in the original), scored as CoNLL's conlleval does, and written in the file's scheme.
docs/finetuning.md explains the JSON fields of a user's own task.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from absl import logging
from typing_extensions import override

from common.errors import InputError
from common.fields import require
from common.files import write_text
from data.tasks import task_fields
from data.tasks.base import Task
from data.tasks.examples import IGNORED, listed
from data.tasks.files import JSON_ENDINGS, PARQUET
from data.tasks.review import Review
from data.tasks.tables import Column
from data.tasks.tagging import entities
from data.tasks.tagging.conll import SentenceExamples
from data.tasks.tagging.sentences import read_sentences

KIND = "tagging"
ENTITIES = "entities"
LABELS = "labels"
METRICS = {ENTITIES: ("f1", "precision", "recall"), LABELS: ("accuracy", "macro_f1")}


@dataclasses.dataclass(frozen=True)
class TaggingTask(Task):
    """A task with one tag per word.

    Args:
        metrics: among `METRICS[tags]`.
        tags: "entities" or "labels".
        scheme: one of `entities.SCHEMES`; the model learns entities in this scheme.
        word_column, tag_column: numbers from 0, or names of JSON fields; see `read_sentences`.
        labels: the tags that the model knows, in order of their ids.
        file_scheme, num_columns: of the training file. `complete` sets these and `labels`.
    """

    tags: str = ENTITIES
    scheme: str = "BIOES"
    word_column: Column | None = None
    tag_column: Column | None = None
    labels: tuple[str, ...] | None = None
    file_scheme: str | None = None
    num_columns: int | None = None

    architecture: ClassVar[str] = "ConvBertForTokenClassification"
    endings: ClassVar[tuple[str, ...]] = (".txt", ".conll", ".conllu", ".tsv")
    other_endings: ClassVar[tuple[str, ...]] = (*JSON_ENDINGS, PARQUET)

    @override
    def complete(self, directory: str) -> "TaggingTask":
        path = self.find_file(directory, "train")
        file = self._read(path, may_lack_tags=False)
        tags, scheme, expected = Counter(file.tags), None, "two or more different tags"
        kind = f"{len(tags)} tags"
        if self.tags == ENTITIES:
            scheme, misfits = entities.find_scheme(file.tags, file.row_splits)
            if misfits:
                first = f"{file.tags[misfits[0]]} in {file.places[misfits[0]]}"
                message = "%s: %d tags do not fit the scheme %s. The first: %s"
                logging.warning(message, path, len(misfits), scheme, first)
            tags = Counter(tag[2:] for tag in file.tags if tag != entities.OUTSIDE)
            kind, expected = f"{len(tags)} types of entities in {scheme}", "entities"
        if len(tags) < (1 if scheme else 2):
            raise InputError(f"{path}: expected {expected}, got no tag but {file.tags[0]}")
        types = sorted(tags)
        counts = f"{len(file.words)} words of {len(file)} sentences; {kind}"
        names = listed(f"{tag:.30} ({tags[tag]:,})" for tag in types)
        logging.info("%s: %s (words): %s", self.name, counts, names)
        labels = entities.all_tags(types, self.scheme) if scheme else tuple(types)
        return dataclasses.replace(
            self, labels=labels, file_scheme=scheme, num_columns=file.num_columns
        )

    @property
    @override
    def loss_settings(self) -> tuple[str, ...]:
        return ("class_weights", "label_smoothing")

    @override
    def read(self, path: str, split: str) -> SentenceExamples:
        examples = self._read(path, may_lack_tags=split in self.test_splits)
        if examples.tags is not None and split != "train":
            self._warn_of_unknown_tags(examples)
        return examples

    @override
    def make_features(self, tokenizer, examples, options, training):
        from data.tasks.tagging.features import make_tagging_features

        targets, length = np.zeros(len(examples.words), np.int32), options.max_seq_length
        if examples.tags is not None:
            ids = {label: number for number, label in enumerate(self.labels)}
            tags = examples.tags
            if self.tags == ENTITIES:
                tags = entities.convert_tags(tags, examples.row_splits, self.scheme)
            targets = np.array([ids.get(tag, IGNORED) for tag in tags], np.int32)
        words, row_splits = examples.words, examples.row_splits
        features = make_tagging_features(tokenizer, words, row_splits, targets, length)
        if features.num_windowed:
            message = "%s: reading %d sentences in windows of %d tokens"
            logging.info(message, examples.path, features.num_windowed, length)
        if features.num_cut:
            message = "%s: %d words are longer than a row of %d tokens and are cut"
            logging.warning(message, examples.path, features.num_cut, length)
        return features

    @override
    def model_fields(self) -> dict[str, Any]:
        return {"num_labels": len(self.labels), "id2label": self.labels}

    @override
    def saved_options(self, options: Any) -> dict[str, Any]:
        return {KIND: {"scheme": self.file_scheme}} if self.tags == ENTITIES else {}

    @override
    def score(self, examples, features, outputs) -> dict[str, float]:
        predicted = self.predictions(examples, features, outputs)
        if self.tags == ENTITIES:
            scores = entities.score_entities(examples.tags, predicted, examples.row_splits)
            return {name: scores[name] for name in self.metrics}
        from data.tasks.metrics import compute_metrics

        ids = {tag: number for number, tag in enumerate(sorted({*examples.tags, *predicted}))}
        gold, found = ([ids[tag] for tag in tags] for tags in (examples.tags, predicted))
        return compute_metrics(self.metrics, gold, found)

    def predictions(self, examples, features, outputs) -> list[str]:
        """The tag of each word, in the training file's scheme; arguments are those of `score`."""
        numbers = outputs[features.word_positions].argmax(axis=-1)
        tags = [self.labels[number] for number in numbers]
        if self.tags == ENTITIES:
            return entities.convert_tags(tags, examples.row_splits, self.file_scheme)
        return tags

    @override
    def write_predictions(self, examples, features, outputs, path: str) -> None:
        """Writes a CoNLL file with tabs: word, the file's tag if it has one, predicted tag."""
        columns = [examples.words, examples.tags, self.predictions(examples, features, outputs)]
        rows = list(zip(*(column for column in columns if column is not None), strict=True))
        lines = []
        for begin, end in itertools.pairwise(examples.row_splits):
            lines += ["\t".join(row) for row in rows[begin:end]]
            lines.append("")
        write_text(path, "\n".join(lines) + "\n")

    @override
    def review(self, examples, features, outputs) -> Review:
        from data.tasks.tagging.review import review_tags

        predicted = self.predictions(examples, features, outputs)
        logits = outputs[features.word_positions]
        return review_tags(examples, predicted, logits, self.tags == ENTITIES)

    @override
    def describe(self, examples):
        described = []
        for begin, end in itertools.pairwise(examples.row_splits):
            label = None if examples.tags is None else " ".join(examples.tags[begin:end])
            described.append(((" ".join(examples.words[begin:end]),), label))
        return described

    @override
    def count_labels(self, examples):
        """How often each tag, or type of entity, occurs."""
        if examples.tags is None or self.tags == LABELS:
            return Counter(examples.tags)
        tags, bounds = examples.tags, itertools.pairwise(examples.row_splits)
        sentences = (entities.entities_of(tags[begin:end]) for begin, end in bounds)
        return Counter(kind for found in sentences for _, _, kind in found)

    @override
    def count_cut(self, tokenizer, examples, features):
        return {
            "sentences read in windows": (features.num_windowed, len(examples)),
            "words cut": (features.num_cut, len(examples.words)),
        }

    def _read(self, path, may_lack_tags):
        columns = (self.word_column, self.tag_column, self.num_columns)
        file = read_sentences(path, *columns, may_lack_tags, known_tags=self.labels or ())
        if self.tags == LABELS or file.tags is None:
            return file
        file = dataclasses.replace(file, tags=entities.as_bioes(file.tags))
        for place, tag in zip(file.places, file.tags, strict=True):
            if not entities.is_entity_tag(tag):
                schemes = "BIO, IOB1, BIOES, BILOU or BMES"
                found = f'expected O, or a tag such as B-PER, of {schemes}, got "{tag:.50}"'
                hint = f'For tags that do not mark entities, set `tags` to "{LABELS}"'
                if file.num_columns is None and tag.isdecimal():
                    hint = "Write the names of the tags, not their numbers"
                raise InputError(f"{path}, {place}: {found}. {hint}")
        return file

    def _warn_of_unknown_tags(self, file):
        """Warns about tags that the training file lacks, so that the model cannot predict them."""

        def name(tag):
            return (self.tags == ENTITIES and tag.partition("-")[2]) or tag

        known = set(map(name, self.labels))
        unknown = Counter(tag for tag in map(name, file.tags) if tag not in known)
        if unknown:
            message = "%s: %d words have tags that the training file lacks, and count as wrong: %s"
            logging.warning(message, file.path, unknown.total(), listed(sorted(unknown)))


class _Conll2000(TaggingTask):
    file_hint = (
        ". CoNLL-2000 has train.txt and test.txt, but no dev file. To report scores on the test "
        "set, copy test.txt to dev.txt. To tune hyper-parameters, move the end of train.txt there"
    )


TASKS: Mapping[str, TaggingTask] = {"chunk": _Conll2000("chunk", METRICS[ENTITIES])}


def task_from_fields(path: str, fields: Mapping[str, Any]) -> TaggingTask:
    """The task that a JSON file describes: `path` and its fields; see `registry.read_task`."""
    values, common = task_fields.read_fields(path, {"tags": ENTITIES} | fields, _FIELDS)
    check = functools.partial(require, source=path)
    tags, scheme = values["tags"], values.get("scheme")
    check(tags == ENTITIES or scheme is None, "scheme", f"absent for {LABELS}", scheme)
    metrics = values.get("metrics", METRICS[tags])
    word, tag = values.get("word_column"), values.get("tag_column")
    check(word is None or word != tag, "tag_column", "different from `word_column`", tag)
    return TaggingTask(
        metrics=task_fields.check_metrics(path, metrics, METRICS[tags], tags),
        tags=tags,
        scheme=scheme or "BIOES",
        word_column=word - 1 if isinstance(word, int) else word,
        tag_column=tag - 1 if isinstance(tag, int) else tag,
        **common,
    )


_FIELDS = {
    "tags": (lambda v: v in list(METRICS), f'"{ENTITIES}" or "{LABELS}"'),
    "scheme": (lambda v: v in entities.SCHEMES, "one of " + ", ".join(entities.SCHEMES)),
    "word_column": task_fields.COLUMN,
    "tag_column": task_fields.COLUMN,
    "metrics": task_fields.METRIC_NAMES,
}
