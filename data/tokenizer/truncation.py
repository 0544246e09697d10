"""Which tokens a text or a pair keeps where it is too long."""

from common.errors import InputError

STRATEGIES = ("electra", "longest_first", "only_first", "only_second")


def truncate_pair(first, second, max_tokens: int | None, strategy: str = "electra"):
    """Cuts a pair at its ends; as the original does: the longer loses its last until both fit.

    Args:
        first: sequence of token ids.
        second: another, or None.
        max_tokens: the most tokens that both may have together; None leaves them alone.
        strategy: see `kept_lengths`.

    Returns:
        (first, second)

    Raises:
        InputError: see `kept_lengths`.
    """
    if max_tokens is None:
        return first, second
    lengths = len(first), None if second is None else len(second)
    kept_first, kept_second = kept_lengths(*lengths, max_tokens, strategy)
    return first[:kept_first], None if second is None else second[:kept_second]


def kept_lengths(
    first: int, second: int | None, max_tokens: int, strategy: str = "electra"
) -> tuple[int, int | None]:
    """How many tokens each text keeps, of those that both may have together.

    Args:
        first: tokens of the first text.
        second: tokens of the second, or None.
        max_tokens: for both.
        strategy: "electra": the longer loses its last until both fit, and of equal ones the
            second. The others are transformers': "longest_first" does the same, but where both
            are cut and the number is odd, the one that was longer keeps one more token (of equal
            ones the second); "only_first" and "only_second" cut one alone, to one token at least.

    Raises:
        InputError: one text alone cannot lose enough.
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
