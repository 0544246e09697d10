"""Prints examples of a folder of records as text, with the masks that a training step would draw.

    python3 scripts/inspect_data.py --data-dir DATA_DIR

In color on a terminal: special tokens dim, the second segment blue; of the tokens to predict, red
ones are hidden behind [MASK], and yellow ones are kept as they are. Without color, these stand as
{hidden} and {=kept}.
"""

import argparse
import dataclasses
import itertools
import os
import random
import sys
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError

# What a token can be, with its terminal code, and its marks where there are no colors.
STYLES = {
    "special": ("2", "{}"),
    "first": ("", "{}"),
    "second": ("34", "{}"),
    "hidden": ("1;97;41", "{{{}}}"),
    "kept": ("1;30;43", "{{={}}}"),
}
LENGTH_BINS = 8
MOST_EXAMPLES = 1 << 16  # of a shard that are read


def main(arguments: list[str] | None = None) -> None:
    """Reads a shard, prints some examples of it, then the lengths of all."""
    args = parse_arguments(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from data.records import metadata as records

    records_dir = Path(args.records or Path(args.data_dir, "pretrain_tfrecords"))
    metadata = records.load_metadata(records_dir)
    vocab_file = args.vocab_file or os.path.join(args.data_dir, "vocab.txt")
    tokenizer = records.load_tokenizer(metadata, vocab_file)
    metadata = one_shard(metadata, args.shard, args.seed)
    (shard,) = metadata.shards
    count = min(args.num_examples, shard.examples, MOST_EXAMPLES)
    batch, lengths, has_second = read_examples(metadata, args.seed, count)
    masked = draw_masks(batch, tokenizer, args.seed)

    colored = not args.no_color and "NO_COLOR" not in os.environ and sys.stdout.isatty()
    for index in range(count):
        row = {name: array[index] for name, array in masked.items()}
        kinds = token_kinds(row, tokenizer)
        length, predicted = len(kinds), int(row["masked_lm_weights"].sum())
        print(
            f"--- {shard.name}, example {index + 1} of {count}: {length} tokens, "
            f"{int(row['segment_ids'].sum())} of them in the second segment, {predicted} to predict"
        )
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"][:length])
        print(as_text(tokens, kinds, colored), end="\n\n")
    print("to predict:", as_text(["hidden behind [MASK]", "kept"], ["hidden", "kept"], colored))
    print(length_table(lengths, has_second, metadata.max_seq_length))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="holds the records and the vocabulary")
    parser.add_argument("--records", help="their folder (default: DATA_DIR/pretrain_tfrecords)")
    parser.add_argument("--vocab-file", help="(default: DATA_DIR/vocab.txt)")
    parser.add_argument("--num-examples", type=int, default=3, help="to print (default: 3)")
    parser.add_argument("--shard", type=int, help="number of the shard to read (default: any)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of examples, and of the masks"
    )
    parser.add_argument("--no-color", action="store_true", help="marks instead, on a terminal too")
    args = parser.parse_args(arguments)
    if args.num_examples < 1:
        parser.error("--num-examples must be at least 1")
    return args


def one_shard(metadata, number: int | None, seed: int):
    """The metadata of one shard alone: the one numbered so, or any that has examples."""
    if number is None:
        shards = [shard for shard in metadata.shards if shard.examples]
        return dataclasses.replace(metadata, shards=(random.Random(seed).choice(shards),))
    if not 0 <= number < len(metadata.shards):
        raise InputError(
            f"--shard must be from 0 to {len(metadata.shards) - 1}, as the shards in "
            f"{metadata.records_dir} are numbered. Received: {number}"
        )
    if not metadata.shards[number].examples:
        raise InputError(f"the shard {metadata.path(metadata.shards[number])} has no examples.")
    return dataclasses.replace(metadata, shards=(metadata.shards[number],))


def read_examples(metadata, seed: int, count: int):
    """Reads a shard, up to `MOST_EXAMPLES`.

    Returns:
        A batch of `count` examples drawn by `seed`, as NumPy arrays [count, T], and the lengths
        and segments of all: int [N] tokens, bool [N] whether there is a second segment.
    """
    import numpy as np
    import tensorflow as tf

    from data.records import batches
    from data.records import metadata as records

    size = min(metadata.num_examples, MOST_EXAMPLES)
    try:
        (batch,) = batches.evaluation_batches(metadata, size, num_batches=1).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        raise records.explain_data_error(error, metadata) from error
    chosen = np.random.RandomState(seed).choice(size, count, replace=False)
    drawn = {name: array[np.sort(chosen)] for name, array in batch.items()}
    return drawn, batch["input_mask"].sum(axis=1), batch["segment_ids"].any(axis=1)


def draw_masks(batch: dict, tokenizer, seed: int) -> dict:
    """The batch [B, T] with what `model.masking.mask_tokens` adds, as NumPy arrays."""
    import keras

    from model.config import Objective
    from model.masking import SpecialTokens, mask_tokens

    masked = mask_tokens(
        {name: keras.ops.convert_to_tensor(array) for name, array in batch.items()},
        Objective().mask_prob,
        SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id),
        keras.random.SeedGenerator(seed),
    )
    return {name: keras.ops.convert_to_numpy(array) for name, array in masked.items()}


def token_kinds(row: dict, tokenizer) -> list[str]:
    """Says of each token of an example, a row of `draw_masks`, what it is: a name of `STYLES`."""
    specials = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    kinds = []
    for position in range(int(row["input_mask"].sum())):
        if row["input_ids"][position] in specials:
            kinds.append("special")
        else:
            kinds.append("second" if row["segment_ids"][position] else "first")
    for position in row["masked_lm_positions"][row["masked_lm_weights"] > 0]:
        is_hidden = row["masked_input_ids"][position] == tokenizer.mask_id
        kinds[position] = "hidden" if is_hidden else "kept"
    return kinds


def as_text(tokens: list[str], kinds: list[str], colored: bool) -> str:
    """Writes tokens as words, each in the style of its kind; each segment on its line."""
    text, before = "", ""
    for token, kind in zip(tokens, kinds, strict=True):
        is_piece = token.startswith("##") and bool(before)
        if before and not is_piece and token not in (".", ",", "?", "!"):
            text += "\n" if before == "[SEP]" else " "
        code, marks = STYLES[kind]
        shown = token[2:] if is_piece else token
        if not colored:
            text += marks.format(shown)
        else:
            text += f"\033[{code}m{shown}\033[0m" if code else shown
        before = token
    return text


def length_table(lengths, has_second, max_seq_length: int) -> str:
    """A line for each range of lengths, with the number of examples and a bar."""
    count = len(lengths)
    lines = [
        f"{count:,} examples: {lengths.mean():.1f} tokens on average, {has_second.mean():.1%} with "
        "two segments",
        f"{'tokens':>10}{'examples':>12}{'share':>8}",
    ]
    width = -(-(max_seq_length - 1) // LENGTH_BINS)
    bounds = [*range(1, max_seq_length, width), max_seq_length, max_seq_length + 1]
    for first, end in itertools.pairwise(bounds):
        here = int(((lengths >= first) & (lengths < end)).sum())
        label = f"{first}-{end - 1}" if end - first > 1 else f"{first}"
        lines.append(
            f"{label:>10}{here:>12,}{here / count:>8.1%} {'#' * round(40 * here / count)}".rstrip()
        )
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
