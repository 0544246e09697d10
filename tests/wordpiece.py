"""BERT's tokenizer in plain Python: slow, and the reference for ours."""

import unicodedata

CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def reference_words(text, lower, strip):
    """BERT's basic tokenizer in plain Python."""
    cleaned = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            cleaned.append(" ")
        elif category[0] == "C" or char == "\ufffd":
            continue
        elif any(first <= ord(char) <= last for first, last in CJK_RANGES):
            cleaned.append(f" {char} ")
        else:
            cleaned.append(char)
    for original in "".join(cleaned).split():
        word = original.lower() if lower else original
        if lower and strip:
            decomposed = unicodedata.normalize("NFD", word)
            word = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
        yield from "".join(f" {char} " if is_punctuation(char) else char for char in word).split()


def is_punctuation(char):
    return char in "$+<=>^`|~" or unicodedata.category(char)[0] == "P"


def reference_ids(text, vocab, lower=True, strip=True):
    """Greedy longest match over `reference_words`; `vocab` maps tokens to ids."""
    ids = []
    for word in reference_words(text, lower, strip):
        pieces, start = [], 0
        while start < len(word) <= 200:
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in vocab), None)
            if end is None:
                break
            pieces.append(vocab[prefix + word[start:end]])
            start = end
        ids += pieces if start == len(word) else [vocab["[UNK]"]]
    return ids
