import json
import logging

import keras
import numpy as np
import pytest

import pipelines
from data import ConvBertTokenizer
from errors import InputError
from model import ConvBertConfig, ConvBertForMaskedLM, ConvBertForSequenceClassification
from pipelines import FeatureExtractor, FillMask

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "H", "[", "]", "mask"]
NETWORK = dict(
    vocab_size=len(VOCAB), embedding_size=16, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
)  # fmt: skip


def save(directory, kind=ConvBertForMaskedLM, max_length=64, lower=True, **fields):
    """A random model's directory; the model is returned."""
    keras.utils.set_random_seed(0)
    model = kind(ConvBertConfig(**(NETWORK | fields)))
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = ConvBertTokenizer(directory / "vocab.txt", do_lower_case=lower)
    tokenizer.save_pretrained(directory, max_length)
    return model


def rows_of(*texts):
    """Token ids of texts written as tokens with spaces between them, without padding."""
    for text in texts:
        yield np.array([[VOCAB.index(token) for token in f"[CLS] {text} [SEP]".split()]])


def probabilities_at(model, text, position):
    """What the model gives for one token of a text of tokens."""
    (ids,) = rows_of(text)
    logits = np.asarray(model({"input_ids": ids}))[0, position].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum()


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mlm")
    # Saved for padded rows as the original computes them; used as if there were no padding.
    model = save(directory, mask_padding=False)
    return model, FillMask.from_pretrained(directory)


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    return directory, save(directory, kind=ConvBertForSequenceClassification, max_length=12)


def test_each_mask_gets_the_likeliest_tokens(filler):
    model, fill_mask = filler
    texts = ["a b[MASK]C [MASK] d " + "e f " * 8, "[MASK]", "H [MASK] [mask]"]
    clean = ["a b [MASK] c [MASK] d " + "e f " * 8, "[MASK]", "h [MASK] [ mask ]"]
    found = fill_mask.predict(texts, top_k=3, batch_size=2)
    assert [len(masks) for masks in found] == [2, 1, 1]
    for row, number, position in ((0, 0, 3), (0, 1, 5), (1, 0, 1), (2, 0, 2)):
        expected = probabilities_at(model, clean[row], position)
        best = np.argsort(-expected)[:3]
        mask = found[row][number]
        assert mask.tokens == [VOCAB[i] for i in best]
        np.testing.assert_allclose(mask.probabilities, expected[best], atol=1e-6)
    assert found[1][0].probabilities.dtype == np.float32
    assert len({tuple(mask.tokens) for masks in found for mask in masks}) > 1


def test_all_tokens_together_have_probability_one(filler):
    ((mask,),) = filler[1].predict(["a [MASK]"], top_k=len(VOCAB))
    assert sorted(mask.tokens) == sorted(VOCAB)
    np.testing.assert_allclose(mask.probabilities.sum(), 1, atol=1e-6)


def test_texts_are_filled_as_they_are_written(filler):
    ((first, second),) = filler[1].predict(["Á  [MASK]\t(B [MASK])"], top_k=len(VOCAB))
    in_first, in_second = (
        dict(zip(mask.tokens, mask.texts, strict=True)) for mask in (first, second)
    )
    assert in_first["c"] == "Á  c\t(B [MASK])"
    assert in_first["##x"] == "Áx\t(B [MASK])"
    assert in_second["##x"] == "Á  [MASK]\t(Bx)"


def test_case_is_the_tokenizers(tmp_path):
    model = save(tmp_path, lower=False)
    ((mask,),) = FillMask.from_pretrained(tmp_path).predict(["H h [MASK]"], top_k=1)
    np.testing.assert_allclose(mask.probabilities, probabilities_at(model, "H h [MASK]", 3).max())


def test_masks_of_a_long_text_see_what_is_around_them(tmp_path, caplog):
    model = save(tmp_path, max_length=8)
    fill_mask = FillMask.from_pretrained(tmp_path)
    assert fill_mask.max_seq_length == 8
    text = "[MASK] a b c d [MASK] e f g h [MASK]"
    with caplog.at_level(logging.WARNING, logger="absl"):
        long, short = fill_mask.predict([text, "a [MASK] b c d e"], top_k=1)
    assert "1 of 2 texts were longer than 8 tokens" in caplog.text
    windows = [("[MASK] a b c d [MASK]", 1), ("b c d [MASK] e f", 4), ("[MASK] e f g h [MASK]", 6)]
    for mask, window in zip(long, windows, strict=True):
        best = probabilities_at(model, *window).max()
        np.testing.assert_allclose(mask.probabilities, best, atol=1e-6)
    best = probabilities_at(model, "a [MASK] b c d e", 2).max()
    np.testing.assert_allclose(short[0].probabilities, best, atol=1e-6)


def test_many_texts_pass_in_pieces(filler, encoder_directory, monkeypatch, caplog):
    texts = ["a [MASK] " + "b " * (7 * i % 11) for i in range(10)]
    masks = filler[1].predict(texts)
    extractor = FeatureExtractor.from_pretrained(encoder_directory[0])
    vectors = extractor.encode(texts, texts[::-1])
    monkeypatch.setattr(pipelines, "_TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(pipelines, "_MASKS_AT_ONCE", 3)
    assert [m.texts for (m,) in filler[1].predict(texts, batch_size=2)] == [
        m.texts for (m,) in masks
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        pieces = list(extractor.encode_chunks(texts, texts[::-1], batch_size=2))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate(pieces), vectors, atol=1e-5)
    assert "10 of 10 texts were longer than 12 tokens and have been cut" in caplog.text


@pytest.mark.parametrize(("pooling", "layer"), [("mean", -1), ("cls", 2), ("mean", 1), ("cls", -3)])
def test_vectors_of_texts(encoder_directory, pooling, layer):
    directory, model = encoder_directory
    texts = ["a", "h g f e d c b a", "A b ax"]
    expected = []
    for ids in rows_of("a", "h g f e d c b a", "a b a ##x"):
        inside = model.convbert.activations({"input_ids": ids})
        hidden = np.asarray([inside["projected"], *inside["layers"]][layer])[0]
        expected.append(hidden.mean(axis=0) if pooling == "mean" else hidden[0])
    vectors = FeatureExtractor.from_pretrained(directory, pooling, layer).encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_pairs_and_cut_texts(encoder_directory, caplog):
    directory, model = encoder_directory
    extractor = FeatureExtractor.from_pretrained(directory)
    with caplog.at_level(logging.WARNING, logger="absl"):
        vectors = extractor.encode(["a b", "c " * 20], ["d", "e"])
    assert "1 of 2 texts were longer than 12 tokens" in caplog.text
    for vector, first, second in zip(vectors, ("a b", "c " * 8), ("d", "e"), strict=True):
        (ids,) = rows_of(f"{first} [SEP] {second}")
        segments = [[0] * (2 + len(first.split())) + [1, 1]]
        hidden = model.convbert({"input_ids": ids, "segment_ids": np.array(segments)})
        np.testing.assert_allclose(vector, np.asarray(hidden)[0].mean(axis=0), atol=1e-5)
    assert extractor.encode([]).shape == (0, 16)


def test_outputs_that_are_no_numbers(tmp_path):
    model = save(tmp_path)
    model.convbert.embeddings.norm.gamma.assign(np.full(16, np.nan))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not finite numbers"):
        FeatureExtractor.from_pretrained(tmp_path).encode(["a"])


def test_wrong_arguments(filler, encoder_directory):
    directory, _ = encoder_directory
    extractor = FeatureExtractor.from_pretrained(directory)
    for call, message in (
        (lambda: filler[1].predict("[MASK]"), "`texts` must be a list"),
        (lambda: filler[1].predict(["[MASK]", "a [mask]"]), r"texts\[1\] has no \[MASK\]: 'a \[m"),
        (lambda: filler[1].predict(["[MASK]"], top_k=0), "`top_k` must be a positive integer"),
        (lambda: filler[1].predict(["[MASK]"], top_k=99), "`top_k` is 99, but .* has 18 tokens"),
        (lambda: extractor.encode(["a", " "]), r"expected text in texts\[1\], got none"),
        (lambda: extractor.encode(["a"], ["b", "c"]), "1 `texts`, but 2 `text_pairs`"),
        (lambda: extractor.encode(["a"], batch_size=0), "`batch_size` must be a positive"),
        (lambda: FeatureExtractor.from_pretrained(directory, "max"), "one of mean, cls"),
        (lambda: FeatureExtractor.from_pretrained(directory, layer=3), "from 0.* to 2.* -3"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_wrong_directory(encoder_directory, tmp_path):
    with pytest.raises(InputError, match=r"has no head that predicts tokens.*generator"):
        FillMask.from_pretrained(encoder_directory[0])
    with pytest.raises(InputError, match=r"no such file: .*config\.json"):
        FeatureExtractor.from_pretrained(tmp_path)
    save(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    with pytest.raises(InputError, match=r"vocab\.txt has 19 tokens.*`vocab_size` is 18"):
        FillMask.from_pretrained(tmp_path)


def test_a_stated_length_without_limit_is_the_positions(tmp_path):
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert FeatureExtractor.from_pretrained(tmp_path).max_seq_length == 64
