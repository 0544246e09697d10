"""CoNLL files, of one word a line, and the tags in them that mark entities.

An entity, such as a name or a chunk, is words that follow one another. Their tags are a prefix and
the entity's type, as `B-PER`; `O` is outside of all entities. Three schemes are in use:

    IOB1    I- for every word; B- only for the first word after another entity of its type
    BIO     (IOB2) B- for the first word, I- for the others
    BIOES   B- first, I- inside, E- last, S- for an entity of a single word
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.errors import InputError
from data.tasks.tables import read_text

OUTSIDE = "O"
SCHEMES = ("BIOES", "BIO", "IOB1")

Entity = tuple[int, int, str]  # its first word, the one after its last, its type

_CONLLU_ENDING = ".conllu"
_CONLLU_WIDTH, _FORM, _UPOS = 10, 1, 3
_UNSPECIFIED = "_"  # what CoNLL-U has in place of a tag that nobody gave
# Of CoNLL-U: the surface form of several words ("3-4"), and a word that is not in the text ("5.1").
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")
_SPACES = re.compile(r"[ \t]+")
_ENTITY_TAG = re.compile(r"O|[BIES]-\S+")


@dataclasses.dataclass(frozen=True)
class ConllFile:
    """The words of a file, sentence after sentence.

    Args:
        path: the file.
        sha256: hash of its bytes.
        words: of all sentences, as they are in the file.
        tags: one for each word; None if the file has none.
        lines: each word's, from 1.
        row_splits: int64 `[sentences + 1]`; sentence i is `words[row_splits[i]:row_splits[i + 1]]`.
        num_columns: columns of a line.
    """

    path: str
    sha256: str
    words: list[str]
    tags: list[str] | None
    lines: list[int]
    row_splits: np.ndarray
    num_columns: int


def read_conll(
    path: str,
    word_column: int | None = None,
    tag_column: int | None = None,
    num_columns: int | None = None,
    may_lack_tags: bool = False,
    words_only: bool = False,
) -> ConllFile:
    """Reads a file of one word a line, with blank lines between sentences.

    A file whose first word's line has a tab is separated by tabs, and its words may hold spaces.
    `-DOCSTART-` lines are passed over, and so are comments: lines before a sentence that begin with
    "#" and have another number of columns than words have (in CoNLL-U all that begin with "#"). A
    file is CoNLL-U if its name ends in `.conllu`; its multiword tokens and empty nodes are passed
    over too.

    Args:
        path: the file.
        word_column: number from 0; None is the first, and FORM in CoNLL-U.
        tag_column: number from 0; None is the last, and UPOS in CoNLL-U.
        num_columns: columns that the file should have, if that is known.
        may_lack_tags: whether a file with fewer columns than `num_columns`, or a CoNLL-U file whose
            tags are all "_", is one without tags.
        words_only: leave tags alone, whether there are any or not.

    Raises:
        InputError: not UTF-8, no words, a line with another number of columns than the first, or
            without a word or a tag.
    """
    text, sha256 = read_text(path)
    is_conllu = path.lower().endswith(_CONLLU_ENDING)
    separator, width, line = _layout(path, text)
    wanted = _CONLLU_WIDTH if is_conllu else num_columns
    has_tags = not may_lack_tags or num_columns is None or width >= num_columns
    has_tags = has_tags and not words_only
    if wanted is not None and width != wanted and (has_tags or is_conllu):
        why = "as CoNLL-U has" if is_conllu else "as the training file has"
        raise InputError(f"{path}, line {line}: expected {wanted} columns {why}, got {width}")
    word_at = (_FORM if is_conllu else 0) if word_column is None else word_column
    tag_at = (_UPOS if is_conllu else -1) if tag_column is None else tag_column
    tag_at += width if tag_at < 0 else 0
    if word_at >= width or (has_tags and (not 0 <= tag_at < width or word_at == tag_at)):
        tags_where = f", tags in {'another' if tag_column is None else f'column {tag_at + 1}'}"
        raise InputError(
            f"{path}, line {line}: expected words in column {word_at + 1}{tags_where * has_tags}; "
            f"got {width} column{'s' * (width != 1)}"
        )
    words, tags, lines, starts = [], [], [], [0]
    for line, cells in _word_lines(path, text, separator, width, is_conllu):
        if cells is None:
            if len(words) > starts[-1]:
                starts.append(len(words))
            continue
        words.append(_cell(path, line, cells, word_at, "a word"))
        lines.append(line)
        if has_tags:
            tags.append(_cell(path, line, cells, tag_at, "a tag"))
    if is_conllu and may_lack_tags and set(tags) == {_UNSPECIFIED}:
        has_tags = False
    if not words:
        raise InputError(f"{path}: no words in the file")
    found = tags if has_tags else None
    return ConllFile(path, sha256, words, found, lines, np.array(starts, np.int64), width)


def _layout(path, text):
    """What separates columns, how many there are, and the line that says so."""
    found = None
    for number, whole in enumerate(text.split("\n"), start=1):
        line = whole.strip(" \t\r")
        if line and not line.startswith("-DOCSTART-"):
            separator = "\t" if "\t" in line else " "
            if not line.startswith("#"):
                return separator, len(_cells(line, separator)), number
            # Perhaps a comment; but a file may have nothing but number signs as words.
            found = found or (separator, len(_cells(line, separator)), number)
    if found is None:
        raise InputError(f"{path}: no words in the file")
    return found


def _word_lines(path, text, separator, width, is_conllu) -> Iterator[tuple[int, list | None]]:
    """(line, cells) of each word, and (line, None) where a sentence ends."""
    is_first = True
    # Only "\n" ends a line: str.splitlines would also cut at characters inside a word.
    for number, whole in enumerate(text.split("\n"), start=1):
        line = whole.rstrip(" \t\r")
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            is_first = True
            yield number, None
            continue
        cells = _cells(line, separator)
        if is_first and line.startswith("#") and (is_conllu or len(cells) != width):
            continue
        if len(cells) != width:
            name = {"\t": "tabs", " ": "spaces"}[separator]
            raise InputError(
                f"{path}, line {number}: expected {width} columns separated by {name}, as in the "
                f"lines before, got {len(cells)}"
            )
        is_first = False
        if not (is_conllu and _NOT_A_WORD.fullmatch(cells[0])):
            yield number, cells
    yield number, None


def _cells(line, separator):
    if separator == "\t":
        return [cell.strip(" ") for cell in line.split("\t")]
    return _SPACES.split(line.strip(" \t"))


def _cell(path, line, cells, column, what):
    cell = cells[column]
    if not cell or (what == "a tag" and " " in cell):
        raise InputError(
            f'{path}, line {line}: expected {what} in column {column + 1}, got "{cell}"'
        )
    return cell


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is `O`, or one of the prefixes B, I, E and S with a type."""
    return _ENTITY_TAG.fullmatch(tag) is not None


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that a sentence's tags mark, in order, whatever their scheme.

    Tags that fit no scheme are read as CoNLL's conlleval reads them: a word goes on with the entity
    of the word before if it has the same type, is no B- or S-, and follows no E- or S-; else a new
    one begins. So an I- after O begins an entity, and one without E- ends where it ends.
    """
    found = []
    prefix_before, type_before = OUTSIDE, ""
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix in ("I", "E") and kind == type_before and prefix_before in ("B", "I"):
            found[-1] = (found[-1][0], place + 1, kind)
        elif prefix != OUTSIDE:
            found.append((place, place + 1, kind))
        prefix_before, type_before = prefix, kind
    return found


def tags_of(entities: Sequence[Entity], length: int, scheme: str) -> list[str]:
    """The tags of a sentence of `length` words: the inverse of `entities_of`.

    Args:
        entities: in order.
        length: words of the sentence.
        scheme: one of `SCHEMES`.
    """
    tags, end_before, type_before = [OUTSIDE] * length, -1, ""
    for begin, end, kind in entities:
        tags[begin:end] = [f"I-{kind}"] * (end - begin)
        if scheme != "IOB1" or (end_before, type_before) == (begin, kind):
            tags[begin] = f"B-{kind}"
        if scheme == "BIOES":
            tags[end - 1] = f"S-{kind}" if end - begin == 1 else f"E-{kind}"
        end_before, type_before = end, kind
    return tags


def convert_tags(tags: Sequence[str], starts: np.ndarray, scheme: str) -> list[str]:
    """The tags of many sentences in another scheme; `starts` is that of `ConllFile`."""
    converted = []
    for begin, end in itertools.pairwise(starts):
        converted += tags_of(entities_of(tags[begin:end]), int(end - begin), scheme)
    return converted


def find_scheme(tags: Sequence[str], starts: np.ndarray) -> tuple[str, list[int]]:
    """The scheme that tags are in, and the places of tags that do not fit it.

    It is BIOES if there is any E- or S-, else that of the others which fits most tags.
    """
    candidates = ("BIOES",) if any(tag[0] in "ES" for tag in tags) else ("BIO", "IOB1")
    misfits = {}
    for scheme in candidates:
        converted = convert_tags(tags, starts, scheme)
        misfits[scheme] = [i for i, tag in enumerate(tags) if tag != converted[i]]
    best = min(candidates, key=lambda scheme: len(misfits[scheme]))
    return best, misfits[best]


def all_tags(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Every tag that entities of these types can have."""
    prefixes = "BIES" if scheme == "BIOES" else "BI"
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in prefixes))


def score_entities(
    gold: Sequence[str], predicted: Sequence[str], starts: np.ndarray
) -> dict[str, float]:
    """Precision, recall and their harmonic mean, in percent, of all types' entities together.

    An entity is found if its first word, its last word and its type are right. What has no
    denominator is zero.
    """
    correct, num_gold, num_predicted = 0, 0, 0
    for begin, end in itertools.pairwise(starts):
        wanted, found = (set(entities_of(tags[begin:end])) for tags in (gold, predicted))
        correct += len(wanted & found)
        num_gold += len(wanted)
        num_predicted += len(found)
    return {
        "f1": 200.0 * correct / max(1, num_gold + num_predicted),
        "precision": 100.0 * correct / max(1, num_predicted),
        "recall": 100.0 * correct / max(1, num_gold),
    }
