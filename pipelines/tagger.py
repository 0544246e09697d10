"""Tagging: sentences in; out come a tag for each word, and the entities that the tags mark."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from common.errors import InputError
from common.fields import require, require_one_of
from data.tasks.classification.decoding import SINGLE_LABEL, probabilities
from data.tasks.examples import parse_text
from data.tasks.tagging import entities, task
from data.tasks.tagging.conll import SentenceExamples
from model import ConvBertForTokenClassification
from pipelines.base import Answers, Pipeline, as_list, check_inputs, label_names


@dataclasses.dataclass(frozen=True)
class FoundEntity:
    """Consecutive words that form an entity, such as a name."""

    type: str  # such as "PER"
    first: int  # the number of its first word, from 0
    last: int  # the number of its last word
    text: str  # its words, joined by spaces


@dataclasses.dataclass(frozen=True)
class TaggedSentence:
    """A sentence and its predicted tags.

    Args:
        words: as given, or as separated by spaces.
        tags: one per word; tags of entities are in the scheme of the model's training file.
        probabilities: float32 `[words]`, the probability of each word's likeliest label. That label
            is the word's tag, unless it had to change for the tags to form entities.
        entities: in order; None if the tags mark no entities.
    """

    words: list[str]
    tags: list[str]
    probabilities: np.ndarray
    entities: list[FoundEntity] | None


class Tagger(Pipeline):
    """A fine-tuned tagger. It reads long sentences in windows, as in fine-tuning.

    Args:
        scheme: one of `entities.SCHEMES`, the scheme of the returned tags; None returns the model's
            labels as they are.

    Attributes:
        labels: the model's labels.
        marks_entities: whether the labels are tags of entities, such as B-PER and O.
    """

    model_class = ConvBertForTokenClassification
    what = "a fine-tuned tagger"
    task_kind = task.KIND
    saved_arguments = ("scheme",)

    def __init__(self, model, tokenizer, max_seq_length, scheme: str | None = None):
        super().__init__(model, tokenizer, max_seq_length)
        self.labels = label_names(model.config)
        # BILOU and similar schemes are tags of entities, too.
        self._bioes = dict(zip(self.labels, entities.as_bioes(self.labels), strict=True))
        self.marks_entities = all(map(entities.is_entity_tag, self._bioes.values()))
        if scheme is not None:
            require_one_of("scheme", scheme, entities.SCHEMES)
            require(self.marks_entities, "scheme", "null: the labels mark no entities", scheme)
        kind = task.ENTITIES if scheme else task.LABELS
        self.task = task.TaggingTask(
            "", task.METRICS[kind], tags=kind, labels=self.labels, file_scheme=scheme
        )

    def predict(
        self,
        sentences: Sequence[Sequence[str] | str],
        batch_size: int = 32,
        errors: str = "raise",
    ) -> Answers:
        """Tags sentences, which are lists of words or strings: a list of `TaggedSentence`.

        Strings are split at spaces. A batch has `batch_size` sentences, or windows of long
        sentences, of similar length.

        Raises:
            InputError: as in `compute_outputs`; an impossible argument; or, unless `errors` is
                "skip", a sentence has no words, or a word is empty or not a string.
        """
        checked = check_inputs(batch_size, errors, _words_of, sentences=sentences)
        rows = checked.good
        if not rows:
            return checked.answers([])
        words = list(itertools.chain.from_iterable(rows))
        row_splits = np.cumsum([0, *map(len, rows)])
        examples = SentenceExamples("the input", "", words, None, row_splits)
        features = self.task.make_features(self.tokenizer, examples, self, training=False)
        logits = self.compute_outputs(features, batch_size)
        tags = self.task.predictions(examples, features, logits)
        shares = probabilities(SINGLE_LABEL, logits[features.word_positions]).max(axis=1)
        return checked.answers(
            TaggedSentence(
                row, tags[begin:end], shares[begin:end], self._entities(row, tags[begin:end])
            )
            for row, (begin, end) in zip(rows, itertools.pairwise(row_splits), strict=True)
        )

    def _entities(self, words, tags):
        if not self.marks_entities:
            return None
        return [
            FoundEntity(kind, begin, end - 1, " ".join(words[begin:end]))
            for begin, end, kind in entities.entities_of([self._bioes.get(t, t) for t in tags])
        ]


def _words_of(index, sentence) -> list[str]:
    """The checked words of a sentence. A word may be a space, as in training files."""
    name = f"sentences[{index}]"
    if isinstance(sentence, str | None):
        return parse_text(sentence, name).split()
    words = as_list(sentence, name)
    if not words:
        raise InputError(f"expected words in {name}, got none")
    for number, word in enumerate(words):
        if not (isinstance(word, str) and word.isspace()):
            parse_text(word, f"{name}[{number}]")
    return words
