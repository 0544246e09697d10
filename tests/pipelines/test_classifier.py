import json

import keras
import numpy as np
import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel
from pipelines import TextClassifier

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
NETWORK = dict(
    vocab_size=len(VOCAB), embedding_size=16, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
)  # fmt: skip
SINGLE = dict(
    num_labels=3, id2label=("x", "y", "z"), problem_type="single_label_classification"
)  # fmt: skip
# Of different lengths, the longest first.
TEXTS = [" ".join("abcdefghij"[i:] * (3 - i % 3)) for i in range(7)]


def save(directory, model_max_length=64, **fields):
    keras.utils.set_random_seed(0)
    model = ConvBertForSequenceClassification(ConvBertConfig(**(NETWORK | fields)))
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = ConvBertTokenizer(directory / "vocab.txt")
    tokenizer.save_pretrained(directory, model_max_length)
    return model, tokenizer


def test_answers_are_in_the_texts_order(tmp_path):
    model, tokenizer = save(tmp_path, **SINGLE)
    logits = np.concatenate([np.asarray(model(tokenizer([text]))) for text in TEXTS])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classifier = TextClassifier.from_pretrained(tmp_path)
    found = classifier.predict(TEXTS, batch_size=3)
    np.testing.assert_allclose(found.probabilities, shares, atol=1e-5)
    assert found.answers == ["xyz"[i] for i in shares.argmax(1)]
    assert (len(found), found.num_cut) == (7, 0)
    assert np.abs(np.diff(shares, axis=0)).max(axis=1).min() > 1e-4  # else it would not show
    pairs = classifier.predict(TEXTS, TEXTS[::-1])
    expected = np.asarray(model(tokenizer(TEXTS, TEXTS[::-1])))
    assert pairs.answers == ["xyz"[i] for i in expected.argmax(1)]
    assert classifier.predict([]).answers == []


def test_texts_are_cut_where_fine_tuning_cut_them(tmp_path):
    model, tokenizer = save(tmp_path, 12, **SINGLE)
    classifier = TextClassifier.from_pretrained(tmp_path)
    assert classifier.max_seq_length == 12
    texts = ["a " * 10, "b " * 11, "c d"]
    found = classifier.predict(texts)
    assert found.num_cut == 1
    logits = np.asarray(model(tokenizer(texts, max_length=12)))
    assert found.answers == ["xyz"[i] for i in logits.argmax(1)]
    assert classifier.predict(texts, ["a"] * 3).num_cut == 2
    path = tmp_path / "tokenizer_config.json"
    for stated in (10**30, 999):  # no limit; more than there are positions
        path.write_text(json.dumps({"model_max_length": stated}))
        assert TextClassifier.from_pretrained(tmp_path).max_seq_length == 64


def test_several_labels_and_scores(tmp_path):
    model, tokenizer = save(
        tmp_path / "m", **(SINGLE | {"problem_type": "multi_label_classification"})
    )
    logits = np.asarray(model(tokenizer(TEXTS)))
    found = TextClassifier.from_pretrained(tmp_path / "m").predict(TEXTS)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert found.answers == [
        [x for x, v in zip("xyz", row, strict=True) if v > 0] for row in logits
    ]
    fields = {"num_labels": 1, "problem_type": "regression", "score_range": (0.0, 5.0)}
    model, _ = save(tmp_path / "r", **fields)
    logits = np.asarray(model(tokenizer(TEXTS)))[:, 0]
    found = TextClassifier.from_pretrained(tmp_path / "r").predict(TEXTS)
    np.testing.assert_allclose(found.answers, np.clip(5 * logits, 0, 5), atol=1e-5)
    assert found.probabilities is None


def test_a_model_of_transformers_states_less(tmp_path):
    save(tmp_path, num_labels=2)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["problem_type"] = None
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert TextClassifier.from_pretrained(tmp_path).labels == ("LABEL_0", "LABEL_1")


def test_wrong_texts(tmp_path):
    save(tmp_path, **SINGLE)
    classifier = TextClassifier.from_pretrained(tmp_path)
    for texts, pairs, message in (
        ("a", None, "`texts` must be a list"),
        (["a", " "], None, r"expected text in texts\[1\], got none"),
        (["a", None], None, r"expected text in texts\[1\], got null"),
        (["a"], ["b", "c"], "1 `texts`, but 2 `text_pairs`"),
    ):
        with pytest.raises(InputError, match=message):
            classifier.predict(texts, pairs)


def test_wrong_directory(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*config\.json.*finetuning_models"):
        TextClassifier.from_pretrained(tmp_path)
    ConvBertModel(ConvBertConfig(**NETWORK)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"not a fine-tuned classifier: .* \"ConvBertModel\""):
        TextClassifier.from_pretrained(tmp_path)
    save(tmp_path, **SINGLE)
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt has 16 tokens.*`vocab_size` is 15"):
        TextClassifier.from_pretrained(tmp_path)
