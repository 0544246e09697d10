import gzip
import json

import pytest

from common.errors import InputError
from data.tasks.tagging.sentences import read_sentences
from tests.support.files import as_lines, write

RECORDS = [
    {"tokens": ["a", "b c", "\u00a0"], "ner_tags": ["B-X", "I-X", "O"]},
    {"tokens": [], "ner_tags": []},
    {"tokens": ["d"], "ner_tags": ["O"]},
]
FOUND = (["a", "b c", "\u00a0", "d"], ["B-X", "I-X", "O", "O"], [0, 3, 4])


def found(file):
    return file.words, file.tags, file.row_splits.tolist()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "list.json", "A.JSONL", "a.jsonl.gz"])
def test_json_files(tmp_path, caplog, name):
    text = json.dumps(RECORDS, indent=1) if name == "list.json" else as_lines(RECORDS)
    path = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    file = read_sentences(path)
    assert found(file) == FOUND
    place = "record" if name == "list.json" else "line"
    assert file.places == [f"{place} 1"] * 3 + [f"{place} 3"]
    assert "passed over 1 sentences" in caplog.text


def test_fields(tmp_path):
    records = [{"words": ["a", "b"], "tags": ["X", 1], "pos": ["Y", True], "text": "b\u00a0a"}]
    path = write(tmp_path / "a.jsonl", as_lines(records))
    assert found(read_sentences(path)) == (["a", "b"], ["X", "1"], [0, 2])
    assert read_sentences(path, "words", "pos").tags == ["Y", "true"]
    assert found(read_sentences(path, words_only=True)) == (["a", "b"], None, [0, 2])
    assert read_sentences(path, "text", words_only=True).words == ["b", "a"]
    assert read_sentences(path, tag_column="ner", may_lack_tags=True).tags is None


def test_conll_files_have_numbers(tmp_path):
    path = write(tmp_path / "a.conll", "X a\n")
    assert found(read_sentences(path, 1, 0)) == (["a"], ["X"], [0, 1])
    with pytest.raises(InputError, match=r"a\.conll: .* numbers"):
        read_sentences(path, "words")


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"tokens": ["a"]}, {}, "expected a field `ner_tags`, got tokens"),
        ({"text": "a"}, {}, "expected a field `tokens`, got text"),
        ({"tokens": "a b", "tags": ["X"]}, {}, 'a list of words in `tokens`, got "a b"'),
        ({"tokens": ["a", ""], "tags": ["X", "Y"]}, {}, "text in `tokens`, word 2, got none"),
        ({"tokens": ["a\tb"], "tags": ["X"]}, {}, "without tabs"),
        ({"tokens": ["\ud83d"], "tags": ["X"]}, {}, "lone surrogate"),
        ({"tokens": [1], "tags": ["X"]}, {}, "expected text in `tokens`, word 1, got 1"),
        ({"tokens": ["a"], "tags": ["X", "Y"]}, {}, "got 2 tags of 1 words"),
        ({"tokens": ["a"], "tags": ["X Y"]}, {}, "a list of tags in `tags`"),
        ({"tokens": ["a"], "tags": "X"}, {}, "a list of tags in `tags`"),
        ({"tokens": []}, {"words_only": True}, "words in `tokens`, got none"),
        ({"tokens": ["a"], "tags": ["X"]}, {"word_column": 0}, "names of fields"),
    ],
)
def test_errors(tmp_path, record, options, message):
    with pytest.raises(InputError, match=rf"a\.json.*{message}"):
        read_sentences(write(tmp_path / "a.json", [record]), **options)
