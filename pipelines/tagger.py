"""A fine-tuned tagger: words in; a tag for each, and the entities they mark, out."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import InputError
from common.fields import require_one_of
from data import ConvBertTokenizer
from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.examples import parse_text
from data.tasks.tagging import entities, task
from data.tasks.tagging.conll import SentenceExamples
from model import ConvBertForTokenClassification
from model.backends import backend
from pipelines.base import (
    check_positive,
    compute_outputs,
    load,
    reading_options,
    saved_options,
)


@dataclasses.dataclass(frozen=True)
class FoundEntity:
    """Words that follow one another and are, say, a name.

    Args:
        type: such as "PER".
        first, last: its words, from 0.
        text: these, with spaces between them.
    """

    type: str
    first: int
    last: int
    text: str


@dataclasses.dataclass(frozen=True)
class TaggedSentence:
    """A sentence's words and what was found.

    Args:
        words: as they were given, or as spaces separate them.
        tags: one a word; of entities in the scheme of the file that the model was trained on.
        probabilities: of each word's likeliest label, float32 `[words]`. That is its tag, but
            where labels that do not fit together were made tags of entities.
        entities: in order; None if the tags mark none.
    """

    words: list[str]
    tags: list[str]
    probabilities: np.ndarray
    entities: list[FoundEntity] | None


class Tagger:
    """A fine-tuned model with its tokenizer.

    Sentences of more tokens than in fine-tuning are read in windows, as there.

    Args:
        model: a `ConvBertForTokenClassification`.
        tokenizer: a `ConvBertTokenizer` with the model's vocabulary.
        max_seq_length: the most tokens the model is given at once.
        scheme: of `entities.SCHEMES`, what tags of entities are given in; None leaves them as
            the model's labels are.

    Attributes:
        labels: the model's.
        marks_entities: whether they are tags of entities, such as B-PER and O.
    """

    def __init__(
        self,
        model: ConvBertForTokenClassification,
        tokenizer: ConvBertTokenizer,
        max_seq_length: int,
        scheme: str | None = None,
    ):
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        config = model.config
        self.labels = config.id2label or tuple(f"LABEL_{i}" for i in range(config.num_labels))
        self.marks_entities = all(map(entities.is_entity_tag, self.labels))
        if scheme is not None:
            require_one_of("scheme", scheme, entities.SCHEMES)
            if not self.marks_entities:
                raise InputError(f"`scheme` is {scheme}, but the labels mark no entities")
        kind = task.ENTITIES if scheme else task.LABELS
        self.task = task.TaggingTask(
            "", task.METRICS[kind], tags=kind, labels=self.labels, file_scheme=scheme
        )
        self.options = reading_options(max_seq_length, {})
        model.compile(optimizer=None, jit_compile=backend.default_jit_compile())

    @classmethod
    def from_pretrained(cls, name_or_directory: str | os.PathLike, **hub_options: Any) -> "Tagger":
        """The tagger that `finetune.py`, or transformers, saved.

        Args:
            name_or_directory: a directory, or a name of the Hugging Face hub.
            **hub_options: `revision`, `cache_dir` and `local_files_only` of `hub.resolve`.

        Raises:
            InputError: there is no such model, or a file of it is missing or damaged.
        """
        loaded = load(
            ConvBertForTokenClassification, name_or_directory, "a fine-tuned tagger", **hub_options
        )
        return cls(*loaded, saved_options(loaded[0].config, task.KIND).get("scheme"))

    def predict(
        self, sentences: Sequence[Sequence[str] | str], batch_size: int = 32
    ) -> list[TaggedSentence]:
        """Tags sentences, in batches of about the same length.

        Args:
            sentences: lists of words; or strings, which are cut into words at spaces.
            batch_size: sentences, or windows of long ones, that are computed together.

        Raises:
            InputError: a sentence without words, or a word that is empty or no text.
        """
        check_positive("batch_size", batch_size)
        rows = _words_of(sentences)
        if not rows:
            return []
        words = list(itertools.chain.from_iterable(rows))
        starts = np.cumsum([0, *map(len, rows)])
        examples = SentenceExamples("the input", "", words, None, starts)
        features = self.task.make_features(self.tokenizer, examples, self.options, training=False)
        logits = compute_outputs(self.model, features, batch_size)
        tags = self.task.predictions(examples, features, logits)
        shares = probabilities(SINGLE_LABEL, logits[features.word_positions]).max(axis=1)
        return [
            TaggedSentence(
                row, tags[begin:end], shares[begin:end], self._entities(row, tags[begin:end])
            )
            for row, (begin, end) in zip(rows, itertools.pairwise(starts), strict=True)
        ]

    def _entities(self, words, tags):
        if not self.marks_entities:
            return None
        return [
            FoundEntity(kind, begin, end - 1, " ".join(words[begin:end]))
            for begin, end, kind in entities.entities_of(tags)
        ]


def _words_of(sentences) -> list[list[str]]:
    """The words of each sentence, checked."""
    if isinstance(sentences, str):
        raise InputError("`sentences` must be a list: write [sentence] for a single one")
    rows = []
    for index, sentence in enumerate(sentences):
        place = f"sentences[{index}]"
        if isinstance(sentence, str):
            words = parse_text(sentence, place).split()
        else:
            words = [parse_text(word, f"{place}[{i}]") for i, word in enumerate(sentence)]
        if not words:
            raise InputError(f"expected words in {place}, got none")
        rows.append(words)
    return rows
