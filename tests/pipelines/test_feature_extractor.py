import numpy as np
import pytest

from common.errors import InputError
from model import ConvBertForSequenceClassification
from pipelines import FeatureExtractor, base
from tests.support.random_models import rows_of, save

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    return directory, save(directory, kind=ConvBertForSequenceClassification, max_length=12)


def test_many_texts_are_encoded_in_chunks(encoder_directory, monkeypatch, caplog):
    texts = ["a " + "b " * (7 * i % 11) for i in range(10)]
    extractor = FeatureExtractor.from_pretrained(encoder_directory[0])
    vectors = extractor.encode(texts, texts[::-1])
    monkeypatch.setattr(base, "TEXTS_AT_ONCE", 4)
    caplog.clear()
    chunks = list(extractor.encode_chunks(texts, texts[::-1], batch_size=2))
    assert list(map(len, chunks)) == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate(chunks), vectors, atol=1e-5)
    num_cut = sum(3 + 2 + 7 * i % 11 + 7 * (9 - i) % 11 > 12 for i in range(10))
    assert f"{num_cut} of 10 texts were longer than 12 tokens" in caplog.text


@pytest.mark.parametrize(("pooling", "layer"), [("mean", -1), ("cls", 2), ("mean", 1), ("cls", -3)])
def test_vectors_of_texts(encoder_directory, pooling, layer):
    directory, model = encoder_directory
    texts = ["a", "h g f e d c b a", "A b ax"]
    expected = []
    for ids in rows_of("a", "h g f e d c b a", "a b a ##x"):
        inside = model.convbert.activations({"input_ids": ids})
        hidden = np.asarray([inside["projected"], *inside["layers"]][layer])[0]
        expected.append(hidden.mean(axis=0) if pooling == "mean" else hidden[0])
    extractor = FeatureExtractor.from_pretrained(directory, pooling=pooling, layer=layer)
    vectors = extractor.encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_pairs_and_cut_texts(encoder_directory, caplog):
    directory, model = encoder_directory
    extractor = FeatureExtractor.from_pretrained(directory)
    vectors = extractor.encode(["a b", "c " * 20], ["d", "e"])
    assert "1 of 2 texts were longer than 12 tokens" in caplog.text
    for vector, first, second in zip(vectors, ("a b", "c " * 8), ("d", "e"), strict=True):
        (ids,) = rows_of(f"{first} [SEP] {second}")
        segments = [[0] * (2 + len(first.split())) + [1, 1]]
        hidden = model.convbert({"input_ids": ids, "segment_ids": np.array(segments)})
        np.testing.assert_allclose(vector, np.asarray(hidden)[0].mean(axis=0), atol=1e-5)
    assert extractor.encode([]).shape == (0, 16)


def test_wrong_arguments(encoder_directory):
    with pytest.raises(InputError, match=r'`pooling`.*"max"'):
        FeatureExtractor.from_pretrained(encoder_directory[0], pooling="max")
    with pytest.raises(InputError, match=r"`layer`.* 2 .* -3"):
        FeatureExtractor.from_pretrained(encoder_directory[0], layer=3)
