import hashlib
import logging

import pytest

from common.errors import InputError
from data import ConvBertTokenizer
from data.tokenizer.vocab_file import SPECIAL_TOKENS, load_vocabulary

RELEASE_SHA256 = "ce0ab0a373c6ce1fe777eea87d927294379f2ce187e240f0a9e24d4e9ac22fa0"


def write(path, tokens, end="\n"):
    path.write_bytes("".join(token + end for token in tokens).encode())
    return path


def test_the_releases_vocabulary_loads_with_a_warning(release_vocab, tmp_path, caplog):
    path = write(tmp_path / "v.txt", release_vocab, "\r\n")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == RELEASE_SHA256
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert load_vocabulary(path) == release_vocab
    (message,) = caplog.messages
    assert str(path) in message and "30522 of 30522" in message and "1008" in message


def test_a_repeated_token_has_its_last_id(tmp_path):
    path = write(tmp_path / "v.txt", ["dog", *SPECIAL_TOKENS, "dog", "", "##s", "cat ", "##s"])
    tokenizer = ConvBertTokenizer(path)
    assert tokenizer.tokenize(["dogs cat"]).to_list() == [[6, 10, 9]]
    assert tokenizer.convert_tokens_to_ids(["dog", "##s", "bird"]) == [6, 10, tokenizer.unk_id]
    assert tokenizer.convert_ids_to_tokens([0, 6, 7]) == ["dog", "dog", ""]


def test_line_ends_change_no_hash_and_a_clean_file_gives_no_warning(bert, tmp_path, caplog):
    crlf = write(tmp_path / "v.txt", bert.vocab, "\r\n")
    assert ConvBertTokenizer(crlf).vocab_sha256 == bert.vocab_sha256
    clean = write(tmp_path / "v.txt", [*bert.vocab[:-1], "[new]"])
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        other = ConvBertTokenizer(clean)
    assert other.vocab_sha256 != bert.vocab_sha256 and caplog.messages == []


@pytest.mark.parametrize("missing", [["[PAD]"], ["[UNK]"], ["[CLS]", "[SEP]", "[MASK]"]])
def test_missing_special_tokens_are_named(tmp_path, missing):
    tokens = [token for token in SPECIAL_TOKENS if token not in missing]
    path = write(tmp_path / "v.txt", [*tokens, "a"])
    with pytest.raises(InputError) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value) and f"no {', '.join(missing)} among" in str(caught.value)


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none\.txt"):
        load_vocabulary(tmp_path / "none.txt")
    with pytest.raises(InputError, match="Is a directory"):
        load_vocabulary(tmp_path)
    (tmp_path / "binary").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(InputError, match="binary, line 2: expected UTF-8"):
        load_vocabulary(tmp_path / "binary")
    with pytest.raises(InputError, match=r"v\.txt, line 6: .* over 256 bytes"):
        load_vocabulary(write(tmp_path / "v.txt", [*SPECIAL_TOKENS, "x" * 257]))
    with (tmp_path / "v.txt").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InputError, match=r"v\.txt: larger than 64 MB"):
        load_vocabulary(tmp_path / "v.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("num_blank", [0, 1, 3])
def test_a_vocabulary_saved_by_another_program(tmp_path, caplog, encoding, end, num_blank):
    tokens = [*SPECIAL_TOKENS, "", "æ", "\u3000", "\u2028", "東", "##ø"]
    text = "".join(token + end for token in tokens) + num_blank * end
    (tmp_path / "v.txt").write_bytes(text.encode(encoding))
    with caplog.at_level(logging.WARNING, logger="absl"):
        found = load_vocabulary(tmp_path / "v.txt")
    assert found == [token.strip() for token in tokens]
    assert f"{num_blank} blank lines at the end are left out" in caplog.text


def test_a_vocabulary_that_looks_cased_is_warned_of(tmp_path, caplog):
    path = write(tmp_path / "v.txt", [*SPECIAL_TOKENS, "[E1]", "hus", "##É", "Oslo"])
    with caplog.at_level(logging.WARNING, logger="absl"):
        ConvBertTokenizer(path, do_lower_case=False)
        assert caplog.messages == []
        ConvBertTokenizer(path)
    (message,) = caplog.messages
    assert "2 of 9 tokens have capital letters" in message and "do_lower_case" in message


def test_a_list_of_tokens_is_a_vocabulary(bert):
    assert ConvBertTokenizer(bert.vocab).vocab_sha256 == bert.vocab_sha256
    with pytest.raises(InputError, match=r"list of tokens has no \[UNK\], \[CLS\]"):
        ConvBertTokenizer(["[PAD]", "a"])
    for token in (7, None, ["a\n"], "a\nb", "x" * 257, "half a pair: \ud83d"):
        with pytest.raises(InputError, match="token 5 must be a line of at most 256 bytes"):
            ConvBertTokenizer([*SPECIAL_TOKENS, token])
