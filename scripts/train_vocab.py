"""Makes a WordPiece vocabulary out of a corpus, for a language or a field that has none.

    python3 scripts/train_vocab.py --data-dir DATA_DIR --corpus my_texts/ --cased

Reads what build_data.py reads, and writes DATA_DIR/vocab.txt, where the other scripts look for it,
and DATA_DIR/tokenizer_config.json, which says whether it is cased; transformers finds there all it
needs for the same tokenizer.
"""

import argparse
import os
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from data.records.command_line import add_corpus_arguments, reading

# More words than these in a thousand as [UNK], and the alphabet is too small for the text.
MAX_UNKNOWN_PER_MILLE = 5


def main(arguments: list[str] | None = None) -> None:
    """Counts the corpus's words, merges their pieces, and says how the result fits the text."""
    args = parse_arguments(arguments)
    output = Path(args.output or args.data_dir)
    if not output.is_dir():
        raise InputError(f"the folder {output} does not exist.")
    if (output / "vocab.txt").exists() and not args.overwrite:
        raise InputError(f"{output / 'vocab.txt'} exists. Use --overwrite to replace it.")

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging

    from data import ConvBertTokenizer
    from data.corpus.sources import find_corpus
    from data.tokenizer import train_vocab

    logging.set_verbosity(logging.INFO)
    options = train_vocab.VocabularyOptions(
        vocab_size=args.vocab_size,
        do_lower_case=not args.cased,
        strip_accents=args.strip_accents and not args.cased,
        num_unused=args.num_unused,
        min_frequency=args.min_frequency,
        limit_alphabet=args.limit_alphabet,
        max_megabytes=args.max_megabytes,
    )
    counts = train_vocab.count_words(
        find_corpus(args.data_dir, args.corpus, reading(args)), options
    )
    tokens = train_vocab.train_vocabulary(counts, options)
    tokenizer = ConvBertTokenizer(tokens, options.do_lower_case, options.strip_accents)
    fit = train_vocab.measure_fit(tokenizer, counts)
    tokenizer.save_pretrained(output)
    print(summary(output, tokenizer, fit))
    warn(args, tokenizer, fit)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="folder of the corpus")
    add_corpus_arguments(parser)
    parser.add_argument(
        "--output",
        help="folder for vocab.txt, tokenizer_config.json, … (default: the data folder)",
    )
    parser.add_argument("--vocab-size", type=int, default=30_522, help="tokens (default: 30522)")
    parser.add_argument("--cased", action="store_true", help="keep case and accents")
    parser.add_argument(
        "--no-strip-accents",
        dest="strip_accents",
        action="store_false",
        help="keep accents when lower-casing",
    )
    parser.add_argument(
        "--num-unused",
        type=int,
        default=0,
        help="tokens [unused0], [unused1], … for uses of your own, after the special ones "
        "(default: 0)",
    )
    parser.add_argument(
        "--min-frequency",
        type=int,
        default=2,
        help="how often a pair of pieces must occur to become one (default: 2)",
    )
    parser.add_argument(
        "--limit-alphabet",
        type=int,
        help="most characters beside ASCII's digits and symbols (default: the commonest, as many "
        "as make up 99.999%% of the text)",
    )
    parser.add_argument(
        "--max-megabytes",
        type=int,
        default=1000,
        help="text to read of a larger corpus: parts of it from all over (default: 1000)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a vocabulary")
    return parser.parse_args(arguments)


def summary(output: Path, tokenizer, fit) -> str:
    """Says in a few lines what was made."""
    return (
        f"{output / 'vocab.txt'}: {tokenizer.vocab_size:,} tokens\n"
        f"text      {fit.words:,} words, {fit.tokens / fit.words:.3f} tokens a word, "
        f"{fit.unknown_words / fit.words:.3%} of the words [UNK]"
    )


def warn(args: argparse.Namespace, tokenizer, fit) -> None:
    """Says what is not as it was asked for, or as it should be."""
    from absl import logging

    if tokenizer.vocab_size < args.vocab_size:
        logging.warning(
            "the text has pieces for %d tokens only, not %d: give it more text, or a lower "
            "--min-frequency",
            tokenizer.vocab_size,
            args.vocab_size,
        )
    if 1000 * fit.unknown_words > MAX_UNKNOWN_PER_MILLE * fit.words:
        logging.warning(
            "%.1f%% of the words are [UNK], for characters that are not in the alphabet: raise "
            "--limit-alphabet, or clean the text",
            100 * fit.unknown_words / fit.words,
        )


if __name__ == "__main__":
    errors.run(main)
