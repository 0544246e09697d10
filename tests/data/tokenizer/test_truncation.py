import itertools

import pytest

from common.errors import InputError
from data.tokenizer.truncation import kept_lengths


def cut_one_by_one(first, second, room, tie_cuts_first):
    while first + second > room:
        if first > second or (first == second and tie_cuts_first):
            first -= 1
        else:
            second -= 1
    return first, second


def test_the_longer_loses_tokens_and_of_equal_ones_the_second():
    for first, second, room in itertools.product(range(8), range(8), range(16)):
        assert kept_lengths(first, second, room) == cut_one_by_one(first, second, room, False)


def test_longest_first_keeps_an_odd_token_of_the_longer():
    for first, second, room in itertools.product(range(8), range(8), range(16)):
        # Where the first is longer, it should be so at the end; else the second.
        expected = cut_one_by_one(first, second, room, tie_cuts_first=first <= second)
        assert kept_lengths(first, second, room, "longest_first") == expected
    assert kept_lengths(4, 4, 5, "longest_first") == (2, 3)
    assert kept_lengths(5, 4, 5, "longest_first") == kept_lengths(4, 4, 5) == (3, 2)


def test_one_of_two_alone_is_cut():
    assert kept_lengths(5, 3, 6, "only_first") == (3, 3)
    assert kept_lengths(5, 3, 6, "only_second") == (5, 1)
    assert kept_lengths(5, 3, 8, "only_second") == (5, 3)
    assert kept_lengths(5, None, 2, "only_first") == (2, None)
    with pytest.raises(InputError, match=r"only_second.*has 5 tokens.* must be 1 more"):
        kept_lengths(5, 3, 5, "only_second")
    with pytest.raises(InputError, match=r"only_first.*has 3 tokens.* must be 2 more"):
        kept_lengths(5, 3, 2, "only_first")
    with pytest.raises(InputError, match="needs second texts"):
        kept_lengths(5, None, 2, "only_second")
