import dataclasses
import logging
import types

import numpy as np
import pytest

from common.errors import InputError
from data.tasks.batching import gather_outputs
from data.tasks.examples import IGNORED
from data.tasks.tagging.entities import convert_tags
from data.tasks.tagging.task import METRICS, TASKS, TaggingTask, task_from_fields
from data.tokenizer.tokenizer import ConvBertTokenizer
from tests.support.files import write

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "##y", ".", "A", "Å"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3
TRAIN = "a B-P\nb I-P\nc O\n\nA B-L\n"
ENTITIES = TaggingTask("ner", METRICS["entities"])
LABELS = TaggingTask("pos", METRICS["labels"], tags="labels")


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizer(VOCAB)


def completed(folder, task, **texts):
    """The task with files of these texts, by split."""
    for split, text in texts.items():
        write(folder / task.name / f"{split}.txt", text)
    return task.complete(str(folder))


def features_of(task, tokenizer, examples, length=16):
    return task.make_features(tokenizer, examples, types.SimpleNamespace(max_seq_length=length), 0)


def loaded(folder, task, tokenizer, length=16, **texts):
    """The task, and the examples and features of the last of its files."""
    task = completed(folder, task, **texts)
    examples = task.load(str(folder), [*texts][-1])
    return task, examples, features_of(task, tokenizer, examples, length)


def logits_of(task, features, tags):
    """The outputs of a model that is sure of these tags, one for each word."""
    outputs = np.full((len(features.input_ids), len(task.labels)), -1, np.float32)
    numbers = [task.labels.index(tag) for tag in tags]
    outputs[features.word_positions, numbers] = 1
    return outputs


def test_labels_of_the_training_file(tmp_path):
    task = completed(tmp_path, ENTITIES, train=TRAIN)
    assert task.labels == ("O", *(f"{p}-{t}" for t in "LP" for p in "BIES"))
    assert (task.file_scheme, task.num_columns) == ("BIO", 2)
    assert task.model_fields() == {"num_labels": 9, "id2label": task.labels}
    assert task.architecture == "ConvBertForTokenClassification"
    task = completed(tmp_path, dataclasses.replace(ENTITIES, scheme="BIO"), train=TRAIN)
    assert task.labels == ("O", "B-L", "I-L", "B-P", "I-P")
    task = completed(tmp_path, LABELS, train="b VERB\na ADJ\n\nc VERB\n")
    assert (task.labels, task.file_scheme) == (("ADJ", "VERB"), None)


def test_features(tmp_path, tokenizer):
    text = "axy B-P\nb. I-P\nCx O\n\nd S-L\n"
    task, examples, features = loaded(tmp_path, ENTITIES, tokenizer, train=text)
    assert (len(examples), examples.num_characters) == (2, 8)
    b, e, s = (task.labels.index(tag) for tag in ("B-P", "E-P", "S-L"))
    a_xy, b_stop, c_x, d = [5, 13, 14], [6, 15], [7, 13], [8]
    assert features.input_ids.tolist() == [CLS, *a_xy, *b_stop, *c_x, SEP, CLS, *d, SEP]
    x = IGNORED
    assert features.targets.tolist() == [x, b, x, x, e, x, 0, x, x, x, s, x]
    assert features.segment_ids.tolist() == [0] * 12
    assert features.word_positions.tolist() == [1, 4, 6, 10]
    assert features.row_splits.tolist() == [0, 9, 12]


def test_the_tokenizer_decides_case(tmp_path, tokenizer):
    task, examples, features = loaded(tmp_path, LABELS, tokenizer, train="A X\nÅ Y\n")
    assert features.input_ids.tolist() == [CLS, 5, 5, SEP]
    cased = features_of(task, ConvBertTokenizer(VOCAB, do_lower_case=False), examples)
    assert cased.input_ids.tolist() == [CLS, VOCAB.index("A"), VOCAB.index("Å"), SEP]


def test_a_word_without_tokens_is_unknown(tmp_path, tokenizer):
    text = "\u200b X\n\u0301 Y\n[SEP] X\na Y\n"
    _, _, features = loaded(tmp_path, LABELS, tokenizer, train=text)
    assert features.input_ids[:3].tolist() == [CLS, UNK, UNK]
    assert features.input_ids[-2:].tolist() == [5, SEP]
    # "[SEP]" in a text is three words, not the end of a row.
    assert features.input_ids.tolist().count(SEP) == 1
    assert len(features.word_positions) == 4


def long_sentences(rng, count, longest_word):
    """Sentences of words of several tokens, and the words' tags."""
    for _ in range(count):
        words = ["a" + "x" * rng.integers(0, longest_word) for _ in range(rng.integers(1, 60))]
        yield "".join(f"{word} {'XY'[len(word) % 2]}\n" for word in words)


@pytest.mark.parametrize(("length", "longest_word"), [(5, 1), (8, 4), (16, 8), (16, 20), (64, 3)])
def test_windows(length, longest_word, tmp_path, tokenizer):
    """Each word has exactly one target, and context on both sides."""
    rng = np.random.default_rng(length)
    text = "\n".join(long_sentences(rng, 30, longest_word)) + "\nax X\n\na Y\n"
    task, examples, features = loaded(tmp_path, LABELS, tokenizer, length, train=text)
    assert features.lengths.max() <= length
    positions = features.word_positions
    assert (np.diff(positions) > 0).all()
    assert (features.input_ids[positions] == 5).all()  # each word's first token is an "a"
    assert (features.targets != IGNORED).sum() == len(positions) == len(examples.words)
    expected = [task.labels.index(tag) for tag in examples.tags]
    assert features.targets[positions].tolist() == expected
    # All of a word's tokens follow, unless it is longer than a row.
    for word, position in zip(examples.words, positions, strict=True):
        tokens = features.input_ids[position : position + min(len(word), length - 2)]
        assert tokens.tolist() == [5] + [13] * (len(tokens) - 1)
    assert features.num_cut == sum(len(word) > length - 2 for word in examples.words)

    rows = np.searchsorted(features.row_splits, positions, "right") - 1
    assert (np.diff(rows) <= 1).all() and rows[-1] == len(features) - 1
    sentence = np.repeat(np.arange(len(examples)), np.diff(examples.row_splits))
    first = np.flatnonzero(np.diff(rows)) + 1
    within = first[sentence[first] == sentence[first - 1]]
    assert features.num_windowed == len(set(sentence[within].tolist()))
    # Where two windows meet, a word has about a quarter of a row before it and after it.
    before = positions[within] - features.row_splits[rows[within]] - 1
    after = features.row_splits[rows[within - 1] + 1] - positions[within - 1] - 1
    least = (length - 2) // 4 - max(map(len, examples.words))
    assert (before >= least).all() and (after >= least).all()


def test_windows_and_cut_words_are_logged(tmp_path, tokenizer, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        loaded(tmp_path, LABELS, tokenizer, 8, train="a X\n" * 9 + "\naxxxxxxxxx Y\n")
    assert "reading 1 sentences in windows of 8 tokens" in caplog.messages[-2]
    assert "1 words are longer than a row of 8 tokens" in caplog.messages[-1]


@pytest.mark.parametrize("length", [5, 9, 64])
def test_scores_are_of_words_not_of_windows(length, tmp_path, tokenizer):
    """Gold tags, as a model's outputs, score 100, however sentences are cut."""
    text = "a B-P\nb I-P\nc I-P\nd O\nA B-L\na B-L\nb O\n" * 5
    texts = {"train": text, "dev": text + "\n" + TRAIN}
    task, examples, features = loaded(tmp_path, ENTITIES, tokenizer, length, **texts)
    gold = convert_tags(examples.tags, examples.row_splits, "BIOES")
    outputs = logits_of(task, features, gold)
    assert set(task.score(examples, features, outputs).values()) == {100.0}
    assert task.predictions(examples, features, outputs) == examples.tags
    wrong = ["O", *gold[1:]]  # B-P I-P E-P begins with its second word: 1 of 17 is not found
    scores = task.score(examples, features, logits_of(task, features, wrong))
    assert scores == pytest.approx(dict.fromkeys(("f1", "precision", "recall"), 100 * 16 / 17))


def test_outputs_of_a_model_are_put_in_order(tmp_path, tokenizer):
    text = "\n".join(long_sentences(np.random.default_rng(0), 20, 3))
    task, examples, features = loaded(tmp_path, LABELS, tokenizer, train=text)

    def predict(inputs):  # the tag depends on the number of a word's further tokens
        is_x = inputs["input_ids"] == 13
        after = np.stack([np.roll(is_x, -n, axis=1) for n in (1, 2)], axis=-1)
        count = after[..., 0] * (1 + after[..., 1])
        return np.eye(2, dtype=np.float32)[count % 2]

    assert task.labels == ("X", "Y")
    outputs = gather_outputs(features, predict, ("logits",), batch_size=4)
    expected = ["XY"[(len(word) - 1) % 2] for word in examples.words]
    assert task.predictions(examples, features, outputs) == expected


def test_scores_of_labels(tmp_path, tokenizer):
    texts = {"train": "a X\nb Y\n", "dev": "a X\na X\na X\nb Y\nc NEW\n"}
    task, examples, features = loaded(tmp_path, LABELS, tokenizer, **texts)
    scores = task.score(examples, features, logits_of(task, features, "XXYYY"))
    # The F1 of X is 0.8, of Y 0.5, and of the tag that cannot be predicted 0.
    assert scores == pytest.approx({"accuracy": 60.0, "macro_f1": 100 * 1.3 / 3})
    assert features.targets[features.word_positions[-1]] == IGNORED


def test_types_that_training_lacks_are_logged_and_missed(tmp_path, tokenizer, caplog):
    texts = {"train": TRAIN, "dev": "a B-P\nb B-X\nc I-X\n"}
    task, examples, features = loaded(tmp_path, ENTITIES, tokenizer, **texts)
    assert "2 words have tags" in caplog.text and "X" in caplog.messages[-1]
    scores = task.score(examples, features, logits_of(task, features, ["S-P", "O", "O"]))
    assert scores == pytest.approx({"f1": 200 / 3, "precision": 100.0, "recall": 50.0})


def test_tags_that_fit_no_scheme_are_logged(tmp_path, caplog):
    task = completed(tmp_path, ENTITIES, train=TRAIN + "\nb O\nc I-L\n")
    assert task.file_scheme == "BIO"
    assert "1 tags do not fit" in caplog.text and "I-L in line 8" in caplog.text


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ("B-P I-P B-P", "B-P I-P B-P O B-P I-P"),
        ("I-P I-P B-P", "I-P I-P B-P O I-P I-P"),
        ("B-P E-P S-P", "B-P E-P S-P O B-P E-P"),
    ],
    ids=["BIO", "IOB1", "BIOES"],
)
def test_predictions_are_in_the_scheme_of_the_file(gold, predicted, tmp_path, tokenizer):
    rows = [f"{word}\t{tag}" for word, tag in zip("abc", gold.split(), strict=True)]
    texts = {"train": "\n".join(rows), "test": "\n".join([*rows, "", *rows])}
    task, examples, features = loaded(tmp_path, ENTITIES, tokenizer, **texts)
    outputs = logits_of(task, features, ["B-P", "E-P", "S-P", "O", "I-P", "I-P"])
    path = tmp_path / "out.tsv"
    task.write_predictions(examples, features, outputs, str(path))
    lines = [f"{row}\t{tag}\n" for row, tag in zip(rows * 2, predicted.split(), strict=True)]
    assert path.read_text() == "".join([*lines[:3], "\n", *lines[3:], "\n"])


def test_predictions_for_a_file_without_tags(tmp_path, tokenizer):
    texts = {"train": "a NN X\nb NN Y\n", "test": "c NN\n"}
    task, examples, features = loaded(tmp_path, LABELS, tokenizer, **texts)
    assert examples.tags is None
    path = tmp_path / "out.tsv"
    task.write_predictions(examples, features, logits_of(task, features, ["Y"]), str(path))
    assert path.read_text() == "c\tY\n\n"


def test_chunking_files(tmp_path):
    task = TASKS["chunk"]
    assert task.paths("D", "dev")[0] == "D/chunk/dev.txt"
    assert task.metrics == ("f1", "precision", "recall") and task.test_splits == ("test",)
    task = completed(tmp_path, task, train="in IN B-PP\nit PRP B-NP\n")
    with pytest.raises(InputError, match=r"no dev file.*dev\.txt.*copy test\.txt"):
        task.load(str(tmp_path), "dev")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a NN\n", r'line 1: .* got "NN".*`tags`'), ("a O\nb O\n", "expected entities")],
)
def test_unusable_training_file(text, message, tmp_path):
    with pytest.raises(InputError, match=rf"train\.txt.*{message}"):
        completed(tmp_path, ENTITIES, train=text)


def test_json_files_and_numbers_of_tags(tmp_path):
    write(tmp_path / "ner" / "train.jsonl", {"tokens": ["a", "b"], "ner_tags": ["U-P", "O"]})
    task = ENTITIES.complete(str(tmp_path))
    assert (task.labels[1:], task.file_scheme) == (("B-P", "I-P", "E-P", "S-P"), "BIOES")
    assert task.load(str(tmp_path), "train").tags == ["S-P", "O"]
    write(tmp_path / "ner" / "dev.json", [{"tokens": ["a"], "ner_tags": [3]}])
    with pytest.raises(InputError, match=r'dev\.json, record 1: .* got "3"\. .*names'):
        task.load(str(tmp_path), "dev")


def test_a_dev_file_must_have_tags(tmp_path):
    task = completed(tmp_path, LABELS, train="a NN X\nb NN Y\n", dev="a NN\n")
    with pytest.raises(InputError, match=r"dev\.txt, line 1: expected 3 columns"):
        task.load(str(tmp_path), "dev")


def test_fields_of_a_json_file():
    task = task_from_fields("names.json", {})
    assert (task.name, task.tags, task.scheme) == ("names", "entities", "BIOES")
    assert task.metrics == ("f1", "precision", "recall")
    endings = (".txt", ".conll", ".conllu", ".tsv")
    assert task.paths("D", "dev") == [f"D/names/dev{ending}" for ending in endings]
    columns = {"tags": "labels", "word_column": 2, "tag_column": 4}
    task = task_from_fields("names.json", columns | {"metrics": ["macro_f1"]})
    assert (task.word_column, task.tag_column, task.metrics) == (1, 3, ("macro_f1",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tags": "words"}, '`tags` must be "entities" or "labels". Received: "words"'),
        ({"scheme": "BILOU"}, "`scheme` must be one of BIOES, BIO, IOB1"),
        ({"tags": "labels", "scheme": "BIO"}, "`scheme` must be absent for labels"),
        ({"word_column": 0}, "`word_column` .* Received: 0"),
        ({"word_column": 2, "tag_column": 2}, "`tag_column` must be different"),
        ({"metrics": ["accuracy"]}, "`metrics` must be among f1, precision, recall"),
    ],
)
def test_field_errors(fields, message):
    with pytest.raises(InputError, match=message):
        task_from_fields("t.json", fields)
