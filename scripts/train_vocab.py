"""Trains a WordPiece vocabulary on a corpus, for a language or a field that does not have one.

    python3 scripts/train_vocab.py --data-dir DATA_DIR --corpus my_texts/ --cased

Reads what build_data.py reads. Writes DATA_DIR/vocab.txt, where the other scripts look for it, and
DATA_DIR/tokenizer_config.json, which records whether it is cased; transformers can load both.
"""

import argparse
import os

import bootstrap  # noqa: F401

from common import errors, files, hub, remote
from common.errors import InputError
from common.fields import add_settings, chosen_settings
from data.records.command_line import add_accents_argument, add_corpus_arguments, read_options
from data.tokenizer.vocab_options import VocabularyOptions

# If a larger share of the words is [UNK], the alphabet is too small for the text.
MAX_UNKNOWN_RATE = 0.005


def main(arguments: list[str] | None = None) -> None:
    """Counts the words of the corpus, merges their parts, and reports how the result fits."""
    args = parse_arguments(arguments)
    output = remote.as_path(args.output or args.data_dir)
    if not remote.is_url(output) and not output.is_dir():
        raise InputError(f"the directory {output} does not exist.")
    for name in hub.SMALL_FILES[1:]:  # of a tokenizer
        if (output / name).exists() and not args.overwrite:
            raise InputError(f"{output / name} exists. Use --overwrite to replace it.")
    files.require_writable(output)

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging

    from data import ConvBertTokenizer
    from data.corpus.sources import find_corpus
    from data.tokenizer import train_vocab

    logging.set_verbosity(logging.INFO)
    options = VocabularyOptions(
        do_lower_case=not args.cased,
        strip_accents=args.strip_accents and not args.cased,
        **chosen_settings(args, VocabularyOptions),
    )
    corpus = find_corpus(args.data_dir, args.corpus, read_options(args))
    counts = train_vocab.count_words(corpus, options)
    tokens = train_vocab.train_vocabulary(counts, options)
    tokenizer = ConvBertTokenizer(tokens, options.do_lower_case, options.strip_accents)
    fit = train_vocab.measure_fit(tokenizer, counts)
    tokenizer.save_pretrained(output)

    unknown_rate = fit.unknown_words / fit.words
    print(
        f"{output / 'vocab.txt'}: {tokenizer.vocab_size:,} tokens\n"
        f"text      {fit.words:,} words, {fit.tokens / fit.words:.3f} tokens per word, "
        f"{unknown_rate:.3%} of the words are [UNK]"
    )
    if tokenizer.vocab_size < args.vocab_size:
        logging.warning(
            "the text is enough for %d tokens, not %d: add more text, or lower --min-frequency",
            tokenizer.vocab_size,
            args.vocab_size,
        )
    if unknown_rate > MAX_UNKNOWN_RATE:
        logging.warning(
            "%.1f%% of the words are [UNK], because the alphabet does not contain all of their "
            "characters: raise --limit-alphabet, or clean the text",
            100 * unknown_rate,
        )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", required=True, help="directory of the corpus, or its URL")
    add_corpus_arguments(parser)
    add("--output", help="directory to write to (default: the data directory)")
    add("--cased", action="store_true", help="keep case and accents")
    add_accents_argument(parser)
    add_settings(parser, VocabularyOptions)
    add("--overwrite", action="store_true", help="replace an existing vocabulary")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    errors.run(main)
