import gzip
import json
import pathlib
import random

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.tagging.conll import read_conll
from data.tasks.tagging.entities import (
    SCHEMES,
    all_tags,
    as_bioes,
    convert_tags,
    entities_of,
    find_scheme,
    is_entity_tag,
    score_entities,
    tags_of,
)
from tests.support.files import write

GOLDEN = pathlib.Path(__file__).parents[3] / "goldens" / "tagging" / "seqeval.json"


def sentences(file):
    pairs = list(zip(file.words, file.tags or file.words, strict=True))
    return [pairs[a:b] for a, b in zip(file.row_splits[:-1], file.row_splits[1:], strict=True)]


def test_columns_between_spaces(tmp_path):
    file = read_conll(write(tmp_path / "train.txt", "He PRP B-NP\nsat VBD B-VP\n\n. . O\n"))
    assert sentences(file) == [[("He", "B-NP"), ("sat", "B-VP")], [(".", "O")]]
    assert (file.places, file.num_columns) == (["line 1", "line 2", "line 4"], 3)
    assert file.row_splits.tolist() == [0, 2, 3]


def test_what_real_files_have(tmp_path):
    """A byte-order mark, CRLF, lines of spaces, several blank lines, no line end at the last."""
    text = "\ufeffA  NN\tX\r\n \t \r\n\r\n\r\nb NN Y\r\n\r\n  c NN\t Z "
    with_tabs = "\ufeffA\tNN\tX\r\n \t \r\n\r\nb\tNN\tY\t\r\n\r\nc \tNN\tZ"
    spaces = text.replace("\t", " ")
    for content in (spaces, with_tabs):
        file = read_conll(write(tmp_path / "train.txt", content))
        assert sentences(file) == [[("A", "X")], [("b", "Y")], [("c", "Z")]]


def test_words_of_tabbed_files_may_hold_spaces(tmp_path):
    file = read_conll(write(tmp_path / "train.txt", "10 000\tB-N\nkr\u00a0.\tI-N\n\u2028\tO\n"))
    assert file.words == ["10 000", "kr\u00a0.", "\u2028"]


def test_chosen_columns(tmp_path):
    path = write(tmp_path / "train.txt", "1\tO\tB-X\tword\n")
    assert sentences(read_conll(path, 3, 1)) == [[("word", "O")]]


def test_document_starts_and_comments(tmp_path):
    text = (
        "# source: made up by hand\n-DOCSTART- -X- O\n\nEU NNP B-ORG\n# # I-ORG\n\n"
        "# text = a comment of many words\n# # O\n-DOCSTART-\nb NN O\n"
    )
    file = read_conll(write(tmp_path / "train.txt", text))
    assert sentences(file) == [[("EU", "B-ORG"), ("#", "I-ORG")], [("#", "O")], [("b", "O")]]


@pytest.mark.parametrize(
    ("words", "comments"),
    [
        (["doris _ _ B-PER", "day _ _ I-PER"], ["# id f5\tdomain=en"]),
        (["doris\tB-PER", "day\tI-PER"], ["#\tid", "#id\t5"]),
        (["a\tDET", "dog\tNOUN"], ["#\tid", "# source\tby hand"]),
    ],
)
def test_comments_with_as_many_cells_as_words(tmp_path, caplog, words, comments):
    """A line with "#" before a sentence is a comment, unless its tag is one of the words'."""
    tag = words[0].split()[-1]
    real = words[0].replace(words[0].split()[0], "#")
    lines = [*comments, *words, "", *comments, real, real, "", real]
    path = write(tmp_path / "train.txt", "\n".join(lines))
    file = read_conll(path)
    assert file.words == [*(word.split()[0] for word in words), "#", "#", "#"]
    assert file.tags == [*(word.split()[-1] for word in words), tag, tag, tag]
    assert f"{2 * len(comments)} lines are read as comments" in caplog.text
    assert read_conll(path, words_only=True).words == file.words


def test_words_with_a_number_sign_are_kept(tmp_path, caplog):
    tags = read_conll(write(tmp_path / "a.txt", "#\t#\na\tDT\n\n#1\tDT\n\n#b\tB-X\n")).tags
    assert tags == ["#", "DT", "DT", "B-X"]
    assert read_conll(write(tmp_path / "b.txt", "#a X\n\n#b Y\n")).words == ["#a", "#b"]
    assert read_conll(write(tmp_path / "c.txt", "#\n\n#b\nc\n"), words_only=True).words == [
        *("#", "#b", "c")
    ]
    path = write(tmp_path / "d.txt", "#\tSYM\na\tDT\n")
    assert read_conll(path, known_tags=("SYM",)).words == ["#", "a"]
    assert not caplog.text


@pytest.mark.parametrize("name", ["a.conll.gz", "a.CONLL", "a.conll"])
def test_compressed_files_and_other_line_ends(tmp_path, name):
    text = "\ufeffa X\r\rb Y\r".encode()
    path = write(tmp_path / name, gzip.compress(text) if name.endswith("gz") else text)
    assert sentences(read_conll(path)) == [[("a", "X")], [("b", "Y")]]


CONLLU = """\
# sent_id = 1
# text = vámonos # al
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tellipsis\t_\tNOUN\t_\t_\t_\t_\t1:x\t_
3\t#\t#\tSYM\tS\t_\t1\tobj\t_\t_

"""


def test_conllu(tmp_path):
    path = write(tmp_path / "es.conllu", CONLLU)
    file = read_conll(path)
    assert sentences(file) == [[("vamos", "VERB"), ("nos", "PRON"), ("#", "SYM")]]
    assert read_conll(path, tag_column=4).tags == ["V", "P", "S"]


def test_conllu_without_tags(tmp_path):
    text = CONLLU.replace("VERB", "_").replace("PRON", "_").replace("SYM", "_")
    path = write(tmp_path / "test.conllu", text)
    assert read_conll(path, may_lack_tags=True).tags is None
    assert read_conll(path).tags == ["_", "_", "_"]


def test_file_without_tags(tmp_path):
    path = write(tmp_path / "test.txt", "a NN\nb VB\n")
    file = read_conll(path, num_columns=3, may_lack_tags=True)
    assert (file.words, file.tags) == (["a", "b"], None)
    with pytest.raises(InputError, match=r"line 1: expected 3 columns"):
        read_conll(path, num_columns=3)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no words in the file"),
        ("\n \n", {}, "no words in the file"),
        ("-DOCSTART- O\n\n", {}, "no words in the file"),
        ("a X\nb\n", {}, "line 2: expected 2 columns separated by spaces.*got 1"),
        ("a\tX\n\nb\tX\tY\n", {}, "line 3: expected 2 columns separated by tabs.*got 3"),
        ("a\tX\n# b\nc\tX\n", {}, "line 2: expected 2 columns"),
        ("a\nb\n", {}, "line 1: .* words in column 1, tags in another; got 1 column"),
        ("a X\n", {"tag_column": 2}, "tags in column 3; got 2 columns"),
        ("a X\n", {"tag_column": 0}, "words in column 1, tags in column 1; got 2"),
        ("a\tX\n\tX\n", {}, 'line 2: expected a word in column 1, got ""'),
        ("a\tX\nb\tX Y\n", {}, 'line 2: expected a tag in column 2, got "X Y"'),
        ("a X Y\n", {"num_columns": 2}, "line 1: expected 2 columns"),
        (b"a X\n\n\xe5 X\n", {}, "line 3: expected UTF-8 text"),
    ],
)
def test_errors_name_the_file_and_the_line(text, options, message, tmp_path):
    with pytest.raises(InputError, match=rf"train\.txt.*{message}"):
        read_conll(write(tmp_path / "train.txt", text), **options)


def test_a_conllu_file_has_ten_columns(tmp_path):
    with pytest.raises(InputError, match=r"a\.conllu, line 1: expected 10 columns .* got 2"):
        read_conll(write(tmp_path / "a.conllu", "a\tX\n"))


def test_entity_tags():
    assert all(map(is_entity_tag, ("O", "B-NP", "I-a-b", "E-x", "S-x")))
    assert not any(map(is_entity_tag, ("NN", "B-", "L-PER", "o", "O-PER", "B_PER", "-", "B-a b")))


ENTITIES = [(0, 1, "A"), (1, 3, "A"), (3, 6, "B"), (7, 8, "B")]
TAGS = {
    "BIOES": "S-A B-A E-A B-B I-B E-B O S-B",
    "BIO": "B-A B-A I-A B-B I-B I-B O B-B",
    "IOB1": "I-A B-A I-A I-B I-B I-B O I-B",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(scheme):
    tags = TAGS[scheme].split()
    assert entities_of(tags) == ENTITIES
    assert tags_of(ENTITIES, 8, scheme) == tags
    assert find_scheme(tags, np.array([0, 8])) == (scheme, [])
    assert set(tags) <= set(all_tags("AB", scheme))


@pytest.mark.parametrize(
    "tags",
    [
        "U-A B-A L-A B-B I-B L-B O U-B",
        "S-A B-A E-A B-B M-B E-B O S-B",
        "W-A B-A E-A B-B M-B E-B O W-B",
    ],
)
def test_schemes_like_bioes(tags):
    assert as_bioes(tags.split()) == TAGS["BIOES"].split()


@pytest.mark.parametrize("tags", [*TAGS.values(), "L-A S-A", "M-A I-A", "U O"])
def test_other_tags_stay(tags):
    assert as_bioes([*tags.split(), "Lx"]) == [*tags.split(), "Lx"]


def test_a_sentence_ends_an_entity():
    converted = convert_tags(["I-A", "I-A", "I-A"], np.array([0, 1, 3]), "BIOES")
    assert converted == ["S-A", "B-A", "E-A"]


def test_misfits_are_found():
    tags = ["B-A", "I-A", "O", "B-A", "O", "I-A", "B-B", "I-A"]
    assert find_scheme(tags, np.array([0, 8])) == ("BIO", [5, 7])


def test_tags_that_fit_no_scheme():
    """As in conlleval: I- after O and a change of type begin entities; E- is not needed."""
    found = entities_of(["I-A", "E-B", "E-B", "S-B", "I-B", "O", "E-A", "I-A", "B-A"])
    spans = [(0, 1, "A"), (1, 2, "B"), (2, 3, "B"), (3, 4, "B"), (4, 5, "B")]
    assert found == [*spans, (6, 7, "A"), (7, 8, "A"), (8, 9, "A")]


def test_entities_survive_every_scheme():
    rng, every = random.Random(0), all_tags("AB", "BIOES")
    for _ in range(300):
        tags = [rng.choice(every) for _ in range(rng.randint(1, 12))]
        found = entities_of(tags)
        for scheme in SCHEMES:
            assert entities_of(tags_of(found, len(tags), scheme)) == found


@pytest.mark.parametrize("number", range(3))
def test_scores_are_seqevals(number):
    golden = json.loads(GOLDEN.read_text())["files"][number]
    gold, predicted = ([line.split() for line in golden[k]] for k in ("gold", "predicted"))
    row_splits = np.cumsum([0, *map(len, gold)])
    found = [[list(entity) for entity in entities_of(tags)] for tags in predicted]
    assert found == golden["entities"]
    flat = [[tag for tags in file for tag in tags] for file in (gold, predicted)]
    scores = score_entities(*flat, row_splits)
    assert scores == pytest.approx(golden["scores"], abs=1e-8)


def test_scores_of_nothing():
    zero = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    row_splits = np.array([0, 2])
    assert score_entities(["O", "O"], ["O", "O"], row_splits) == zero
    assert score_entities(["B-A", "I-A"], ["O", "O"], row_splits) == zero
    assert score_entities(["O", "O"], ["B-A", "I-A"], row_splits) == zero
