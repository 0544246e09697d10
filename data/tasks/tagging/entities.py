"""Entities, the tags that mark them, and their scores.

An entity, such as a name or a chunk, is a span of words. Each of its words has a tag, a prefix with
the entity's type, such as `B-PER`. Words outside of entities have the tag `O`. The schemes are:

    IOB1    I- for every word; B- only for the first word after another entity of its type
    BIO     (IOB2) B- for the first word, I- for the others
    BIOES   B- first, I- inside, E- last, S- for an entity of a single word

Files may also have BIOES with other letters, which `as_bioes` replaces: BILOU, BMES and BMEWO.
Sentence i of many has the tags `tags[row_splits[i]:row_splits[i + 1]]`.
"""

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

OUTSIDE = "O"
SCHEMES = ("BIOES", "BIO", "IOB1")

Entity = tuple[int, int, str]  # its first word, the word after its last, its type

_ENTITY_TAG = re.compile(r"O|[BIES]-\S+")
# The prefixes of a scheme → BIOES's letters for those that BIOES lacks.
_LIKE_BIOES = {"BILU": {"L": "E", "U": "S"}, "BMES": {"M": "I"}, "BMEW": {"M": "I", "W": "S"}}


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is `O`, or a type with the prefix B, I, E or S."""
    return _ENTITY_TAG.fullmatch(tag) is not None


def as_bioes(tags: Sequence[str]) -> list[str]:
    """The tags of a file, converted to BIOES if they are BILOU, BMES or BMEWO."""
    prefixes = {tag[0] for tag in set(tags) if tag[1:2] == "-"}
    for scheme, letters in _LIKE_BIOES.items():
        if prefixes <= {*scheme} and prefixes & {*letters}:
            renamed = {tag: letters.get(tag[0], tag[0]) + tag[1:] for tag in set(tags)}
            return [renamed[tag] if tag[1:2] == "-" else tag for tag in tags]
    return list(tags)


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that a sentence's tags mark, in order, in whatever scheme.

    Tags that fit no scheme are read as CoNLL's conlleval reads them. A word continues the entity of
    the word before it if it has the same type and the prefix I- or E-, and the word before has B-
    or I-; otherwise it begins another entity. So an I- after O begins an entity, and an entity
    needs no E-.
    """
    found = []
    prefix_before, type_before = OUTSIDE, ""
    for position, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix in ("I", "E") and kind == type_before and prefix_before in ("B", "I"):
            found[-1] = (found[-1][0], position + 1, kind)
        elif prefix != OUTSIDE:
            found.append((position, position + 1, kind))
        prefix_before, type_before = prefix, kind
    return found


def tags_of(entities: Sequence[Entity], length: int, scheme: str) -> list[str]:
    """The tags of a sentence of `length` words: the inverse of `entities_of`."""
    tags, end_before, type_before = [OUTSIDE] * length, -1, ""
    for begin, end, kind in entities:
        tags[begin:end] = [f"I-{kind}"] * (end - begin)
        if scheme != "IOB1" or (end_before, type_before) == (begin, kind):
            tags[begin] = f"B-{kind}"
        if scheme == "BIOES":
            tags[end - 1] = f"S-{kind}" if end - begin == 1 else f"E-{kind}"
        end_before, type_before = end, kind
    return tags


def convert_tags(tags: Sequence[str], row_splits: np.ndarray, scheme: str) -> list[str]:
    """The tags of many sentences, converted to a scheme."""
    converted = []
    for begin, end in itertools.pairwise(row_splits):
        converted += tags_of(entities_of(tags[begin:end]), int(end - begin), scheme)
    return converted


def find_scheme(tags: Sequence[str], row_splits: np.ndarray) -> tuple[str, list[int]]:
    """The scheme of tags, and the positions of the tags that do not fit it.

    It is BIOES if any tag has the prefix E- or S-, otherwise whichever of BIO and IOB1 fits more
    tags.
    """
    candidates = ("BIOES",) if any(tag[0] in "ES" for tag in tags) else ("BIO", "IOB1")
    misfits = {}
    for scheme in candidates:
        converted = convert_tags(tags, row_splits, scheme)
        misfits[scheme] = [i for i, tag in enumerate(tags) if tag != converted[i]]
    best = min(candidates, key=lambda scheme: len(misfits[scheme]))
    return best, misfits[best]


def all_tags(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Every tag that entities of these types can have."""
    prefixes = "BIES" if scheme == "BIOES" else "BI"
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in prefixes))


def score_entities(
    gold: Sequence[str], predicted: Sequence[str], row_splits: np.ndarray
) -> dict[str, float]:
    """Precision, recall and F1 of the entities of all types together, in percent.

    A predicted entity is correct if its words and its type are. Without any entities, scores are 0.
    """
    correct, num_gold, num_predicted = 0, 0, 0
    for begin, end in itertools.pairwise(row_splits):
        expected, found = (set(entities_of(tags[begin:end])) for tags in (gold, predicted))
        correct += len(expected & found)
        num_gold += len(expected)
        num_predicted += len(found)
    return {
        "f1": 200.0 * correct / max(1, num_gold + num_predicted),
        "precision": 100.0 * correct / max(1, num_predicted),
        "recall": 100.0 * correct / max(1, num_gold),
    }
