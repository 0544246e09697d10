import re
import shutil
import sys

import numpy as np
import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from data.records.metadata import load_metadata
from scripts import inspect_data
from tests.support.corpora import openwebtext_of, random_archives, write_vocab

ESCAPE = "\033["


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Records of three shards, in both formats, and an empty fourth shard in one."""
    folder = tmp_path_factory.mktemp("data")
    vocab = str(write_vocab(folder / "vocab.txt"))
    archives = random_archives(3, 20, lines_each=8)
    (folder / "openwebtext.tar").write_bytes(openwebtext_of([*archives, []]))
    for record_format, name in (("compact", "pretrain_tfrecords"), ("original", "original")):
        options = BuildOptions(vocab, max_seq_length=40, record_format=record_format)
        build_records(find_corpus(folder), options, folder / name)
    return folder


@pytest.fixture
def run(data_dir, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as the script sets it; undone afterwards
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*arguments, folder=data_dir):
        inspect_data.main(["--data-dir", str(folder), *arguments])
        return capsys.readouterr().out

    return run


def test_examples_with_segments_and_masks(run, data_dir):
    output = run("--num-examples", "5", "--shard", "1")
    blocks = output.split("\n\n")
    assert len(blocks) == 6 and ESCAPE not in output
    for number, block in enumerate(blocks[:5], start=1):
        header, *lines = block.splitlines()
        begin = f"--- pretrain_data.tfrecord-00001-of-00004, example {number} of 5: "
        counts = r"(\d+) tokens, (\d+) of them in the second segment, (\d+) to predict"
        matched = re.fullmatch(re.escape(begin) + counts, header)
        length, second, predicted = map(int, matched.groups())
        assert 5 <= length <= 40 and predicted == max(1, round(0.15 * length))
        assert len(re.findall(r"\{=?(?:\w+|\.|\[UNK\])\}", block)) == predicted
        assert lines[0].startswith("[CLS] ") and all(line.endswith(" [SEP]") for line in lines)
        assert len(lines) == (2 if second else 1)
    assert blocks[5].startswith("to predict: {hidden behind [MASK]} {=kept}\n")
    shard = load_metadata(data_dir / "pretrain_tfrecords").shards[1]
    assert f"\n{shard.examples} examples: {shard.tokens / shard.examples:.1f} tokens" in output


def test_both_formats_print_the_same(run, data_dir):
    output = run("--shard", "2")
    assert run("--shard", "2", "--records", str(data_dir / "original")) == output


def test_the_seed_chooses_examples_and_masks(run):
    outputs = [run("--seed", seed, "--num-examples", "1") for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]


def test_all_examples_of_a_shard_can_be_asked_for(run, data_dir):
    count = load_metadata(data_dir / "pretrain_tfrecords").shards[0].examples
    output = run("--shard", "0", "--num-examples", str(count + 50))
    assert output.count("[CLS]") == count


def test_colors_on_a_terminal_alone_and_never_against_the_users_will(run, monkeypatch):
    plain = run("--num-examples", "1")
    # Another object at each call: pytest's capture.
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    colored = run("--num-examples", "1")
    assert "\033[2m[CLS]\033[0m" in colored and "\033[1;97;41m" in colored and "{" not in colored
    assert re.sub(r"\033\[[0-9;]*m", "", colored) == re.sub(r"\{=?|\}", "", plain)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("--num-examples", "1") == plain


def test_masks_are_drawn_as_in_training(data_dir):
    tokenizer = ConvBertTokenizer(data_dir / "vocab.txt")
    batch = tokenizer(["ba bing de"] * 300, ["da dun"] * 300, 10, padding="max_length")
    masked = inspect_data.draw_masks(batch, 300, tokenizer, seed=3)
    kinds = []
    for index in range(300):
        row = {name: array[index] for name, array in masked.items()}
        kinds += inspect_data.token_kinds(row, tokenizer)
    # One of 8 tokens is chosen (15 %), and 85 % of the chosen are hidden.
    assert kinds.count("special") == 900 and kinds.count("hidden") + kinds.count("kept") == 300
    assert 235 <= kinds.count("hidden") <= 275
    assert kinds.count("first") + kinds.count("second") == 1200


def test_kinds_and_text_of_one_example(data_dir):
    tokenizer = ConvBertTokenizer(data_dir / "vocab.txt")
    tokens = ["[CLS]", "ba", "da", "[SEP]", "fo", "gun", "[SEP]"]
    ids = np.array([*tokenizer.convert_tokens_to_ids(tokens), 0])
    masked_ids = ids.copy()
    masked_ids[2] = tokenizer.mask_id
    row = {
        "input_ids": ids,
        "input_mask": np.array([1] * 7 + [0]),
        "segment_ids": np.array([0] * 4 + [1] * 3 + [0]),
        "masked_input_ids": masked_ids,
        "masked_lm_positions": np.array([5, 2, 0]),
        "masked_lm_weights": np.array([1.0, 1.0, 0.0]),
    }
    kinds = inspect_data.token_kinds(row, tokenizer)
    assert kinds == ["special", "first", "hidden", "special", "second", "kept", "special"]
    text = inspect_data.as_text(tokens, kinds, colored=False)
    assert text == "[CLS] ba {da} [SEP]\nfo {=gun} [SEP]"
    tokens, kinds = ["blå", "##bær", ".", "##ø"], ["first", "hidden", "kept", "second"]
    text = inspect_data.as_text(tokens, kinds, colored=True)
    assert text == "blå\033[1;97;41mbær\033[0m\033[1;30;43m.\033[0m\033[34mø\033[0m"


def test_the_table_of_lengths():
    lengths = np.array([5, 16, 17, 39, 40, 40, 40, 40])
    batch = {"input_mask": np.arange(40) < lengths[:, None], "segment_ids": np.zeros([8, 40])}
    batch["segment_ids"][1::2, 2] = 1
    title, header, *rows = inspect_data.length_table(batch, 40).splitlines()
    assert title == "8 examples: 29.6 tokens on average, 50.0% with two segments"
    assert header == "    tokens    examples   share"
    labels = ["1-5", "6-10", "11-15", "16-20", "21-25", "26-30", "31-35", "36-39", "40"]
    assert [row.split()[0] for row in rows] == labels
    assert [row.split()[1] for row in rows] == [*"100200014"]
    assert rows[-1] == "        40           4   50.0% ####################"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num-examples", "0"], "`num_examples` must be at least 1. Received: 0"),
        (["--shard", "4"], "`shard` must be .* from 0 to 3. Received: 4"),
        (["--shard", "3"], "tfrecords: `shard` must be a shard with examples.* Received: 3"),
        (["--records", "nowhere"], r"no records in nowhere"),
        (["--vocab-file", "nowhere.txt"], r"no such file: nowhere\.txt"),
        (["--vocab-file", "OTHER"], r"the records in .* were built with vocab_size"),
        (["--shard", "0", "--records", "DAMAGED"], r"the shard .*-00000-of-00004 is damaged"),
    ],
)
def test_wrong_input_is_named(run, data_dir, tmp_path, arguments, message):
    files = {"OTHER": tmp_path / "vocab.txt", "DAMAGED": tmp_path / "records"}
    files["OTHER"].write_text((data_dir / "vocab.txt").read_text() + "more\n")
    shutil.copytree(data_dir / "pretrain_tfrecords", files["DAMAGED"])
    with next(files["DAMAGED"].glob("*-00000-of-*")).open("r+b") as shard:
        shard.seek(20)
        shard.write(b"\xff")
    with pytest.raises(InputError, match=message):
        run(*[str(files.get(word, word)) for word in arguments])
