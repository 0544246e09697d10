import numpy as np
import pytest

from common.errors import InputError
from model import ConvBertForSequenceClassification
from model.weights import files
from pipelines import FillMask, base, fill_mask
from tests.support.random_models import VOCAB, rows_of, save, softmax

pytestmark = pytest.mark.usefixtures("eager")


def probabilities_at(model, text, position):
    """What the model predicts at one position of a text of tokens."""
    (ids,) = rows_of(text)
    return softmax(model({"input_ids": ids}))[0, position]


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mlm")
    # Saved for padded rows as the original computes them; used as if there were no padding.
    model = save(directory, mask_padding=False)
    return model, FillMask.from_pretrained(directory)


def test_weights_are_read_once(tmp_path, monkeypatch):
    save(tmp_path, num_hidden_layers=1)
    read, calls = files.read, []
    monkeypatch.setattr(files, "read", lambda path: calls.append(path) or read(path))
    FillMask.from_pretrained(tmp_path)
    assert len(calls) == 1


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
        np.testing.assert_allclose(mask.probabilities, expected[best], atol=1e-5)
    assert found[1][0].probabilities.dtype == np.float32
    assert len({tuple(mask.tokens) for masks in found for mask in masks}) > 1


def test_all_tokens_fill_a_text_as_it_is_written(filler):
    ((first, second),) = filler[1].predict(["Á  [MASK]\t(B [MASK])"], top_k=len(VOCAB))
    assert sorted(first.tokens) == sorted(VOCAB)
    np.testing.assert_allclose(first.probabilities.sum(), 1, atol=1e-5)
    in_first, in_second = (
        dict(zip(mask.tokens, mask.texts, strict=True)) for mask in (first, second)
    )
    assert in_first["c"] == "Á  c\t(B [MASK])"
    assert in_first["##x"] == "Áx\t(B [MASK])"
    assert in_second["##x"] == "Á  [MASK]\t(Bx)"


def test_case_is_the_tokenizers(tmp_path):
    model = save(tmp_path, lower=False)
    ((mask,),) = FillMask.from_pretrained(tmp_path).predict(["H h [MASK]"], top_k=1)
    best = probabilities_at(model, "H h [MASK]", 3).max()
    np.testing.assert_allclose(mask.probabilities, best, atol=1e-5)


def test_masks_of_a_long_text_see_the_tokens_around_them(tmp_path, caplog):
    model = save(tmp_path, max_length=8)
    fill_mask = FillMask.from_pretrained(tmp_path)
    assert fill_mask.max_seq_length == 8
    text = "[MASK] a b c d [MASK] e f g h [MASK]"
    long, short = fill_mask.predict([text, "a [MASK] b c d e"], top_k=1)
    assert "1 of 2 texts were longer than 8 tokens" in caplog.text
    windows = [("[MASK] a b c d [MASK]", 1), ("b c d [MASK] e f", 4), ("[MASK] e f g h [MASK]", 6)]
    for mask, window in zip(long, windows, strict=True):
        best = probabilities_at(model, *window).max()
        np.testing.assert_allclose(mask.probabilities, best, atol=1e-5)
    best = probabilities_at(model, "a [MASK] b c d e", 2).max()
    np.testing.assert_allclose(short[0].probabilities, best, atol=1e-5)


def test_many_texts_are_filled_in_chunks(filler, monkeypatch):
    texts = ["a [MASK] " + "b " * (7 * i % 11) for i in range(10)]
    masks = filler[1].predict(texts)
    monkeypatch.setattr(base, "TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(fill_mask, "_MASKS_AT_ONCE", 3)
    assert [m.texts for (m,) in filler[1].predict(texts, batch_size=2)] == [
        m.texts for (m,) in masks
    ]


def test_wrong_arguments(filler):
    for text, top_k, message in (
        ("a [mask]", 1, r"texts\[1\] .* 'a \[m"),
        ("[MASK]", 0, "`top_k` .* 0"),
        ("[MASK]", 99, "`top_k` .* 18 .* 99"),
    ):
        with pytest.raises(InputError, match=message):
            filler[1].predict(["[MASK]", text], top_k)


def test_wrong_directory(tmp_path):
    save(tmp_path / "encoder", ConvBertForSequenceClassification)
    with pytest.raises(InputError, match=r"encoder cannot fill a \[MASK\].*generator"):
        FillMask.from_pretrained(tmp_path / "encoder")
