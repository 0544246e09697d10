"""Prints examples of records as text, with the masks that a training step would draw.

    python3 scripts/inspect_data.py --data-dir DATA_DIR

On a terminal, unless NO_COLOR is set, special tokens are dim and the second segment is blue. Tokens
to predict are red if they are hidden behind [MASK], and yellow if they stay. Without colors, they
are written as {hidden} and {=kept}.
"""

import argparse
import dataclasses
import itertools
import os
import random
import sys

import bootstrap  # noqa: F401

from common import errors
from common.fields import MAX_SEED, require

# Kind of token → its format on a terminal, and without colors.
STYLES = {
    "special": ("\033[2m{}\033[0m", "{}"),
    "first": ("{}", "{}"),
    "second": ("\033[34m{}\033[0m", "{}"),
    "hidden": ("\033[1;97;41m{}\033[0m", "{{{}}}"),
    "kept": ("\033[1;30;43m{}\033[0m", "{{={}}}"),
}
LENGTH_BINS = 8
MOST_EXAMPLES = 1 << 16  # that are read from a shard


def main(arguments: list[str] | None = None) -> None:
    """Reads a shard; prints some of its examples, then the lengths of all."""
    args = parse_arguments(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from data.records import metadata as records

    records_dir, vocab_file = (
        os.path.join(args.data_dir, name) for name in ("pretrain_tfrecords", "vocab.txt")
    )
    metadata = records.load_metadata(args.records or records_dir)
    tokenizer = records.load_tokenizer(metadata, args.vocab_file or vocab_file)
    metadata = select_shard(metadata, args.shard, args.seed)
    (shard,) = metadata.shards
    batch = read_examples(metadata)
    count = min(args.num_examples, len(batch["input_ids"]))
    masked = draw_masks(batch, count, tokenizer, args.seed)

    colored = "NO_COLOR" not in os.environ and sys.stdout.isatty()
    for index in range(count):
        row = {name: array[index] for name, array in masked.items()}
        kinds = token_kinds(row, tokenizer)
        print(
            f"--- {shard.name}, example {index + 1} of {count}: {len(kinds)} tokens, "
            f"{row['segment_ids'].sum()} of them in the second segment, "
            f"{int(row['masked_lm_weights'].sum())} to predict"
        )
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"][: len(kinds)])
        print(as_text(tokens, kinds, colored), end="\n\n")
    print("to predict:", as_text(["hidden behind [MASK]", "kept"], ["hidden", "kept"], colored))
    print(length_table(batch, metadata.max_seq_length))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", required=True, help="directory of the records and the vocabulary")
    add("--records", help="directory of the records (default: DATA_DIR/pretrain_tfrecords)")
    add("--vocab-file", help="vocabulary of the records (default: DATA_DIR/vocab.txt)")
    add("--num-examples", type=int, default=3, help="examples to print (default: 3)")
    add("--shard", type=int, help="number of the shard to read (default: any)")
    add("--seed", type=int, default=0, help="seed of the choice of examples and of the masks")
    args = parser.parse_args(arguments)
    require(args.num_examples >= 1, "num_examples", "at least 1", args.num_examples)
    require(0 <= args.seed <= MAX_SEED, "seed", f"from 0 to {MAX_SEED}", args.seed)
    return args


def select_shard(metadata, number: int | None, seed: int):
    """Returns the metadata of one shard: the given one, or a random one that has examples."""
    allowed = [index for index, shard in enumerate(metadata.shards) if shard.examples]
    if number is None:
        number = random.Random(seed).choice(allowed)
    expected = f"a shard with examples, from 0 to {len(metadata.shards) - 1}"
    require(number in allowed, "shard", expected, number, metadata.records_dir)
    return dataclasses.replace(metadata, shards=(metadata.shards[number],))


def read_examples(metadata) -> dict:
    """Reads up to `MOST_EXAMPLES` of a shard: a batch of NumPy arrays [B, T]."""
    import tensorflow as tf

    from data.records import batches
    from data.records import metadata as records

    size = min(metadata.num_examples, MOST_EXAMPLES)
    try:
        (batch,) = batches.evaluation_batches(metadata, size, num_batches=1).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise records.explain_data_error(error, metadata) from error
    return batch


def draw_masks(batch: dict, count: int, tokenizer, seed: int) -> dict:
    """Draws `count` examples of a batch; adds what `model.masking.mask_tokens` returns."""
    import keras
    import numpy as np

    from model.config import Objective
    from model.masking import SpecialTokens, mask_tokens

    size = len(batch["input_ids"])
    drawn = np.sort(np.random.RandomState(seed).choice(size, count, replace=False))
    masked = mask_tokens(
        {name: keras.ops.convert_to_tensor(array[drawn]) for name, array in batch.items()},
        Objective().mask_prob,
        SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id),
        keras.random.SeedGenerator(seed),
    )
    return {name: keras.ops.convert_to_numpy(array) for name, array in masked.items()}


def token_kinds(row: dict, tokenizer) -> list[str]:
    """Returns the kind of each token of an example, a key of `STYLES`."""
    special = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    length = int(row["input_mask"].sum())
    kinds = ["second" if segment else "first" for segment in row["segment_ids"][:length]]
    for position, token in enumerate(row["input_ids"][:length]):
        if token in special:
            kinds[position] = "special"
    for position in row["masked_lm_positions"][row["masked_lm_weights"] > 0]:
        is_hidden = row["masked_input_ids"][position] == tokenizer.mask_id
        kinds[position] = "hidden" if is_hidden else "kept"
    return kinds


def as_text(tokens: list[str], kinds: list[str], colored: bool) -> str:
    """Joins tokens into words, each token in the style of its kind; one line per segment."""
    text, before = "", ""
    for token, kind in zip(tokens, kinds, strict=True):
        continues = token.startswith("##") and bool(before)
        if before and not continues and token not in (".", ",", "?", "!"):
            text += "\n" if before == "[SEP]" else " "
        color, marks = STYLES[kind]
        text += (color if colored else marks).format(token[2:] if continues else token)
        before = token
    return text


def length_table(batch: dict, max_seq_length: int) -> str:
    """A line per range of lengths, with the number of examples and a bar."""
    lengths, has_second = batch["input_mask"].sum(axis=1), batch["segment_ids"].any(axis=1)
    count = len(lengths)
    lines = [
        f"{count:,} examples: {lengths.mean():.1f} tokens on average, {has_second.mean():.1%} with "
        "two segments",
        f"{'tokens':>10}{'examples':>12}{'share':>8}",
    ]
    width = -(-(max_seq_length - 1) // LENGTH_BINS)
    bounds = [*range(1, max_seq_length, width), max_seq_length, max_seq_length + 1]
    for first, end in itertools.pairwise(bounds):
        inside = int(((lengths >= first) & (lengths < end)).sum())
        label = f"{first}-{end - 1}" if end - first > 1 else f"{first}"
        share = inside / count
        lines.append(f"{label:>10}{inside:>12,}{share:>8.1%} {'#' * round(40 * share)}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
