"""The command line for building records, shared by build_data.py and its cluster version."""

import argparse
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from common.errors import InputError
from common.fields import add_settings, chosen_settings, require
from common.files import atomic_path
from common.remote import RemotePath, as_path, is_url
from data.corpus.readers import ReadOptions
from data.corpus.sources import find_corpus
from data.records.options import BuildOptions, Part
from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_options

if TYPE_CHECKING:
    from data.records.metadata import RecordsMetadata

BERT_VOCAB = Path(__file__).parents[1] / "vocab" / "bert_uncased.txt"
# What one process builds while another starts: importing TensorFlow takes seconds.
BYTES_PER_PROCESS = 1 << 22
# A vocabulary made for the text leaves few words unknown (BERT's leaves 0.006 % of the tokens in
# English web text); a vocabulary made for another script leaves nearly all.
MAX_UNKNOWN_RATE = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options, except those about where the shards are built."""
    add, flag = parser.add_argument, functools.partial(parser.add_argument, action="store_true")
    add(
        "--data-dir",
        required=True,
        help="directory of the corpus, the vocabulary and the records, or its URL (s3://BUCKET/PATH)",
    )
    add_corpus_arguments(parser)
    add_settings(parser, BuildOptions)
    add(
        "--vocab-file",
        help="WordPiece vocabulary, one token per line (default: vocab.txt in the data directory; "
        "if there is no such file, BERT's uncased vocabulary, which is copied there)",
    )
    flag(
        "--cased",
        help="keep case and accents (the default if tokenizer_config.json beside vocab.txt sets "
        "do_lower_case to false)",
    )
    flag("--no-carry-over", help="drop text that does not fit into an example, as the originals do")
    flag("--overwrite", help="replace existing records")
    add_accents_argument(parser)
    flag("--do-strip-accents", dest="strip_accents", default=True, help="strip them (the default)")


def add_accents_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--no-strip-accents`."""
    options = {"dest": "strip_accents", "action": "store_false"}
    parser.add_argument("--no-strip-accents", **options, help="keep accents when lower-casing")


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options about the corpus and how its files are read."""
    flag = functools.partial(parser.add_argument, action="store_true")
    parser.add_argument(
        "--corpus",
        help="a file, a directory or a quoted glob pattern, here, in an object store "
        "(s3://BUCKET/PATH) or on the Hugging Face hub (hf://datasets/OWNER/NAME/PATH): "
        "OpenWebText's .tar, .tar.xz or .xz archives; .txt or .jsonl, plain or with .bz2, .gz, .xz "
        "or .zst; .parquet (default: openwebtext.tar, openwebtext.tar.xz, openwebtext/ or subsets/ "
        "in the data directory)",
    )
    add_settings(parser, ReadOptions)
    flag(
        "--no-blanks-separate-docs",
        help="one document per .txt file: blank lines do not end a document",
    )
    flag("--skip-damaged", help="skip the rest of a damaged file instead of failing")


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Returns the options of `add_corpus_arguments`, except `--corpus`."""
    return ReadOptions(
        **chosen_settings(args, ReadOptions),
        blanks_separate_docs=not args.no_blanks_separate_docs,
        skip_damaged=args.skip_damaged,
    )


def build(
    args: argparse.Namespace,
    num_processes: int | None = None,
    make_workers=None,
    part: Part | None = None,
    finish_only: bool = False,
) -> None:
    """Finds corpus and vocabulary, builds the records, and prints a summary; see `build_records`.

    `args` are the options of `add_arguments`. By default there are as many processes as CPUs, but
    fewer for a small corpus. With `part`, see `build_part`.
    """
    from data.records.build import build_part, build_records

    logging.set_verbosity(logging.INFO)
    # The worker processes inherit this: tokenizing does not need a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    data_dir = as_path(args.data_dir)
    if args.overwrite and (part or finish_only):
        raise InputError(
            "--overwrite would delete what other parts built. Remove "
            f"{data_dir / 'pretrain_tfrecords'} before the first part instead."
        )
    vocab_file = find_vocab(data_dir, args.vocab_file, args.cased)
    options = BuildOptions(
        vocab_file=str(vocab_file),
        **tokenizer_options(vocab_file, args.cased, args.strip_accents),
        carry_over=not args.no_carry_over,
        **chosen_settings(args, BuildOptions),
    )
    if not (data_dir / "vocab.txt").exists():
        _config_to_copy(data_dir, vocab_file)
    corpus = find_corpus(data_dir, args.corpus, read_options(args))
    records_dir = data_dir / "pretrain_tfrecords"
    count = len(corpus.sources)
    name = corpus.origin.get("corpus", corpus.path)
    logging.info("corpus %s: %.1f MB, %d sources", name, corpus.size / 1e6, count)
    logging.info("vocabulary %s", vocab_file)
    if num_processes is None:
        cpus = len(os.sched_getaffinity(0))  # a batch job often has only some of the machine's
        num_processes = min(cpus, 1 + corpus.size // BYTES_PER_PROCESS)
    require(num_processes >= 1, "num_processes", "at least 1", num_processes)
    if part:
        shards = build_part(corpus, options, records_dir, part, num_processes)
        done = f"part {part}, {len(shards)} shards" if shards is not None else "complete"
        print(f"{records_dir}: {done}")
        return
    metadata = build_records(
        corpus, options, records_dir, num_processes, args.overwrite, make_workers, finish_only
    )
    copy_vocab(data_dir, vocab_file)
    if metadata is None:
        print(f"{records_dir}: already built with these options")
    else:
        print(summary(metadata))


def tokenizer_options(
    vocab_file: Path | RemotePath, cased: bool, strip_accents: bool
) -> dict[str, bool]:
    """Returns do_lower_case and strip_accents: as requested, else as tokenizer_config.json has it.

    A request that contradicts tokenizer_config.json is an `InputError`.
    """
    config = vocab_file.with_name(CONFIG_FILE)
    options = stated_options(config) if vocab_file.name == "vocab.txt" else {}
    if cased or not strip_accents:
        option, name = "--no-strip-accents", "strip_accents"
        if cased:
            option, name = "--cased", "do_lower_case"
        if options.get(name):
            raise InputError(
                f"{option} does not fit the vocabulary {vocab_file}: `{name}` is "
                f"{json.dumps(options[name])} in {config}. Leave {option} out, or choose another "
                "vocabulary."
            )
        options[name] = False
    lower = options.get("do_lower_case", True)
    return {"do_lower_case": lower, "strip_accents": options.get("strip_accents", True) and lower}


def find_vocab(
    data_dir: Path | RemotePath, vocab_file: str | None, cased: bool
) -> Path | RemotePath:
    """Chooses the vocabulary: the given one, else the data directory's, else BERT's uncased one."""
    if not is_url(data_dir) and not data_dir.is_dir():
        raise InputError(f"the data directory {data_dir} does not exist.")
    if vocab_file is not None:
        return as_path(vocab_file)
    path = data_dir / "vocab.txt"
    if not path.exists() and cased:
        raise InputError(
            f"--cased needs a cased vocabulary: choose one with --vocab-file, or put it at {path}."
        )
    return path if path.exists() else BERT_VOCAB


def copy_vocab(data_dir: Path | RemotePath, vocab_file: Path | RemotePath) -> None:
    """Copies the vocabulary to where pretrain.py and finetune.py look for it."""
    path = data_dir / "vocab.txt"
    if not path.exists():
        config = _config_to_copy(data_dir, vocab_file)
        copies = [(config, CONFIG_FILE)] if config else []
        for file, name in [*copies, (vocab_file, path.name)]:
            with atomic_path(data_dir / name) as temporary:
                Path(temporary).write_bytes(file.read_bytes())
    elif path.read_bytes() != vocab_file.read_bytes():
        logging.warning(
            "the records were built with the vocabulary %s, but pre-training would use %s: set "
            "its `vocab_file`",
            vocab_file,
            path,
        )


def _config_to_copy(data_dir, vocab_file):
    """The tokenizer_config.json that belongs to a vocabulary; None without one.

    If the data directory has a different one, but no vocabulary, it is an `InputError`.
    """
    config, there = vocab_file.with_name(CONFIG_FILE), data_dir / CONFIG_FILE
    config = config if vocab_file.name == "vocab.txt" and config.exists() else None
    if there.exists() and not (config and config.read_bytes() == there.read_bytes()):
        raise InputError(
            f"{there} is not that of the vocabulary {vocab_file}, which would be copied beside it. "
            "Move it away, or put its own vocab.txt there."
        )
    return config


def summary(metadata: "RecordsMetadata") -> str:
    """Describes what was built in a few lines, and warns if the vocabulary does not fit."""
    from data.records.metadata import METADATA_FILE

    total = metadata.total
    examples, tokens, text_tokens = map(total, ("examples", "tokens", "text_tokens"))
    double = total("two_segment_examples") / examples
    kept = tokens - 2 * examples - total("two_segment_examples")
    unknown_rate = total("unknown_tokens") / text_tokens
    lines = [
        f"{metadata.records_dir}: {len(metadata.shards)} shards, {total('bytes') / 1e6:,.1f} MB, "
        f"{total('bytes') / tokens:.2f} bytes per token",
        f"text      {total('documents'):,} documents, {total('text_bytes') / 1e6:,.1f} MB, "
        f"{text_tokens:,} tokens: {unknown_rate:.3%} are [UNK], "
        f"{1 - kept / text_tokens:.1%} were dropped",
        f"examples  {examples:,} with {tokens:,} tokens: "
        f"{total('full_examples') / examples:.1%} are full ({metadata.max_seq_length} tokens), "
        f"{double:.1%} have two segments, {1 - double:.1%} have one",
    ]
    if skipped := metadata.skipped:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        lines.append(f"skipped   {counts} (see {METADATA_FILE})")
    if unknown_rate > MAX_UNKNOWN_RATE:
        logging.warning(
            "%.1f %% of the tokens are [UNK], so the model cannot tell them apart: the vocabulary "
            "does not fit the text. scripts/train_vocab.py makes one that does.",
            100 * unknown_rate,
        )
    return "\n".join(lines)
