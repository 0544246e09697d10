"""What all pipelines refuse: texts, directories and files that are wrong."""

import copy
import dataclasses
import json
import os
import pickle

import keras
import numpy as np
import pytest

import pipelines
from common.errors import InputError
from data import ConvBertTokenizer
from model import ConvBertForSequenceClassification
from tests.support.eager import eagerly
from tests.support.random_models import VOCAB, assert_close, save

TEXTS, OTHERS = ["a [MASK]", "b [MASK]"], ["c", "d e"]
# Lists of texts that a pipeline takes, by the names of its arguments.
INPUTS = {
    "FeatureExtractor": {"texts": TEXTS, "text_pairs": OTHERS},
    "FillMask": {"texts": TEXTS},
    "MultipleChoice": {"contexts": TEXTS, "choices": [["c", "d"], ["e", "f"]]},
    "QuestionAnswerer": {"questions": TEXTS, "contexts": OTHERS},
    "Tagger": {"sentences": TEXTS},
    "TextClassifier": {"texts": TEXTS, "text_pairs": OTHERS},
}
FINE_TUNED = ("MultipleChoice", "QuestionAnswerer", "Tagger", "TextClassifier")


class Table:
    """Like a pandas DataFrame, iterating gives the names of the columns."""

    columns = ("text", "label")

    def __iter__(self):
        return iter(self.columns)


class Series:
    """Like pandas's, it has items in order, under any numbers."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number - 7]


def plain(found):
    """What a pipeline returned, as lists, dicts, numbers and arrays."""
    if dataclasses.is_dataclass(found):
        return {name: plain(value) for name, value in vars(found).items() if name != "errors"}
    return [plain(item) for item in found] if isinstance(found, list) else found


def load(name, directory, **options):
    """A random pipeline, and its function for predictions."""
    cls = getattr(pipelines, name)
    save(directory, cls.model_class, num_hidden_layers=1)
    pipeline = cls.from_pretrained(directory, **options)
    return pipeline, pipeline.encode if name == "FeatureExtractor" else pipeline.predict


@pytest.mark.parametrize("name", INPUTS)
@eagerly()
def test_bad_inputs_are_skipped_on_request(tmp_path, name):
    inputs = INPUTS[name]
    _, predict = load(name, tmp_path)
    expected = plain(predict(**inputs))
    bad = [" ", None, 5, "a \ud83d", b"a"]
    mixed = {}
    for argument, (one, other) in inputs.items():
        wrong = bad if isinstance(one, str) else [[each, "a"] for each in bad[:-1]] + [["a"]]
        mixed[argument] = [*wrong[:2], one, *wrong[2:], other]
    kept = (2, 6)
    found = predict(**mixed, errors="skip")
    assert len(found) == 7
    if name == "FeatureExtractor":
        assert_close(found[list(kept)], expected)
        assert np.isnan(found).all(axis=1).sum() == 5
    else:
        first = next(iter(inputs))
        assert set(found.errors) == {0, 1, 3, 4, 5}
        assert all(f"{first}[{i}]" in message for i, message in found.errors.items())
        answers = found.answers if dataclasses.is_dataclass(found) else found
        assert [i for i, answer in enumerate(answers) if answer is not None] == list(kept)
        if dataclasses.is_dataclass(found):
            assert np.isnan(found.probabilities).all(axis=1).sum() == 5
            found = dataclasses.replace(
                found,
                answers=[answers[i] for i in kept],
                probabilities=found.probabilities[list(kept)],
            )
        else:
            found = [answers[i] for i in kept]
        assert_close(plain(found), expected)
    none = predict(**{argument: bad[:1] * 2 for argument in inputs}, errors="skip")
    assert len(none) == 2


@eagerly()
def test_empty_lists_have_the_shapes_of_others(tmp_path):
    _, classify = load("TextClassifier", tmp_path / "a")
    assert classify([]).probabilities.shape == (0, 2)
    _, choose = load("MultipleChoice", tmp_path / "b", labels=("A", "B", "C"))
    assert choose([], []).probabilities.shape == (0, 3)
    _, encode = load("FeatureExtractor", tmp_path / "c")
    assert encode([]).shape == (0, 16)


def test_a_compiled_model_stays_as_it_is(tmp_path):
    model = save(tmp_path, ConvBertForSequenceClassification, num_hidden_layers=1)
    model.compile("adam", **model.objective(), run_eagerly=True)
    optimizer = model.optimizer
    classifier = pipelines.TextClassifier(model, ConvBertTokenizer.from_pretrained(tmp_path), 16)
    seen = []

    class Predict(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(classifier.predict(["a b"]).probabilities[0])

    batch = classifier.tokenizer(["a b", "c"])
    model.fit(batch, np.array([0, 1]), epochs=2, verbose=0, callbacks=[Predict()])
    assert model.optimizer is optimizer and int(optimizer.iterations) == 2
    assert not np.allclose(*seen)  # of the weights after each epoch
    np.testing.assert_allclose(seen[1], keras.ops.softmax(model(batch))[0], atol=1e-6)


def test_a_graph_is_made_again_for_a_changed_encoder(tmp_path):
    classifier, predict = load("TextClassifier", tmp_path)
    exact = predict(["a b"]).probabilities
    classifier.model.quantize("int8")
    batch = classifier.tokenizer(["a b"])
    found = predict(["a b"]).probabilities
    np.testing.assert_allclose(found, keras.ops.softmax(classifier.model(batch)), atol=1e-4)
    assert 1e-5 < np.abs(found - exact).max() < 0.2


def test_copies_and_precisions(tmp_path):
    classifier, predict = load("TextClassifier", tmp_path)
    expected = predict(["a b"]).probabilities
    for again in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_array_equal(again.predict(["a b"]).probabilities, expected)
    half = pipelines.TextClassifier.from_pretrained(tmp_path, dtype="bfloat16")
    assert half.model.dtype_policy.name == "bfloat16"
    np.testing.assert_allclose(half.predict(["a b"]).probabilities, expected, atol=0.05)


def test_a_forked_process_is_told_to_load_the_model_itself(tmp_path):
    _, predict = load("TextClassifier", tmp_path)
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with open(reading) as pipe:
            assert "loaded before this process was forked" in pipe.read()
        os.waitpid(child, 0)
        return
    try:  # the child
        predict(["a"])
    except InputError as error:
        os.write(writing, str(error).encode())
    finally:
        os._exit(0)


def test_texts_of_many_lengths_are_no_reason_to_warn(tmp_path, caplog):
    for number in range(4):
        _, predict = load("TextClassifier", tmp_path / str(number))
        for length in (1, 20, 60):
            predict(["a " * length])
    assert "retracing" not in caplog.text


@pytest.mark.parametrize("name", INPUTS)
@eagerly()
def test_a_table_with_more_rows_than_tokens(tmp_path, name):
    cls, inputs = getattr(pipelines, name), INPUTS[name]
    model = save(tmp_path, cls.model_class, num_hidden_layers=1, vocab_size=len(VOCAB) + 6)
    if name == "FillMask":  # the spare rows would win
        model.head.output_bias.assign(np.r_[np.zeros(len(VOCAB)), np.full(6, 99)])
        model.save_pretrained(tmp_path)
    pipeline = cls.from_pretrained(tmp_path)
    found = (pipeline.encode if name == "FeatureExtractor" else pipeline.predict)(**inputs)
    assert len(found) == 2
    if name == "FillMask":
        (mask,) = pipeline.predict(["a [MASK]"], top_k=len(VOCAB))[0]
        assert sorted(mask.tokens) == sorted(VOCAB)
        assert mask.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", INPUTS)
@eagerly()
def test_wrong_texts(tmp_path, name):
    inputs, (_, predict) = INPUTS[name], load(name, tmp_path)
    expected = plain(predict(**inputs))
    for make in (tuple, iter, lambda items: np.array(items, object), Series):
        assert_close(plain(predict(**{n: make(items) for n, items in inputs.items()})), expected)
    assert len(predict(*([] for _ in inputs))) == 0
    first, *second = inputs
    wrong = [
        (inputs | {first: given}, f"`{first}` must be a list")
        for given in ("a", b"a", None, 5, {"text": TEXTS}, set(TEXTS), Table(), np.array("a"))
    ]
    wrong += [(inputs | {"batch_size": size}, "`batch_size`") for size in (0, "2", True, None)]
    wrong += [(inputs | {"errors": "ignore"}, "`errors` must be one of")]
    for argument, (good, other) in inputs.items():
        for bad, message in ((" ", "got none"), (None, "got null")):
            changed = [good, bad if isinstance(other, str) else [bad, "a"]]
            wrong.append((inputs | {argument: changed}, rf"{argument}\[1\].*{message}"))
    for argument in second:
        message = f"1 `{first}`, but 2 `{argument}`"
        wrong.append((inputs | {first: inputs[first][:1]}, message))
    for arguments, message in wrong:
        with pytest.raises(InputError, match=message):
            predict(**arguments)


@pytest.mark.parametrize("name", FINE_TUNED)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json.*finetuning_models"),
        (
            '{"architectures": ["ConvBertModel"]}',
            r'{0.what}: .* \["ConvBertModel"\], not {0.model_class.architecture}',
        ),
        ("[]", r"config\.json: expected a JSON object"),
    ],
)
def test_wrong_directory(tmp_path, name, content, message):
    cls = getattr(pipelines, name)
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message.format(cls)):
        cls.from_pretrained(tmp_path)


def test_a_vocabulary_of_another_size(tmp_path):
    save(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt has 19 tokens.*`vocab_size` is 18"):
        pipelines.FillMask.from_pretrained(tmp_path)


@pytest.mark.parametrize("stated", [10**30, 999])  # no limit; more than there are positions
def test_the_stated_length_is_at_most_that_of_the_positions(tmp_path, stated):
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    assert pipelines.FeatureExtractor.from_pretrained(tmp_path).max_seq_length == 64


@eagerly()
def test_outputs_that_are_not_finite(tmp_path):
    model = save(tmp_path)
    model.convbert.embeddings.norm.gamma.assign(np.full(16, np.nan))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not finite numbers"):
        pipelines.FeatureExtractor.from_pretrained(tmp_path).encode(["a"])
