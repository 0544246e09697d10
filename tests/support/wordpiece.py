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


def reference_offsets(text, ids, tokens, lower, strip):
    """Finds the characters `[start, end)` of a text that each of its correct `ids` comes from.

    `tokens` is the vocabulary; `lower` and `strip` are as in `reference_words`.
    """
    sources = []  # for each character of the words: start and end of its source
    for start, char in enumerate(text):
        made = sum(len(word) for word in reference_words(char, lower, strip))
        if not made and lower and strip and unicodedata.category(char) == "Mn":
            # It belongs to the letter before it, if there is one.
            sources = [(a, start + 1 if b == start else b) for a, b in sources]
        sources += [(start, start + 1)] * made
    words = [len(word) for word in reference_words(text, lower, strip)]
    assert sum(words) == len(sources)
    offsets, done, rest = [], 0, 0  # `rest`: characters of the current word that are not done
    for index in ids:
        if not rest:
            rest = words.pop(0)
        length = rest if tokens[index] == "[UNK]" else len(tokens[index].removeprefix("##"))
        offsets.append((sources[done][0], sources[done + length - 1][1]))
        done, rest = done + length, rest - length
    assert not words and not rest
    return offsets
