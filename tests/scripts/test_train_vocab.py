import json

import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from data.records.command_line import tokenizer_options
from scripts import train_vocab

DANISH = """Blåbærgrøden står på bordet i Ålborg, og Ægidius spiser rødgrød med fløde.

Pølsemanden på Ærø sælger sælfangernes ål; øllet skænkes på Åboulevarden. Skål for øen!
"""


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as the script sets it; undone afterwards
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    (tmp_path / "danish.txt").write_text(DANISH * 20, encoding="utf-8")
    return tmp_path


def run(data_dir, *arguments):
    corpus = str(data_dir / "danish.txt")
    train_vocab.main(["--data-dir", str(data_dir), "--corpus", corpus, *arguments])


def test_a_cased_vocabulary_from_text_to_records(data_dir, capsys):
    run(data_dir, "--cased", "--vocab-size", "195", "--num-unused", "3")
    path = data_dir / "vocab.txt"
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 195 tokens",
        "text      600 words, 1.133 tokens per word, 0.000% of the words are [UNK]",
    ]
    tokens = path.read_text(encoding="utf-8").splitlines()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", "[unused2]"]
    assert len(tokens) == 195 and tokens[:8] == special

    tokenizer = ConvBertTokenizer.from_pretrained(data_dir)  # as finetune.py --from-scratch does
    assert tokenizer.pad_id == 0
    assert not tokenizer.do_lower_case and not tokenizer.strip_accents
    sentence = "Blåbærgrøden på Ærø; Ålborg, Ægidius."
    (ids,) = tokenizer([sentence])["input_ids"]
    assert tokenizer.decode(ids) == sentence.replace(";", " ;")

    options = BuildOptions(str(path), 32, do_lower_case=False, strip_accents=False)
    metadata = build_records(
        find_corpus(data_dir, data_dir / "danish.txt"), options, data_dir / "r"
    )
    assert metadata.vocab_size == 195 and metadata.total("unknown_tokens") == 0
    assert metadata.total("text_tokens") == 680


@pytest.mark.parametrize(
    "arguments, lower, strip, word",
    [
        ([], True, True, "ærø bla"),
        (["--no-strip-accents"], True, False, "ærø blå"),
        (["--cased", "--no-strip-accents"], False, False, "Ærø blå"),
    ],
)
def test_what_is_written_says_how_to_use_it(data_dir, arguments, lower, strip, word):
    output = data_dir / "vocabulary"
    output.mkdir()
    run(data_dir, "--vocab-size", "180", "--output", str(output), *arguments)
    config = json.loads((output / "tokenizer_config.json").read_text())
    assert (config["do_lower_case"], config["strip_accents"]) == (lower, strip)
    options = tokenizer_options(output / "vocab.txt", False, True)
    assert options == {"do_lower_case": lower, "strip_accents": strip}
    tokenizer = ConvBertTokenizer.from_pretrained(output)
    (ids,) = tokenizer.tokenize(["Ærø blå"]).to_list()
    assert tokenizer.decode(ids) == word
    assert not (data_dir / "vocab.txt").exists()


def test_a_vocabulary_is_replaced_only_when_told(data_dir):
    run(data_dir, "--cased", "--vocab-size", "190")
    before = (data_dir / "vocab.txt").read_bytes()
    with pytest.raises(InputError, match=r"vocab\.txt exists\. Use --overwrite to replace it"):
        run(data_dir, "--vocab-size", "180")
    assert (data_dir / "vocab.txt").read_bytes() == before
    run(data_dir, "--vocab-size", "180", "--overwrite")
    assert ConvBertTokenizer.from_pretrained(data_dir).do_lower_case
    run(data_dir, "--cased", "--vocab-size", "190", "--overwrite")
    assert (data_dir / "vocab.txt").read_bytes() == before


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_other_files_of_a_tokenizer_are_not_replaced_either(data_dir, name):
    (data_dir / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name} exists\. Use --overwrite"):
        run(data_dir, "--vocab-size", "180")
    assert (data_dir / name).read_text() == "mine"


def test_what_does_not_fit_is_said(data_dir, caplog):
    run(data_dir, "--limit-alphabet", "12")
    assert "the text is enough for " in caplog.text and "not 30522" in caplog.text
    assert "% of the words are [UNK]" in caplog.text and "--limit-alphabet" in caplog.text
    caplog.clear()
    run(data_dir, "--vocab-size", "180", "--overwrite")
    assert "[UNK]" not in caplog.text and "enough" not in caplog.text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--corpus", "NOWHERE"], "no corpus"),
        (["--vocab-size", "60"], "`vocab_size` must be at least 97: 5 special"),
        (["--min-frequency", "0"], "`min_frequency` must be at least 1"),
        (["--output", "NOWHERE"], "the directory .*nowhere does not exist"),
    ],
)
def test_errors_write_nothing(data_dir, arguments, message):
    nowhere = str(data_dir / "nowhere")
    with pytest.raises(InputError, match=message):
        run(data_dir, *[nowhere if word == "NOWHERE" else word for word in arguments])
    assert [path.name for path in data_dir.iterdir()] == ["danish.txt"]
