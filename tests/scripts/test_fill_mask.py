import pytest

from common.errors import InputError
from pipelines import FillMask
from scripts import fill_mask
from tests.support.random_models import assert_close, from_lines, run_with, save


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mlm")
    save(directory, num_hidden_layers=1)
    return FillMask.from_pretrained(directory)


@pytest.fixture
def run(filler, tmp_path, monkeypatch, capsys):
    return run_with(filler, fill_mask, tmp_path, monkeypatch, capsys)


def objects(filler, texts, top_k):
    names = ("token", "probability", "text")
    for index, masks in enumerate(filler.predict(texts, top_k)):
        columns = ((mask.tokens, mask.probabilities, mask.texts) for mask in masks)
        rows = [list(zip(*lists, strict=True)) for lists in columns]
        fields = [[dict(zip(names, row, strict=True)) for row in mask] for mask in rows]
        yield {"index": index, "masks": fields}


def test_an_object_per_text(run, filler, tmp_path):
    texts = ["A [MASK]", "[MASK], [MASK]"]
    found = from_lines(run(*texts, "--top-k", "2", "--batch-size", "8"))
    assert_close(found, list(objects(filler, texts, 2)))
    (tmp_path / "in.csv").write_text('n,t\n1,"a\tb\n[MASK]"\n')
    output = tmp_path / "out.jsonl"
    source = ["--input", tmp_path / "in.csv", "--columns", "t"]
    assert run(*source, "--top-k", "1", "--output", output) == ""
    assert_close(from_lines(output.read_text()), list(objects(filler, ["a\tb\n[MASK]"], 1)))


def test_bad_texts_have_an_error(run, filler):
    found = from_lines(run("no mask", "A [MASK]", "--top-k", "1", "--skip-bad-texts"))
    assert found[0] == {"index": 0, "error": "expected a text with [MASK]"}
    assert_close(found[1]["masks"], next(objects(filler, ["A [MASK]"], 1))["masks"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["[MASK]", "b [mask]"], r"argument 2: .* \[MASK\], got 'b \[m"),
        (["[MASK]\tb"], "argument 1: expected one text; got 2"),
        (["[MASK]", "--output", "a.npy"], r"`--output` .*\.jsonl"),
        (["[MASK]", "--batch-size", "0"], "`batch_size`"),
    ],
)
def test_wrong_input(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run(*arguments)
