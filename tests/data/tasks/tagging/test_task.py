import dataclasses
import json
import types

import numpy as np
import pytest
from absl import logging

from common.errors import InputError
from data.tasks.batching import gather_outputs
from data.tasks.examples import IGNORED
from data.tasks.tagging.entities import convert_tags
from data.tasks.tagging.task import METRICS, TASKS, TaggingTask, task_from_fields
from data.tokenizer.tokenizer import ConvBertTokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "##y", ".", "A", "Å"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3
TRAIN = "a B-P\nb I-P\nc O\n\nA B-L\n"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return {lower: ConvBertTokenizer(path, do_lower_case=lower) for lower in (True, False)}


def options(max_seq_length):
    return types.SimpleNamespace(max_seq_length=max_seq_length)


def completed(tmp_path, task, **texts):
    """The task with files of these texts, by split."""
    folder = tmp_path / task.name
    folder.mkdir(exist_ok=True)
    for split, text in texts.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return task.complete(str(tmp_path))


def entities(**fields):
    return TaggingTask("ner", METRICS["entities"], **fields)


def labels(**fields):
    return TaggingTask("pos", METRICS["labels"], tags="labels", **fields)


def logits_of(task, features, tags):
    """What a model says that is sure of these tags, one for each word."""
    outputs = np.full((len(features.input_ids), len(task.labels)), -1, np.float32)
    numbers = [task.labels.index(tag) for tag in tags]
    outputs[features.word_positions, numbers] = 1
    return outputs


def test_labels_of_entities(tmp_path):
    task = completed(tmp_path, entities(), train=TRAIN)
    assert task.labels == ("O", *(f"{p}-{t}" for t in "LP" for p in "BIES"))
    assert (task.file_scheme, task.num_columns) == ("BIO", 2)
    assert task.model_fields() == {"num_labels": 9, "id2label": task.labels}
    assert task.architecture == "ConvBertForTokenClassification"
    task = completed(tmp_path, entities(scheme="BIO"), train=TRAIN)
    assert task.labels == ("O", "B-L", "I-L", "B-P", "I-P")


def test_other_tags_are_taken_as_they_are(tmp_path):
    task = completed(tmp_path, labels(), train="b VERB\na ADJ\n\nc VERB\n")
    assert (task.labels, task.file_scheme) == (("ADJ", "VERB"), None)


def test_features(tmp_path, tokenizers):
    task = completed(tmp_path, entities(), train="axy B-P\nb. I-P\nCx O\n\nd S-L\n")
    examples = task.load(str(tmp_path), "train")
    assert (len(examples), examples.num_characters) == (2, 8)
    features = task.make_features(tokenizers[True], examples, options(16), True)
    b, e, s = (task.labels.index(tag) for tag in ("B-P", "E-P", "S-L"))
    a_xy, b_stop, c_x, d = [5, 13, 14], [6, 15], [7, 13], [8]
    assert features.input_ids.tolist() == [CLS, *a_xy, *b_stop, *c_x, SEP, CLS, *d, SEP]
    x = IGNORED
    assert features.targets.tolist() == [x, b, x, x, e, x, 0, x, x, x, s, x]
    assert features.segment_ids.tolist() == [0] * 12
    assert features.word_positions.tolist() == [1, 4, 6, 10]
    assert features.row_splits.tolist() == [0, 9, 12]


def test_case_is_the_tokenizers_matter(tmp_path, tokenizers):
    task = completed(tmp_path, labels(), train="A X\nÅ Y\n")
    examples = task.load(str(tmp_path), "train")
    cased, uncased = (
        task.make_features(tokenizers[lower], examples, options(8), True).input_ids.tolist()
        for lower in (False, True)
    )
    assert cased == [CLS, VOCAB.index("A"), VOCAB.index("Å"), SEP]
    assert uncased == [CLS, 5, 5, SEP]


def test_a_word_of_nothing_is_unknown(tmp_path, tokenizers):
    task = completed(tmp_path, labels(), train="\u200b X\n\u0301 Y\n[SEP] X\na Y\n")
    examples = task.load(str(tmp_path), "train")
    features = task.make_features(tokenizers[True], examples, options(16), True)
    assert features.input_ids[:3].tolist() == [CLS, UNK, UNK]
    assert features.input_ids[-2:].tolist() == [5, SEP]
    # "[SEP]" in a text is three words, and no end of a row.
    assert features.input_ids.tolist().count(SEP) == 1
    assert len(features.word_positions) == 4


def long_sentences(rng, count, longest_word):
    """Sentences of words of several tokens, and the words' tags."""
    for _ in range(count):
        words = ["a" + "x" * rng.integers(0, longest_word) for _ in range(rng.integers(1, 60))]
        yield "".join(f"{word} {'XY'[len(word) % 2]}\n" for word in words)


@pytest.mark.parametrize(("length", "longest_word"), [(5, 1), (8, 4), (16, 8), (16, 20), (64, 3)])
def test_windows(length, longest_word, tmp_path, tokenizers):
    """Every word is in exactly one target, and has its share of the row on both sides."""
    rng = np.random.default_rng(length)
    text = "\n".join(long_sentences(rng, 30, longest_word)) + "\nax X\n\na Y\n"
    task = completed(tmp_path, labels(), train=text)
    examples = task.load(str(tmp_path), "train")
    features = task.make_features(tokenizers[True], examples, options(length), True)
    assert features.lengths.max() <= length
    positions = features.word_positions
    assert (np.diff(positions) > 0).all()
    assert (features.input_ids[positions] == 5).all()  # each word's first token is an "a"
    assert (features.targets != IGNORED).sum() == len(positions) == len(examples.words)
    wanted = [task.labels.index(tag) for tag in examples.tags]
    assert features.targets[positions].tolist() == wanted
    # All of a word's tokens follow, unless it is longer than a row.
    for word, position in zip(examples.words, positions, strict=True):
        pieces = features.input_ids[position : position + min(len(word), length - 2)]
        assert pieces.tolist() == [5] + [13] * (len(pieces) - 1)
    assert features.num_cut == sum(len(word) > length - 2 for word in examples.words)
    assert_context(features, examples, length)


def assert_context(features, examples, length):
    """A window has a word of its own, and cuts nothing off that is near a word of its own."""
    rows = np.searchsorted(features.row_splits, features.word_positions, "right") - 1
    assert (np.diff(rows) <= 1).all() and rows[-1] == len(features) - 1
    sentence = np.repeat(np.arange(len(examples)), np.diff(examples.row_splits))
    room, most = length - 2, max(map(len, examples.words))
    first = np.flatnonzero(np.diff(rows)) + 1
    within = first[sentence[first] == sentence[first - 1]]
    # Where two windows meet, a word has about a quarter of a row before it, and after it.
    before = features.word_positions[within] - features.row_splits[rows[within]] - 1
    after = features.row_splits[rows[within - 1] + 1] - features.word_positions[within - 1] - 1
    least = room // 4 - most
    assert (before >= least).all() and (after >= least).all()
    windowed = len({int(s) for s in sentence[within]})
    assert features.num_windowed == windowed


def test_windows_are_said(tmp_path, tokenizers, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    task = completed(tmp_path, labels(), train="a X\n" * 9 + "\naxxxxxxxxx Y\n")
    examples = task.load(str(tmp_path), "train")
    task.make_features(tokenizers[True], examples, options(8), True)
    assert "reading 1 sentences" in said[-2]
    assert "1 words are longer than a row of 8 tokens" in said[-1]


def test_scores_are_of_words_not_of_windows(tmp_path, tokenizers):
    """Gold tags, as a model's outputs, score 100, however sentences are cut."""
    sentence = "a B-P\nb I-P\nc I-P\nd O\nA B-L\na B-L\nb O\n" * 5
    task = completed(tmp_path, entities(), train=sentence, dev=sentence + "\n" + TRAIN)
    examples = task.load(str(tmp_path), "dev")
    gold = convert_tags(examples.tags, examples.row_splits, "BIOES")
    for length in (5, 9, 64):
        features = task.make_features(tokenizers[True], examples, options(length), False)
        outputs = logits_of(task, features, gold)
        perfect = {"f1": 100.0, "precision": 100.0, "recall": 100.0}
        assert task.score(examples, features, outputs) == perfect
        assert task.predictions(examples, features, outputs) == examples.tags
        wrong = ["O", *gold[1:]]  # B-P I-P E-P begins with its second word: 1 of 17 is not found
        scores = task.score(examples, features, logits_of(task, features, wrong))
        expected = {"f1": 100 * 16 / 17, "precision": 100 * 16 / 17, "recall": 100 * 16 / 17}
        assert scores == pytest.approx(expected)


def test_outputs_of_a_model_come_back_in_order(tmp_path, tokenizers):
    text = "\n".join(long_sentences(np.random.default_rng(0), 20, 3))
    task = completed(tmp_path, labels(), train=text)
    examples = task.load(str(tmp_path), "train")
    features = task.make_features(tokenizers[True], examples, options(16), False)

    def predict(inputs):  # a word's tag is said by the number of its further tokens
        is_x = inputs["input_ids"] == 13
        after = np.stack([np.roll(is_x, -n, axis=1) for n in (1, 2)], axis=-1)
        count = after[..., 0] * (1 + after[..., 1])
        return np.eye(2, dtype=np.float32)[count % 2]

    assert task.labels == ("X", "Y")
    outputs = gather_outputs(features, predict, ("logits",), batch_size=4)
    expected = ["XY"[(len(word) - 1) % 2] for word in examples.words]
    assert task.predictions(examples, features, outputs) == expected


def test_scores_of_labels(tmp_path, tokenizers):
    task = completed(tmp_path, labels(), train="a X\nb Y\n", dev="a X\na X\na X\nb Y\nc NEW\n")
    examples = task.load(str(tmp_path), "dev")
    features = task.make_features(tokenizers[True], examples, options(16), False)
    outputs = logits_of(task, features, ["X", "X", "Y", "Y", "Y"])
    # F1 of X is 0.8, of Y 0.5, and of the tag that cannot be predicted 0.
    assert task.score(examples, features, outputs) == pytest.approx(
        {"accuracy": 60.0, "macro_f1": 100 * 1.3 / 3}
    )
    assert features.targets[features.word_positions[-1]] == IGNORED


def test_a_type_that_training_has_not_is_said_and_missed(tmp_path, tokenizers, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    task = completed(tmp_path, entities(), train=TRAIN, dev="a B-P\nb B-X\nc I-X\n")
    examples = task.load(str(tmp_path), "dev")
    assert "2 words have tags" in said[0]
    features = task.make_features(tokenizers[True], examples, options(16), False)
    outputs = logits_of(task, features, ["S-P", "O", "O"])
    scores = task.score(examples, features, outputs)
    assert scores == pytest.approx({"f1": 200 / 3, "precision": 100.0, "recall": 50.0})


def test_tags_that_fit_no_scheme_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    task = completed(tmp_path, entities(), train=TRAIN + "\nb O\nc I-L\n")
    assert task.file_scheme == "BIO"
    assert "1 tags do not fit" in said[0] and "I-L in line 8" in said[0]


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES"])
def test_predictions_are_in_the_files_own_scheme(scheme, tmp_path, tokenizers):
    train = {
        "BIO": "a B-P\nb I-P\nc B-P\n",
        "IOB1": "a I-P\nb I-P\nc B-P\n",
        "BIOES": "a B-P\nb E-P\nc S-P\n",
    }[scheme]
    task = completed(tmp_path, entities(), train=train, test=train + "\n" + train)
    examples = task.load(str(tmp_path), "test")
    features = task.make_features(tokenizers[True], examples, options(16), False)
    outputs = logits_of(task, features, ["B-P", "E-P", "S-P", "O", "I-P", "I-P"])
    path = str(tmp_path / "out.tsv")
    task.write_predictions(examples, features, outputs, path)
    begin = {"BIO": "B", "IOB1": "I", "BIOES": "B"}[scheme]
    end = {"BIO": "I", "IOB1": "I", "BIOES": "E"}[scheme]
    gold = [line.split()[1] for line in train.splitlines()]
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    assert lines == [
        f"a\t{gold[0]}\t{begin}-P",
        f"b\t{gold[1]}\t{end}-P",
        f"c\t{gold[2]}\t{'S' if scheme == 'BIOES' else 'B'}-P",
        "",
        f"a\t{gold[0]}\tO",
        f"b\t{gold[1]}\t{begin}-P",
        f"c\t{gold[2]}\t{end}-P",
        "",
        "",
    ]


def test_predictions_for_a_file_without_tags(tmp_path, tokenizers):
    task = completed(tmp_path, labels(), train="a NN X\nb NN Y\n", test="c NN\n")
    examples = task.load(str(tmp_path), "test")
    assert examples.tags is None
    features = task.make_features(tokenizers[True], examples, options(16), False)
    path = tmp_path / "out.tsv"
    task.write_predictions(examples, features, logits_of(task, features, ["Y"]), str(path))
    assert path.read_text() == "c\tY\n\n"


def test_chunking_files(tmp_path):
    task = TASKS["chunk"]
    assert task.paths("D", "dev")[0] == "D/chunk/dev.txt"
    assert task.metrics == ("f1", "precision", "recall") and task.test_splits == ("test",)
    task = completed(tmp_path, task, train="in IN B-PP\nit PRP B-NP\n")
    with pytest.raises(
        InputError, match=r"no dev file. Put it at .*dev\.txt.*copy test\.txt to dev"
    ):
        task.load(str(tmp_path), "dev")


ERRORS = {
    "no entity tags": ("a NN\n", r"line 1: expected O, or B-.*got \"NN\".*`tags`"),
    "no entities": ("a O\nb O\n", r"expected entities, got no tag but O"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tmp_path):
    text, message = ERRORS[case]
    with pytest.raises(InputError, match=message):
        completed(tmp_path, entities(), train=text)


def test_a_dev_file_must_have_tags(tmp_path):
    task = completed(tmp_path, labels(), train="a NN X\nb NN Y\n", dev="a NN\n")
    with pytest.raises(InputError, match=r"dev.txt, line 1: expected 3 columns"):
        task.load(str(tmp_path), "dev")


def test_fields_of_a_json_file(tmp_path):
    path = str(tmp_path / "names.json")
    task = task_from_fields(path, {})
    assert (task.name, task.tags, task.scheme, task.metrics) == (
        "names", "entities", "BIOES", ("f1", "precision", "recall")
    )  # fmt: skip
    assert task.paths("D", "dev") == [
        f"D/names/dev{e}" for e in (".txt", ".conll", ".conllu", ".tsv")
    ]
    fields = {
        "name": "pos",
        "tags": "labels",
        "word_column": 2,
        "tag_column": 4,
        "metrics": ["macro_f1"],
        "files": {"train": "a.txt", "dev": "/x/b.txt", "blind": "c.txt"},
    }
    task = task_from_fields(path, fields)
    assert (task.name, task.word_column, task.tag_column) == ("pos", 1, 3)
    assert (task.metrics, task.test_splits) == (("macro_f1",), ("blind",))
    assert task.paths("D", "train") == [str(tmp_path / "a.txt")]
    moved = dataclasses.replace(task, name="x", files={})
    assert json.dumps(task.identity()) == json.dumps(moved.identity())


FIELD_ERRORS = {
    "unknown field": ({"tag_colum": 1}, r"unknown field `tag_colum`\. Did you mean `tag_column`"),
    "unknown tags": ({"tags": "words"}, '`tags` must be "entities" or "labels". Received: "words"'),
    "unknown scheme": ({"scheme": "BILOU"}, "`scheme` must be one of BIOES, BIO, IOB1"),
    "scheme of labels": ({"tags": "labels", "scheme": "BIO"}, "`scheme` must be absent for labels"),
    "column 0": ({"word_column": 0}, "`word_column` must be a column's number, from 1"),
    "one column": ({"word_column": 2, "tag_column": 2}, "`tag_column` must be different"),
    "metric of labels": (
        {"metrics": ["accuracy"]},
        "`metrics` must be among f1, precision, recall",
    ),
    "files": ({"files": ["a"]}, "`files` must be an object of file names"),
}


@pytest.mark.parametrize("case", FIELD_ERRORS)
def test_field_errors(case):
    fields, message = FIELD_ERRORS[case]
    with pytest.raises(InputError, match=message):
        task_from_fields("t.json", fields)
