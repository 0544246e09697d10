"""The tokenizer beside transformers': what it gave for many strings, and a live one."""

import json
import lzma
import shutil
import subprocess
import sys

import pytest

from data import ConvBertTokenizer
from data.records.command_line import BERT_VOCAB
from tests.support.processes import ROOT

TINY_MODEL = ROOT / "tests/goldens/huggingface/tiny_mlm"
MODES = {"lower": (True, True), "keep_accents": (True, False), "cased": (False, False)}

PEER = """
import json, sys
from transformers import AutoTokenizer, pipeline

def look(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(strings, strings[::-1], max_length=20, truncation=True, padding="max_length")
    fill = pipeline("fill-mask", model=directory, tokenizer=directory)
    tokenizer.save_pretrained(directory + "/again")
    return {
        "class": type(tokenizer).__name__,
        "attributes": [tokenizer.mask_token, tokenizer.padding_side, tokenizer.model_max_length],
        "single": tokenizer(strings)["input_ids"],
        "pairs": [batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")],
        "decoded": [tokenizer.decode(ids) for ids in batch["input_ids"]],
        "filled": [len(fill(text, top_k=3)) for text in ("a [MASK]", "[MASK] d")],
    }

directories, strings = json.load(sys.stdin)
print("FOUND", json.dumps([look(directory) for directory in directories]))
"""


@pytest.fixture(scope="module")
def golden():
    path = ROOT / "tests/goldens/tokenizer/transformers.json.xz"
    return json.loads(lzma.decompress(path.read_bytes()))


@pytest.fixture(scope="module")
def bert():
    return ConvBertTokenizer(BERT_VOCAB, max_word_length=100)


@pytest.mark.parametrize("mode", MODES)
def test_ids_equal_transformers_but_for_two_reasons(golden, mode):
    tokenizer = ConvBertTokenizer(BERT_VOCAB, *MODES[mode], max_word_length=100)
    batch = tokenizer(
        golden["strings"], padding=False, add_special_tokens=False, parse_special_tokens=True
    )
    pairs = enumerate(zip(batch["input_ids"], golden["ids"][mode], strict=True))
    different = {index for index, (ours, theirs) in pairs if ours != theirs}
    expected = {
        "lower": {*golden["final_sigma"], *golden["unassigned"]},
        "keep_accents": {*golden["final_sigma"], *golden["unassigned"]},
        "cased": {*golden["unassigned"]} - {312},  # a word that is [UNK] either way
    }
    assert different == expected[mode]
    assert len(golden["strings"]) == 323


def test_pairs_are_cut_and_padded_as_transformers_does(golden, bert):
    assert len(golden["pairs"]) == 73
    for pair in golden["pairs"]:
        batch = bert(
            [pair["a"]],
            [pair["b"]] if pair["b"] else None,  # outside a batch, "" is no second text there
            pair["max_length"],
            padding="max_length",
            truncation="longest_first",
            parse_special_tokens=True,
            return_special_tokens_mask=True,
        )
        for ours, theirs in (
            ("input_ids", "input_ids"),
            ("segment_ids", "token_type_ids"),
            ("input_mask", "attention_mask"),
            ("special_tokens_mask", "special_tokens_mask"),
        ):
            assert batch[ours][0].tolist() == pair[theirs], pair


def test_offsets_and_texts_are_transformers(golden, bert):
    accents = "n\u0303 o\u0308 u\u0302"  # ours has them in the letter's place
    for one in golden["offsets"]:
        batch = bert([one["text"]], parse_special_tokens=True, return_offsets_mapping=True)
        assert batch["input_ids"][0].tolist() == one["input_ids"]
        offsets = batch["offset_mapping"][0].tolist()
        if one["text"] == accents:
            assert offsets == [[0, 0], [0, 2], [3, 5], [6, 8], [0, 0]]
        else:
            assert offsets == one["offsets"]
        assert bert.decode(one["input_ids"], skip_special_tokens=False) == one["decoded"]
        assert bert.decode(one["input_ids"]) == one["decoded_skip"]


@pytest.mark.peers
def test_transformers_opens_what_is_saved(golden, tmp_path):
    """AutoTokenizer, its fill-mask pipeline, and what transformers saves again."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghi", "ς", "##ab", "##ς", "é"]
    vocab += [f"[unused{index}]" for index in range(40 - len(vocab))]
    strings = ["a b [MASK] éÉ e\u0301!", "a" + "ab" * 60, "ab" * 101, "", "d c b a " * 9, "[SEP]a"]
    tokenizers = {
        tmp_path / mode: ConvBertTokenizer(vocab, *options, model_max_length=64)
        for mode, options in MODES.items()
    }
    for directory, tokenizer in tokenizers.items():
        shutil.copytree(TINY_MODEL, directory)
        tokenizer.save_pretrained(directory)
    done = subprocess.run(
        [sys.executable, "-c", PEER],
        input=json.dumps([list(map(str, tokenizers)), strings]),
        text=True,
        check=True,
        capture_output=True,
    )
    found = json.loads(done.stdout.split("FOUND", 1)[1])
    for theirs, (directory, ours) in zip(found, tokenizers.items(), strict=True):
        assert theirs["class"] == "ConvBertTokenizer"
        assert theirs["attributes"] == ["[MASK]", "right", 64]
        single = ours(strings, padding=False, parse_special_tokens=True)
        assert theirs["single"] == single["input_ids"]
        pairs = ours(
            strings, strings[::-1], 20, "max_length", "longest_first", parse_special_tokens=True
        )
        names = ("input_ids", "segment_ids", "input_mask")
        assert theirs["pairs"] == [pairs[name].tolist() for name in names]
        decoded = ours.batch_decode(pairs["input_ids"], skip_special_tokens=False)
        assert theirs["decoded"] == decoded
        assert theirs["filled"] == [3, 3]
        again = ConvBertTokenizer.from_pretrained(directory / "again")
        options = ("do_lower_case", "strip_accents", "max_word_length", "model_max_length", "vocab")
        for name in options:
            assert getattr(again, name) == getattr(ours, name)
