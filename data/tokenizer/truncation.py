"""How many tokens a text, or each text of a pair, keeps where they are too long."""

from common.errors import InputError

STRATEGIES = ("electra", "longest_first", "only_first", "only_second")


def kept_lengths(
    first: int, second: int | None, max_tokens: int, strategy: str = "electra"
) -> tuple[int, int | None]:
    """Returns how many of its tokens each text keeps, so that both fit into `max_tokens`.

    `first` and `second` are the texts' numbers of tokens; None if there is no second text.

    With the strategy "electra", the longer text loses its last token until both fit; if they are
    equally long, the second text does. The other strategies are those of transformers.
    "longest_first" does the same, except if both texts are cut and `max_tokens` is odd: then the
    text that was longer keeps one more token (the second, if they were equally long). "only_first"
    and "only_second" cut one text, to one token at least.

    Raises:
        InputError: the one text that may be cut is missing, or cannot be cut enough.
    """
    if first + (second or 0) <= max_tokens:
        return first, second
    if strategy in ("only_first", "only_second"):
        return _cut_one(first, second, max_tokens, strategy)
    if second is None:
        return max_tokens, None
    if strategy == "longest_first" and first <= second:
        kept = min(first, max_tokens // 2)
    else:
        kept = min(first, max(max_tokens - second, (max_tokens + 1) // 2))
    return kept, max_tokens - kept


def _cut_one(first, second, max_tokens, strategy):
    uncut = (second or 0) if strategy == "only_first" else first
    if second is None and strategy == "only_second":
        raise InputError('`truncation="only_second"` needs second texts')
    if uncut >= max_tokens:
        raise InputError(
            f'`truncation="{strategy}"` leaves the other text whole, which has {uncut} tokens; '
            f"with special tokens, `max_length` must be {uncut + 1 - max_tokens} more at least"
        )
    kept = max_tokens - uncut
    return (kept, second) if strategy == "only_first" else (first, kept)
