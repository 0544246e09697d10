"""The command line of building records, which build_data.py shares with its cluster version."""

import argparse
import json
import os
import shutil
from pathlib import Path

from absl import logging

from common.errors import InputError
from common.files import atomic_path
from data.corpus.readers import Reading
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.build_shard import BuildOptions
from data.records.examples import SEGMENT_RULES
from data.records.metadata import METADATA_FILE, RECORD_FORMATS, RecordsMetadata
from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_options

BERT_VOCAB = Path(__file__).parents[1] / "vocab" / "bert_uncased.txt"
# A vocabulary made for a text leaves few words unknown (BERT's, of English web text, 0.006 % of
# the tokens); one made for another script, nearly all.
MAX_UNKNOWN_RATE = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options but those on who builds the shards."""
    parser.add_argument(
        "--data-dir", required=True, help="folder of corpus and vocabulary; records go there too"
    )
    add_corpus_arguments(parser)
    parser.set_defaults(vocab_file=None)
    absent = argparse.SUPPRESS  # no "(default: None)" in the help
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
        "--cased",
        action="store_true",
        help="keep case and accents (also where tokenizer_config.json beside vocab.txt says so)",
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


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the text is, and how it is read."""
    parser.set_defaults(corpus=None)
    parser.add_argument(
        "--corpus",
        default=argparse.SUPPRESS,
        help="a file, a folder or a quoted glob pattern: OpenWebText's .tar, .tar.xz or .xz "
        "archives; .txt or .jsonl, plain or with .gz, .xz or .zst; .parquet (default: "
        "openwebtext.tar, openwebtext.tar.xz, openwebtext/ or subsets/ in the data folder)",
    )
    parser.add_argument(
        "--text-field",
        default=Reading.text_field,
        help="the field of .jsonl files that holds the text",
    )
    parser.add_argument(
        "--text-column",
        default=Reading.text_column,
        help="the column of .parquet files that holds the text",
    )
    parser.add_argument(
        "--no-blanks-separate-docs",
        action="store_true",
        help="a document of a .txt file ends with the file only, not at a blank line",
    )
    parser.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave out what a damaged file holds after the damage, which else is an error",
    )


def reading(args: argparse.Namespace) -> Reading:
    """Returns what `add_corpus_arguments` says on how files are read."""
    return Reading(
        args.text_field, args.text_column, not args.no_blanks_separate_docs, args.skip_damaged
    )


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
        **tokenizer_options(vocab_file, args.cased, args.strip_accents),
        segment_rule=args.segment_rule,
        carry_over=not args.no_carry_over,
        record_format=args.record_format,
        seed=args.seed,
        num_out_files=args.num_out_files,
    )
    corpus = find_corpus(data_dir, args.corpus, reading(args))
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
        warn_of_unknown(metadata)


def tokenizer_options(vocab_file: Path, cased: bool, strip_accents: bool) -> dict[str, bool]:
    """Returns do_lower_case and strip_accents as asked for, else as stated beside vocab.txt.

    Raises:
        InputError: what is asked for is not what is stated.
    """
    stated = {}
    config = vocab_file.with_name(CONFIG_FILE)
    if vocab_file.name == "vocab.txt":
        stated = stated_options(config)
    asked = {}
    if cased:
        asked = {"--cased": ("do_lower_case", False)}
    elif not strip_accents:
        asked = {"--no-strip-accents": ("strip_accents", False)}
    for option, (name, value) in asked.items():
        if stated.get(name, value) != value:
            raise InputError(
                f"{option} does not fit the vocabulary {vocab_file}: {config} says that "
                f"{name} is {json.dumps(stated[name])}. Leave the option out, or name another "
                "vocabulary."
            )
    options = stated | dict(asked.values())
    lower = options.get("do_lower_case", True)
    return {"do_lower_case": lower, "strip_accents": options.get("strip_accents", True) and lower}


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
        copies = {place: vocab_file}
        if vocab_file.name == place.name and vocab_file.with_name(CONFIG_FILE).exists():
            copies[data_dir / CONFIG_FILE] = vocab_file.with_name(CONFIG_FILE)
        for copy, original in reversed(copies.items()):
            with atomic_path(copy) as temporary:
                shutil.copyfile(original, temporary)
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
    double = total("two_segment_examples") / examples
    kept = metadata.num_tokens - 2 * examples - total("two_segment_examples")
    lines = [
        f"{metadata.records_dir}: {len(metadata.shards)} shards, {total('bytes') / 1e6:,.1f} MB, "
        f"{total('bytes') / metadata.num_tokens:.2f} bytes a token",
        f"text      {total('documents'):,} documents, {total('text_bytes') / 1e6:,.1f} MB, "
        f"{text_tokens:,} tokens, {unknown_rate(metadata):.3%} of them [UNK], "
        f"{1 - kept / text_tokens:.1%} thrown away",
        f"examples  {examples:,} with {metadata.num_tokens:,} tokens; "
        f"{total('full_examples') / examples:.1%} are full ({metadata.max_seq_length} tokens), "
        f"{double:.1%} have two segments, {1 - double:.1%} a single one",
    ]
    if metadata.skipped:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in metadata.skipped.items())
        lines.append(f"skipped   {counts} (see {METADATA_FILE})")
    return "\n".join(lines)


def unknown_rate(metadata: RecordsMetadata) -> float:
    """Returns the share of the text's tokens that are [UNK]."""
    return metadata.total("unknown_tokens") / metadata.total("text_tokens")


def warn_of_unknown(metadata: RecordsMetadata) -> None:
    """Warns of a vocabulary that does not fit the text."""
    rate = unknown_rate(metadata)
    if rate > MAX_UNKNOWN_RATE:
        logging.warning(
            "%.1f %% of the tokens are [UNK]: words that the vocabulary has no pieces for, all "
            "the same to a model. It does not fit the text; scripts/train_vocab.py makes one "
            "that does.",
            100 * rate,
        )
