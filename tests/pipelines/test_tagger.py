import json
import re

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.tagging import entities
from model import ConvBertForTokenClassification
from pipelines import Tagger
from pipelines.command_line import make_parser
from pipelines.kinds import KINDS
from scripts import predict
from tests.support.random_models import (
    finetune_at_random,
    from_lines,
    rows_of,
    run_with,
    save,
    softmax,
)

pytestmark = pytest.mark.usefixtures("eager")
TRAIN = "a B-P\nb I-P\nc O\n\nA B-L\n"
# The second sentence is longer than the 14 tokens that fit between [CLS] and [SEP].
SENTENCES = ["a b C ax d", "e f g h a b c d e f g h a b c d ax e f g", "h g"]
BILU = ("U-X", "B-X", "I-X", "L-X")
TEST = "\n\n".join("\n".join(sentence.split()) for sentence in SENTENCES) + "\n"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    fields = {"kind": "tagging"}
    files = {"train.txt": TRAIN, "test.txt": TEST}
    return finetune_at_random(tmp_path_factory.mktemp("tagger"), fields, files)


@pytest.fixture(scope="module")
def tagger(tuned):
    return Tagger.from_pretrained(tuned[0])


@pytest.fixture
def run(tuned, tagger, monkeypatch, capsys):
    return run_with(tagger, predict, tuned[0], monkeypatch, capsys)


def test_tags_are_those_that_fine_tuning_wrote(tuned, tagger):
    directory, path = tuned
    written = [block.splitlines() for block in path.read_text().rstrip().split("\n\n")]
    found = tagger.predict(SENTENCES, batch_size=2)
    for sentence, rows, text in zip(found, written, SENTENCES, strict=True):
        assert sentence.words == text.split()
        assert ["\t".join(row) for row in zip(sentence.words, sentence.tags, strict=True)] == rows
    tags = [tag for sentence in found for tag in sentence.tags]
    # In the file's scheme, other than the labels.
    assert {"O"} != set(tags) <= {"O", "B-P", "I-P", "B-L", "I-L"} and len(set(tags)) > 1
    config = json.loads((directory / "config.json").read_text())
    assert config["task_specific_params"] == {"tagging": {"scheme": "BIO"}}
    assert "S-L" in config["id2label"].values()


def test_entities_are_what_tags_mark(tagger):
    found = tagger.predict([sentence.split() for sentence in SENTENCES])
    assert sum(len(sentence.entities) for sentence in found) > 2
    for sentence in found:
        spans = [(entity.first, entity.last + 1, entity.type) for entity in sentence.entities]
        assert entities.tags_of(spans, len(sentence.words), "BIO") == sentence.tags
        for entity in sentence.entities:
            assert entity.text == " ".join(sentence.words[entity.first : entity.last + 1])


def test_a_model_without_a_scheme_keeps_its_labels(tmp_path):
    """As transformers saves one: nothing but the labels is known."""
    labels = ("O", "B-X", "I-X")
    fields = {"num_labels": 3, "id2label": labels, "num_hidden_layers": 1}
    model = save(tmp_path, ConvBertForTokenClassification, **fields)
    tagger = Tagger.from_pretrained(tmp_path)
    found = tagger.predict(["a ax b c", "h"])
    for sentence, row in zip(found, rows_of("a a ##x b c", "h"), strict=True):
        shares = softmax(model({"input_ids": row}))[0, 1:-1]
        shares = np.delete(shares, 2, axis=0) if len(shares) > 1 else shares
        assert sentence.tags == [labels[number] for number in shares.argmax(axis=1)]
        np.testing.assert_allclose(sentence.probabilities, shares.max(axis=1), atol=1e-5)
    save(tmp_path, ConvBertForTokenClassification, num_labels=5, id2label=(*BILU, "O"), seed=2)
    (sentence,) = Tagger.from_pretrained(tmp_path).predict(["a b c d e f g h"])
    expected = entities.entities_of(entities.as_bioes([*sentence.tags, *BILU])[:8])
    found = [(entity.first, entity.last + 1, entity.type) for entity in sentence.entities]
    assert found == expected and {*sentence.tags} & {"L-X", "U-X"}
    save(tmp_path, ConvBertForTokenClassification, num_labels=2, id2label=("NOUN", "VERB"))
    tagger = Tagger.from_pretrained(tmp_path)
    assert (tagger.labels, tagger.marks_entities) == (("NOUN", "VERB"), False)


def test_every_word_that_a_file_can_have_is_tagged(tagger, tmp_path):
    """Spaces and controls, too: they are in published data, and training reads them."""
    words = ["\u00ad", "\u00a0", "\u0085", "\u2028", "\u200b", "\ufeff", "a"]
    (tmp_path / "t.tsv").write_text("\n".join(words) + "\n", encoding="utf-8")
    args = make_parser("", "", "").parse_args(["m", "--input", str(tmp_path / "t.tsv")])
    rows = KINDS["ConvBertForTokenClassification"].read(args)
    (sentence,) = tagger.predict(rows)
    assert sentence.words == words and len(sentence.tags) == len(words)


def test_script_writes_conll(tuned, run, tmp_path):
    _, path = tuned
    (tmp_path / "t.conll").write_text(TEST)
    assert run("--input", tmp_path / "t.conll", "--format", "conll") == path.read_text()
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES) + "\n")
    output = tmp_path / "tags.conll"
    arguments = ["--input", tmp_path / "t.txt", "--format", "conll"]
    assert run(*arguments, "--output", output) == ""
    assert output.read_text() == path.read_text()


def test_script_reads_words_of_columns_and_conllu(run, tmp_path):
    (tmp_path / "t.tsv").write_text("1\ta\n2\tb\n\n1\th\n")
    rows = from_lines(run("--input", tmp_path / "t.tsv", "--columns", "2"))
    assert [(row["index"], row["words"]) for row in rows] == [(0, ["a", "b"]), (1, ["h"])]
    rest = "\t_" * 8
    (tmp_path / "t.conllu").write_text(f"# text = ab\n1-2\tab{rest}\n1\ta{rest}\n2\tb{rest}\n")
    assert json.loads(run("--input", tmp_path / "t.conllu"))["words"] == ["a", "b"]


def test_foreign_fields_are_ignored(tmp_path, caplog):
    foreign = {"summarization": {"max_length": 9}, "translation": 3, "tagging": {"schema": "X"}}
    save(tmp_path, ConvBertForTokenClassification, task_specific_params=foreign)
    assert Tagger.from_pretrained(tmp_path).task.file_scheme is None
    assert re.search("`tagging`: unknown field `schema`.* `scheme`", caplog.text)


def test_wrong_input(tagger, tmp_path):
    for sentences, message in (
        ([[]], r"sentences\[0\], got none"),
        ([["a", None]], r"sentences\[0\]\[1\], got null"),
    ):
        with pytest.raises(InputError, match=message):
            tagger.predict(sentences)
    for saved, message in (
        ({"scheme": "X"}, '`scheme` must be one of "BIOES"'),
        (3, r"config\.json.* `tagging` .* 3"),
    ):
        save(tmp_path, ConvBertForTokenClassification, task_specific_params={"tagging": saved})
        with pytest.raises(InputError, match=message):
            Tagger.from_pretrained(tmp_path)
