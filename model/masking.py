"""The random draws of pre-training: the positions to mask, and the tokens to put there."""

import dataclasses
import math

from keras import ops

from model.backends import distribution
from model.config import max_predictions_per_seq
from model.layers import fused

MASK_SHARE = 0.85  # of the chosen positions become [MASK]; the rest keep their token


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that masking treats specially; the defaults are BERT's uncased ones."""

    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103


def gather_positions(sequences, positions):
    """[B, T, H] or [B, T] and positions [B, P] → [B, P, H] or [B, P]."""
    if len(sequences.shape) == 3:
        positions = positions[:, :, None]
    return ops.take_along_axis(sequences, positions, axis=1)


def replace_positions(sequences, positions, weights, replacements):
    """`sequences` [B, T] with `replacements` [B, P] at `positions` wherever `weights` is not 0.

    Positions must be distinct where the weight is not 0. The function sums one-hot rows, because
    the order of a scatter's writes is undefined on some devices. Ids are exact in float32.
    """
    chosen = ops.one_hot(positions, ops.shape(sequences)[1], dtype="float32")  # [B, P, T]
    chosen *= ops.cast(weights > 0, "float32")[:, :, None]
    new = ops.sum(chosen * ops.cast(replacements, "float32")[:, :, None], axis=1)
    return ops.where(ops.sum(chosen, axis=1) > 0, ops.cast(new, sequences.dtype), sequences)


def mask_tokens(inputs: dict, mask_prob: float, special: SpecialTokens, seed) -> dict:
    """Chooses the positions to predict and replaces most of their tokens by [MASK].

    Positions are drawn without replacement. The original draws with replacement and then averages
    the ids of duplicates (`mask` in the release's pretrain_helpers.py).

    Args:
        inputs: `input_ids`, `input_mask`, `segment_ids`, int32 [B, T].
        mask_prob: share of the tokens to mask, counting [CLS] and [SEP] but not padding.
        special: tokens that are never chosen; neither is padding.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        `inputs` and `masked_input_ids` [B, T]; `masked_lm_positions` and `masked_lm_ids`, int32
        [B, P], and `masked_lm_weights`, float32 [B, P]: 1 for a chosen position, 0 for an unused
        entry.
    """
    input_ids = inputs["input_ids"]
    # Ids and positions are exact in float32; TensorFlow would compute int32 on the CPU.
    ids, mask = (ops.cast(inputs[name], "float32") for name in ("input_ids", "input_mask"))
    count = max_predictions_per_seq(input_ids.shape[1], mask_prob)
    candidates = mask > 0
    for token in dataclasses.astuple(special):
        candidates = ops.logical_and(candidates, ids != token)
    tokens = ops.sum(mask, axis=1)
    chosen = ops.clip(ops.round(tokens * mask_prob), 1, count)
    chosen = ops.minimum(chosen, ops.sum(ops.cast(candidates, "float32"), axis=1))
    noise = distribution.uniform_rows(ops.shape(input_ids), seed)
    _, positions = ops.top_k(ops.where(candidates, noise, -1.0), count)
    weights = ops.cast(ops.arange(count, dtype="float32")[None] < chosen[:, None], "float32")
    positions = ops.cast(ops.cast(positions, "float32") * weights, "int32")
    hidden = distribution.uniform_rows(ops.shape(positions), seed) < MASK_SHARE
    hidden = weights * ops.cast(hidden, "float32")
    mask_ids = ops.full_like(weights, special.mask_id)
    return inputs | {
        "masked_input_ids": replace_positions(input_ids, positions, hidden, mask_ids),
        "masked_lm_positions": positions,
        "masked_lm_ids": ops.cast(gather_positions(ids, positions) * weights, "int32"),
        "masked_lm_weights": weights,
    }


def sample_tokens(logits, temperature: float, uniforms, disallowed=None):
    """Draws one token per position from softmax(logits / temperature).

    A uniform number selects a token by the running sum of the probabilities. The search has two
    stages, first among about sqrt(V) blocks and then inside one: short sums are cheap and lose
    little to rounding.

    Args:
        logits: float32 [B, P, V].
        temperature: a number above 0.
        uniforms: float32 [B, P] in [0, 1].
        disallowed: int32 [B, P], one token per position that must not be drawn; or None.

    Returns:
        int32 [B, P], without gradient. A token of probability 0 in float32 is never drawn.
    """
    logits = ops.stop_gradient(logits)
    vocab_size = logits.shape[2]
    if temperature != 1.0:
        logits = logits / temperature
    if disallowed is not None:
        logits -= 1000.0 * ops.one_hot(disallowed, vocab_size, dtype=logits.dtype)
    weights = fused.exponentials(logits)
    width = math.isqrt(vocab_size - 1) + 1  # number of blocks, and size of a block
    padding = ((0, 0), (0, 0), (0, width * width - vocab_size))
    shape = (*ops.shape(logits)[:2], width, width)
    # Block k holds the tokens k, k + width, k + 2 · width, …: the sum over blocks then reads memory
    # in order, and a block is gathered along the last axis.
    weights = ops.reshape(ops.pad(weights, padding), shape)
    sums = ops.sum(weights, axis=2)
    block, rest = _search_running_sum(sums, uniforms * ops.sum(sums, axis=-1))
    blocks = ops.cast(block, "int32")[:, :, None, None]
    inside = ops.take_along_axis(weights, blocks, axis=-1)[..., 0]
    row, _ = _search_running_sum(inside, rest)
    return ops.cast(row * width + block, "int32")


def _search_running_sum(values, targets):
    """Finds where the running sum of `values` [B, P, n] first exceeds `targets` [B, P].

    Rounding may put a target beyond the total, and a parallel running sum is not quite monotone. So
    an index with value 0 is never chosen, and the fallback is the last index with another value.

    Returns:
        Float32 [B, P] each: the index, and the target minus the sum of the values before that
        index.
    """
    count = values.shape[-1]
    indices = ops.arange(count, dtype="float32")  # TensorFlow computes int32 on the CPU
    possible = values > 0
    sums = ops.cumsum(values, axis=-1)
    passed = ops.logical_and(possible, sums > targets[:, :, None])
    first = ops.min(ops.where(passed, indices, float(count)), axis=-1)
    index = ops.minimum(first, ops.max(ops.where(possible, indices, 0.0), axis=-1))
    is_index = indices == index[:, :, None]
    before = ops.sum(ops.where(is_index, sums - values, 0.0), axis=-1)
    return index, targets - before
