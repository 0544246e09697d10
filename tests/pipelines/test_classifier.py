import json

import numpy as np
import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from model import ConvBertForSequenceClassification
from pipelines import TextClassifier
from tests.support.random_models import save, softmax

pytestmark = pytest.mark.usefixtures("eager")
SINGLE = {
    "num_labels": 3,
    "id2label": ("x", "y", "z"),
    "problem_type": "single_label_classification",
}
# Of different lengths, the longest first.
TEXTS = [" ".join("abcdefgh"[i:] * (3 - i % 3)) for i in range(7)]


def save_classifier(directory, max_length=64, **fields):
    kind = ConvBertForSequenceClassification
    model = save(directory, kind, max_length, num_hidden_layers=1, **fields)
    return model, ConvBertTokenizer.from_pretrained(directory)


def test_answers_are_in_the_texts_order(tmp_path):
    model, tokenizer = save_classifier(tmp_path, **SINGLE)
    logits = np.concatenate([np.asarray(model(tokenizer([text]))) for text in TEXTS])
    shares = softmax(logits)
    classifier = TextClassifier.from_pretrained(tmp_path)
    found = classifier.predict(TEXTS, batch_size=3)
    np.testing.assert_allclose(found.probabilities, shares, atol=1e-5)
    assert found.answers == ["xyz"[i] for i in shares.argmax(1)]
    assert (len(found), found.num_cut) == (7, 0)
    assert np.abs(np.diff(shares, axis=0)).max(axis=1).min() > 1e-4  # else it would not show
    pairs = classifier.predict(TEXTS, TEXTS[::-1])
    expected = np.asarray(model(tokenizer(TEXTS, TEXTS[::-1])))
    assert pairs.answers == ["xyz"[i] for i in expected.argmax(1)]


def test_padding_has_the_id_of_the_vocabularys_pad(tmp_path):
    """Where padding changes results."""
    model, tokenizer = save_classifier(tmp_path, mask_padding=False, **SINGLE)
    tokenizer = ConvBertTokenizer(tokenizer.vocab[::-1])
    tokenizer.save_pretrained(tmp_path, 64)
    found = TextClassifier.from_pretrained(tmp_path).predict(TEXTS)
    logits = np.asarray(model(tokenizer(TEXTS, padding="max_length", max_length=64)))
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-5)


def test_texts_are_cut_where_fine_tuning_cut_them(tmp_path):
    model, tokenizer = save_classifier(tmp_path, 12, **SINGLE)
    classifier = TextClassifier.from_pretrained(tmp_path)
    assert classifier.max_seq_length == 12
    texts = ["a " * 10, "b " * 11, "c d"]
    found = classifier.predict(texts)
    assert found.num_cut == 1
    logits = np.asarray(model(tokenizer(texts, max_length=12)))
    assert found.answers == ["xyz"[i] for i in logits.argmax(1)]
    assert classifier.predict(texts, ["a"] * 3).num_cut == 2


def test_several_labels_and_scores(tmp_path):
    model, tokenizer = save_classifier(
        tmp_path / "m", **(SINGLE | {"problem_type": "multi_label_classification"})
    )
    logits = np.asarray(model(tokenizer(TEXTS)))
    found = TextClassifier.from_pretrained(tmp_path / "m").predict(TEXTS)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert found.answers == [
        [x for x, v in zip("xyz", row, strict=True) if v > 0] for row in logits
    ]
    fields = {"num_labels": 1, "problem_type": "regression", "score_range": (0.0, 5.0)}
    model, _ = save_classifier(tmp_path / "r", **fields)
    logits = np.asarray(model(tokenizer(TEXTS)))[:, 0]
    found = TextClassifier.from_pretrained(tmp_path / "r").predict(TEXTS)
    np.testing.assert_allclose(found.answers, np.clip(5 * logits, 0, 5), atol=1e-5)
    assert found.probabilities is None


def test_labels_must_differ(tmp_path):
    save_classifier(tmp_path, **(SINGLE | {"id2label": ("x", "y", "x")}))
    with pytest.raises(InputError, match=r'`id2label` .*"x", "y", "x"'):
        TextClassifier.from_pretrained(tmp_path)


def test_a_model_of_transformers_states_less(tmp_path):
    save_classifier(tmp_path, num_labels=2)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["problem_type"] = None
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert TextClassifier.from_pretrained(tmp_path).labels == ("LABEL_0", "LABEL_1")
