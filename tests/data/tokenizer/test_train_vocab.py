import json
import random
import string
from collections import Counter

import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.corpus.readers import NO_TEXT
from data.corpus.sources import find_corpus
from data.tokenizer.train_vocab import (
    VocabularyOptions,
    choose_alphabet,
    count_words,
    measure_fit,
    train_vocabulary,
)
from tests.support.corpora import openwebtext_of

ASCII = string.digits + string.punctuation
CASES = {"stripped": (True, True), "lowered": (True, False), "cased": (False, False)}
DANISH = """Blåbærgrøden står på bordet i Ålborg, og Ægidius spiser rødgrød med fløde.
Pølsemanden på Ærø sælger sælfangernes ål; øllet skænkes på Åboulevarden: «Skål!»
Crème fraîche og ΟΔΟΣ ὁδός; 東京 100 % (æbler, pærer & ærter).
"""


def corpus_of(folder, text):
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return find_corpus(folder, path)


def options_of(case, **fields):
    lower, strip = CASES[case]
    return VocabularyOptions(do_lower_case=lower, strip_accents=strip, **fields)


@pytest.mark.parametrize(
    "case, words",
    [
        ("stripped", ["æro", "'", "s", "bla", "東", "京", "οδος", "[", "mask", "]"]),
        ("lowered", ["ærö", "'", "s", "blå", "東", "京", "οδος", "[", "mask", "]"]),
        ("cased", ["Ærö", "'", "s", "blå", "東", "京", "ΟΔΟΣ", "[", "MASK", "]"]),
    ],
)
def test_words_are_those_that_the_tokenizer_separates(tmp_path, case, words):
    corpus = corpus_of(tmp_path, "Ærö's\u00a0bl\u200bå 東京\n\n\nΟΔΟΣ\t[MASK]\nblå\n")
    counts = count_words(corpus, options_of(case))
    assert counts == Counter([*words, words[3]])


def test_the_words_of_archives_are_counted(tmp_path):
    archives = [["Ål og ål", "og"], ["og øl"]]
    (tmp_path / "openwebtext.tar").write_bytes(openwebtext_of(archives))
    counts = count_words(find_corpus(tmp_path), options_of("lowered"))
    assert counts == {"ål": 2, "og": 3, "øl": 1}


def test_a_large_corpus_is_sampled_the_same_way_each_time(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}.txt").write_text(f"word{number:02d} " * 30_000)  # 210 kB each
    corpus = find_corpus(tmp_path, tmp_path)
    counts = count_words(corpus, options_of("cased", max_megabytes=1))
    # Three files fill a batch; after two batches it is over 1 MB.
    assert set(counts.values()) == {30_000} and len(counts) == 6
    assert counts != {f"word{number:02d}": 30_000 for number in range(6)}
    assert count_words(corpus, options_of("cased", max_megabytes=1)) == counts
    assert len(count_words(corpus, options_of("cased", max_megabytes=3))) == 12


def test_the_alphabet_is_the_most_common_characters_and_asciis_symbols():
    counts = Counter({"ååå": 2, "øø": 3, "æc": 4, "b": 1, "\ue000": 9})
    # å and ø occur 6 times, æ and c 4 times; where equal, the smaller code point wins.
    for limit, letters in ((1, "å"), (2, "åø"), (3, "cåø"), (4, "cåæø"), (9, "bcåæø")):
        assert choose_alphabet(counts, limit) == sorted(ASCII + letters)
    rare = Counter({"e": 1_000_000, "å": 11, "ø": 9})
    assert choose_alphabet(rare) == sorted(ASCII + "eå")


def test_the_vocabulary_of_a_small_text_in_order():
    counts = Counter({"hav": 5, "havn": 3, "ø": 9, "skåne": 1})
    tokens = train_vocabulary(counts, VocabularyOptions(200, num_unused=2))
    alphabet = sorted(ASCII + "aehknsvåø")
    assert tokens[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    assert tokens[7:58] == alphabet
    # No word has a symbol inside, so symbols have no "##" form.
    assert tokens[58:77] == [f"##{character}" for character in alphabet if character.isalnum()]
    # h + a is as frequent as a + v: the smaller ids win. Pairs in "skåne" are not frequent enough.
    assert tokens[77:] == ["ha", "hav", "havn"]
    assert train_vocabulary(counts, VocabularyOptions(78, num_unused=2)) == tokens[:78]


def test_too_small_a_vocabulary_is_refused_with_the_least():
    counts = Counter({"hav": 5})
    with pytest.raises(InputError, match=r"`vocab_size` must be at least 64: 5 special tokens, 1"):
        train_vocabulary(counts, VocabularyOptions(63, num_unused=1))
    assert len(train_vocabulary(counts, VocabularyOptions(64, num_unused=1))) == 64


def test_ties_do_not_depend_on_the_order_of_the_words():
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghæøå", k=8)) for _ in range(2000)]
    expected = train_vocabulary(Counter(words), VocabularyOptions(400))
    assert len(expected) == 400
    for _ in range(3):
        rng.shuffle(words)
        assert train_vocabulary(Counter(words), VocabularyOptions(400)) == expected


@pytest.mark.parametrize("case", CASES)
def test_every_token_can_be_reached(tmp_path, case):
    options = options_of(case, vocab_size=200)
    counts = count_words(corpus_of(tmp_path, DANISH * 3), options)
    tokens = train_vocabulary(counts, options)
    assert len(tokens) == 200
    tokenizer = ConvBertTokenizer(tokens, *CASES[case])
    words = [token for token in tokens[5:] if not token.startswith("##")]
    assert tokenizer.tokenize(words).to_list() == [[tokens.index(word)] for word in words]
    inner = {token for token in tokens if token.startswith("##")}
    for first in (word for word in words if len(word) == 1):
        texts = [first + token[2:] for token in sorted(inner)]
        for ids in tokenizer.tokenize(texts).to_list():
            if len(ids) == 2:
                inner.discard(tokens[ids[1]])
    assert inner == set()


def test_how_a_vocabulary_fits(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hav", "##n"]
    corpus = corpus_of(tmp_path, "hav havn havn øhav " + "x" * 201)
    tokenizer = ConvBertTokenizer(tokens, *CASES["cased"])
    fit = measure_fit(tokenizer, count_words(corpus, options_of("cased")))
    assert (fit.words, fit.tokens, fit.unknown_words) == (5, 7, 2)


def test_words_that_cannot_become_tokens_are_not_learned():
    counts = Counter({"æbleø": 9, "æble": 1, "b" * 255: 9, "b" * 200: 1})
    tokens = train_vocabulary(counts, VocabularyOptions(5000, limit_alphabet=4, min_frequency=1))
    # ø is not in the alphabet; a token of 255 letters and "##" could be over the limit.
    assert "æble" in tokens and not any("ø" in token for token in tokens)
    assert max(map(len, tokens)) == 200


@pytest.mark.parametrize(
    "field, least",
    [
        ("vocab_size", 6),
        ("num_unused", 0),
        ("min_frequency", 1),
        ("limit_alphabet", 1),
        ("max_megabytes", 1),
    ],
)
def test_impossible_options_are_refused(field, least):
    for value, allowed in ((least - 1, f"at least {least}"), (10**20, "below ")):
        with pytest.raises(InputError, match=f"`{field}` must be {allowed}.* Received: {value}"):
            VocabularyOptions(**{field: value})


def test_as_many_unused_tokens_as_the_vocabulary_has_are_refused():
    assert VocabularyOptions(64, num_unused=63).num_unused == 63
    for value in (64, 65, 20_000_000):
        message = rf"`num_unused` must be below `vocab_size` \(64\)\. Received: {value}$"
        with pytest.raises(InputError, match=message):
            VocabularyOptions(64, num_unused=value)


def test_skipped_documents_are_counted(tmp_path, caplog):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\n')
    with caplog.at_level("WARNING", logger="absl"):
        assert count_words(find_corpus(tmp_path, path), options_of("cased")) == {"a": 1}
    assert json.dumps({NO_TEXT: 1}) in caplog.text
    path.write_text('{"body": "b"}\n')
    with pytest.raises(InputError, match=f"t.jsonl has no words.*{NO_TEXT}.*: 1"):
        count_words(find_corpus(tmp_path, path), options_of("cased"))


def test_a_corpus_without_words_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no text: the corpus .*text\.txt has no words"):
        count_words(corpus_of(tmp_path, "\u200b\n"), VocabularyOptions())
