"""The command line of building records, which build_data.py shares with its cluster version."""

import argparse
import os
import shutil
from pathlib import Path

from absl import logging

from data.building import build_records
from data.corpus import find_corpus
from data.examples import SEGMENT_RULES
from data.records import RECORD_FORMATS, RecordsMetadata
from data.shards import BuildOptions
from errors import InputError
from files import atomic_path

BERT_VOCAB = Path(__file__).parent / "vocab" / "bert_uncased.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options but those on who builds the shards."""
    parser.add_argument(
        "--data-dir", required=True, help="folder of corpus and vocabulary; records go there too"
    )
    parser.set_defaults(corpus=None, vocab_file=None)
    absent = argparse.SUPPRESS  # no "(default: None)" in the help
    parser.add_argument(
        "--corpus",
        default=absent,
        help="OpenWebText's tar or tar.xz, a folder of its *.xz archives, or a .txt file or "
        "folder of them, where a blank line ends a document (default: openwebtext.tar, "
        "openwebtext.tar.xz or openwebtext/ in the data folder)",
    )
    parser.add_argument(
        "--max-seq-length", type=int, default=128, help="most tokens an example has"
    )
    parser.add_argument(
        "--vocab-file",
        default=absent,
        help="WordPiece vocabulary, one token a line (default: vocab.txt in the data folder; "
        "where there is none, BERT's uncased one, which is copied there)",
    )
    parser.add_argument(
        "--cased", action="store_true", help="keep case and accents; needs a cased vocabulary"
    )
    parser.add_argument(
        "--do-strip-accents",
        dest="strip_accents",
        action="store_true",
        default=True,
        help="strip accents when lower-casing",
    )
    parser.add_argument(
        "--no-strip-accents",
        dest="strip_accents",
        action="store_false",
        default=absent,
        help="keep accents when lower-casing",
    )
    parser.add_argument("--seed", type=int, default=42, help="of the examples' random choices")
    parser.add_argument(
        "--segment-rule",
        choices=SEGMENT_RULES,
        default="electra",
        help="how lines are dealt to two segments; convbert: as the released ConvBERT does",
    )
    parser.add_argument(
        "--no-carry-over",
        action="store_true",
        help="throw away what crosses an example's length, as the originals do",
    )
    parser.add_argument(
        "--record-format",
        choices=RECORD_FORMATS,
        default="compact",
        help="original: padded int64 lists, which the original ConvBERT and ELECTRA read",
    )
    parser.add_argument("--num-out-files", type=int, default=1000, help="most shards to write")
    parser.add_argument("--overwrite", action="store_true", help="replace records that are there")


def build(args: argparse.Namespace, num_processes: int = 1, make_workers=None) -> None:
    """Finds corpus and vocabulary, builds the records, and says what came of it.

    Args:
        args: the options of `add_arguments`.
        num_processes, make_workers: who builds the shards; see `build_records`.
    """
    logging.set_verbosity(logging.INFO)
    # Inherited by the worker processes: tokenizing needs no GPU, and no news from TensorFlow.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    data_dir = Path(args.data_dir)
    vocab_file = find_vocab(data_dir, args.vocab_file, args.cased)
    options = BuildOptions(
        vocab_file=str(vocab_file),
        max_seq_length=args.max_seq_length,
        do_lower_case=not args.cased,
        strip_accents=args.strip_accents and not args.cased,
        segment_rule=args.segment_rule,
        carry_over=not args.no_carry_over,
        record_format=args.record_format,
        seed=args.seed,
        num_out_files=args.num_out_files,
    )
    corpus = find_corpus(data_dir, args.corpus)
    records_dir = data_dir / "pretrain_tfrecords"
    logging.info(
        "corpus %s (%.1f MB, %d sources), vocabulary %s",
        corpus.path,
        corpus.size / 1e6,
        len(corpus.sources),
        vocab_file,
    )
    metadata = build_records(
        corpus, options, records_dir, num_processes, args.overwrite, make_workers
    )
    place_vocab(data_dir, vocab_file)
    if metadata is None:
        print(f"{records_dir}: already built with these options")
    else:
        print(summary(metadata))


def find_vocab(data_dir: Path, vocab_file: str | None, cased: bool) -> Path:
    """Chooses the vocabulary: the one named, else the data folder's, else BERT's uncased."""
    if not data_dir.is_dir():
        raise InputError(f"the data folder {data_dir} does not exist.")
    if vocab_file is not None:
        return Path(vocab_file)
    if (data_dir / "vocab.txt").exists():
        return data_dir / "vocab.txt"
    if cased:
        raise InputError(
            f"--cased needs a cased vocabulary: name one with --vocab-file, or put it at "
            f"{data_dir / 'vocab.txt'}."
        )
    return BERT_VOCAB


def place_vocab(data_dir: Path, vocab_file: Path) -> None:
    """Copies the vocabulary to where pretrain.py and finetune.py look for it."""
    place = data_dir / "vocab.txt"
    if not place.exists():
        with atomic_path(place) as temporary:
            shutil.copyfile(vocab_file, temporary)
    elif place.read_bytes() != vocab_file.read_bytes():
        logging.warning(
            "the records' vocabulary %s is not %s, which pre-training would use: set its "
            "`vocab_file`",
            vocab_file,
            place,
        )


def summary(metadata: RecordsMetadata) -> str:
    """Says in a few lines what was built."""
    total = metadata.total
    examples, text_tokens = metadata.num_examples, total("text_tokens")
    kept = metadata.num_tokens - 2 * examples - total("two_segment_examples")
    return (
        f"{metadata.records_dir}: {len(metadata.shards)} shards, {total('bytes') / 1e6:,.1f} MB\n"
        f"text      {total('documents'):,} documents, {total('text_bytes') / 1e6:,.1f} MB, "
        f"{text_tokens:,} tokens, {total('unknown_tokens') / text_tokens:.3%} of them [UNK], "
        f"{1 - kept / text_tokens:.1%} thrown away\n"
        f"examples  {examples:,} with {metadata.num_tokens:,} tokens; "
        f"{total('full_examples') / examples:.1%} are full ({metadata.max_seq_length} tokens), "
        f"{total('two_segment_examples') / examples:.1%} have two segments"
    )
