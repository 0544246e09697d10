"""Reads CoNLL files: one word per line, with blank lines between sentences."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from absl import logging
from typing_extensions import override

from common.errors import InputError
from data.tasks.examples import Examples
from data.tasks.files import file_ending, lines_of, read_text
from data.tasks.tagging.entities import is_entity_tag

_CONLLU_ENDING = ".conllu"
_CONLLU_WIDTH, _FORM, _UPOS = 10, 1, 3
_UNSPECIFIED = "_"  # CoNLL-U's tag of a word without a tag
# CoNLL-U's lines for a multiword token ("3-4") and for a word that is not in the text ("5.1").
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")
_SEPARATOR_NAMES = {"\t": "tabs", " ": "spaces"}
_SPACES = re.compile(r"[ \t]+")


@dataclasses.dataclass(frozen=True)
class SentenceExamples(Examples):
    """One file's sentences.

    Args:
        words: of all sentences, as they are in the file.
        tags: one per word; None if the file has none.
        row_splits: int64 `[sentences + 1]`; sentence i is `words[row_splits[i]:row_splits[i + 1]]`.
        places: of each word in the file, such as "line 3".
        num_columns: columns of a line.
    """

    words: list[str]
    tags: list[str] | None
    row_splits: np.ndarray
    places: list[str] | None = None
    num_columns: int | None = None

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    @property
    @override
    def num_characters(self) -> int:
        return sum(map(len, self.words))


def read_conll(
    path: str,
    word_column: int | None = None,
    tag_column: int | None = None,
    num_columns: int | None = None,
    may_lack_tags: bool = False,
    words_only: bool = False,
    known_tags: Iterable[str] = (),
) -> SentenceExamples:
    """Reads a file.

    Columns are separated by tabs if the line of the first word has one, otherwise by spaces. A file
    whose name ends in `.conllu` is CoNLL-U. These lines are skipped: `-DOCSTART-` lines, multiword
    tokens and empty nodes of CoNLL-U, and comments. A comment is a line before a sentence that
    begins with "#". In CoNLL-U, all such lines are comments. In other files, such a line is a word
    if it has the columns of one, and its tag marks an entity or is the tag of other words.

    Args:
        word_column, tag_column: numbers from 0; None is the first and the last column, or FORM and
            UPOS in CoNLL-U.
        num_columns: columns that the file should have, if that is known.
        may_lack_tags: whether a file has no tags if it has fewer columns than `num_columns`, or if
            it is CoNLL-U and all its tags are "_".
        words_only: do not read tags.
        known_tags: tags that a word may have, besides those in the file.

    Raises:
        InputError: as `read_text`; or the file has no words, or a line without the columns, or
            without a word or a tag in them.
    """
    text, sha256 = read_text(path)
    is_conllu = file_ending(path) == _CONLLU_ENDING
    separator, width, line = _layout(path, text)
    expected = _CONLLU_WIDTH if is_conllu else num_columns
    has_tags = not words_only and (not may_lack_tags or num_columns is None or width >= num_columns)
    if expected is not None and width != expected and (has_tags or is_conllu):
        columns = f"{expected} columns as in {'CoNLL-U' if is_conllu else 'the training file'}"
        raise InputError(f"{path}, line {line}: expected {columns}, got {width}")
    word_at = (_FORM if is_conllu else 0) if word_column is None else word_column
    tag_at = (_UPOS if is_conllu else -1) if tag_column is None else tag_column
    tag_at += width if tag_at < 0 else 0
    if word_at >= width or (has_tags and (not 0 <= tag_at < width or word_at == tag_at)):
        tags = f", tags in {'another' if tag_column is None else f'column {tag_at + 1}'}" * has_tags
        columns = f"{width} column{'s' * (width != 1)}"
        words = f"words in column {word_at + 1}"
        raise InputError(f"{path}, line {line}: expected {words}{tags}; got {columns}")
    words, tags, places, row_splits = [], [], [], [0]
    layout = (separator, width, is_conllu)
    is_tag = _tag_test(text, *layout, tag_at if has_tags else -1, known_tags)
    for line, cells in _word_lines(path, text, *layout, is_tag):
        if cells is None:
            if len(words) > row_splits[-1]:
                row_splits.append(len(words))
            continue
        words.append(_cell(path, line, cells, word_at, "a word"))
        places.append(f"line {line}")
        if has_tags:
            tags.append(_cell(path, line, cells, tag_at, "a tag"))
    if not words:
        raise InputError(f"{path}: no words in the file")
    if not has_tags or (is_conllu and may_lack_tags and set(tags) == {_UNSPECIFIED}):
        tags = None
    row_splits = np.array(row_splits, np.int64)
    return SentenceExamples(path, sha256, words, tags, row_splits, places, width)


def _layout(path, text):
    """The separator, the number of columns, and the line that they are from."""
    lines = [(number, line.strip(" \t")) for number, line in _lines(text) if line]
    if not lines:
        raise InputError(f"{path}: no words in the file")
    # Lines with "#" are probably comments; but they may be all that there is.
    number, line = min(lines, key=lambda numbered: numbered[1].startswith("#"))
    separator = "\t" if "\t" in line else " "
    return separator, len(_cells(line, separator)), number


def _lines(text) -> Iterator[tuple[int, str]]:
    """(number, line) of each line; "" for blank lines and the starts of documents."""
    for number, line in lines_of(text):
        yield number, "" if line.startswith("-DOCSTART-") else line.rstrip(" \t")


def _word_lines(
    path, text, separator, width, is_conllu, is_tag
) -> Iterator[tuple[int, list | None]]:
    """(number, cells) of each word's line, and (number, None) where a sentence ends."""
    is_first, comments = True, []
    for number, line in _lines(text):
        cells = _cells(line, separator)
        has_width = len(cells) == width
        if not line:
            is_first = True
            yield number, None
        elif is_first and line.startswith("#") and not (has_width and is_tag(cells)):
            comments += [number] * (has_width and not is_conllu)
        elif not has_width:
            expected = f"{width} columns separated by {_SEPARATOR_NAMES[separator]}"
            raise InputError(f"{path}, line {number}: expected {expected}, got {len(cells)}")
        else:
            is_first = False
            if not (is_conllu and _NOT_A_WORD.fullmatch(cells[0])):
                yield number, cells
    yield number, None
    if comments:
        message = "%s: %d lines are read as comments: no word has their tags. The first: line %d"
        logging.warning(message, path, len(comments), comments[0])


def _tag_test(text, separator, width, is_conllu, tag_at, known_tags) -> Callable[[list[str]], bool]:
    """Returns a test that tells words that begin with "#" from comments, by the tag.

    The tag of a word marks an entity, or is a known one: one of `known_tags`, a tag of lines that
    are certainly words, or the Penn Treebank's "#".
    """
    if is_conllu or width == 1:
        return lambda cells: not is_conllu

    @functools.cache
    def known():
        lines = [line for _, line in _lines(text) if line]
        rows = [_cells(line, separator) for line in lines if not line.startswith("#")]
        rows = rows or [_cells(line, separator) for line in lines]
        return {"#", *known_tags} | {cells[tag_at] for cells in rows if len(cells) == width}

    return lambda cells: is_entity_tag(cells[tag_at]) or cells[tag_at] in known()


def _cells(line, separator):
    if separator == "\t":
        return [cell.strip(" ") for cell in line.split("\t")]
    return _SPACES.split(line.strip(" \t"))


def _cell(path, line, cells, column, what):
    cell = cells[column]
    if not cell or (what == "a tag" and " " in cell):
        where = f"{path}, line {line}"
        raise InputError(f'{where}: expected {what} in column {column + 1}, got "{cell:.50}"')
    return cell
