"""Reads sentences and their tags from CoNLL files, or from JSON files with a list for each."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from common.errors import InputError
from data.tasks.examples import parse_text, unexpected
from data.tasks.files import JSON_ENDINGS, field_of, file_ending, json_records, read_text
from data.tasks.labels import label_name
from data.tasks.tagging.conll import SentenceExamples, read_conll

# Default fields of words and tags: the first of these that the file's first record has.
WORD_FIELDS = ("tokens", "words")
TAG_FIELDS = ("ner_tags", "tags")
_SPACES = " \t\r\n"


def read_sentences(
    path: str,
    word_column: int | str | None = None,
    tag_column: int | str | None = None,
    num_columns: int | None = None,
    may_lack_tags: bool = False,
    words_only: bool = False,
    known_tags: Iterable[str] = (),
) -> SentenceExamples:
    """Reads a CoNLL file, see `read_conll`; or one that ends in `.jsonl` or `.json`.

    A JSON file has an object for each sentence, with a list of words and one of tags, in the fields
    `word_column` and `tag_column`: by default, see `WORD_FIELDS` and `TAG_FIELDS`.
    Sentences without words are passed over if tags are read. With `words_only`, the words may be
    text, to be split; with `may_lack_tags`, a file may have no field of tags.

    Raises:
        InputError: as `read_text` and `read_conll`; or no words, an object that is not as
            described, numbers for the fields of JSON, or names for the columns of a CoNLL file.
    """
    is_json = file_ending(path) in JSON_ENDINGS
    for column in (word_column, tag_column):
        if column is not None and isinstance(column, str) != is_json:
            problem = "names of fields, not numbers" if is_json else "numbers, not names"
            raise InputError(f"{path}: the columns of words and tags must be {problem}")
    if not is_json:
        columns = (word_column, tag_column, num_columns)
        return read_conll(path, *columns, may_lack_tags, words_only, known_tags)
    text, sha256 = read_text(path)
    records = [(f"{path}, {place}", record) for place, record in json_records(path, text)]
    first = records[0][1] if records else {}
    word_field = word_column or next(filter(first.__contains__, WORD_FIELDS), WORD_FIELDS[0])
    tag_field = tag_column or next(filter(first.__contains__, TAG_FIELDS), TAG_FIELDS[0])
    has_tags = not words_only and not (may_lack_tags and tag_field not in first)
    words, tags, places, row_splits, num_empty = [], [], [], [0], 0
    for place, record in records:
        row = _words(record, word_field, place, words_only)
        if has_tags:
            tags += _tags(record, tag_field, place, len(row))
            num_empty += not row
        elif not row:
            raise InputError(f"{place}: expected words in `{word_field}`, got none")
        words += row
        places += [place.removeprefix(f"{path}, ")] * len(row)
        row_splits += [len(words)] * bool(row)
    if not words:
        raise InputError(f"{path}: no words in the file")
    if num_empty:
        logging.warning("%s: passed over %d sentences without words", path, num_empty)
    given = (path, sha256, words, tags if has_tags else None, np.array(row_splits, np.int64))
    return SentenceExamples(*given, places)


def _words(record: dict[str, Any], field: str, place: str, may_be_text: bool) -> list[str]:
    value = field_of(record, field, place)
    if may_be_text and isinstance(value, str):
        return value.split()
    if not isinstance(value, list):
        raise InputError(f"{place}: {unexpected('a list of words', f'`{field}`', value)}")
    try:
        for number, word in enumerate(value, start=1):
            where = f"`{field}`, word {number}"
            if set(parse_text(word, where, _SPACES)) & set("\t\r\n"):
                raise unexpected("a word without tabs and line breaks", where, word)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return value


def _tags(record, field, place, num_words):
    value = field_of(record, field, place)
    names = [*map(label_name, value)] if isinstance(value, list) else [None]
    if not all(name and not set(name) & set(" \t\r\n") for name in names):
        raise InputError(f"{place}: {unexpected('a list of tags', f'`{field}`', value)}")
    if len(names) != num_words:
        found = f"got {len(names)} tags of {num_words} words"
        raise InputError(f"{place}: expected a tag for each word in `{field}`, {found}")
    return names
