"""Builds the pre-training records of a corpus: DATA_DIR/pretrain_tfrecords."""

import argparse

from common import errors
from data.records.command_line import add_arguments, build
from data.records.options import Part


def main():
    """Builds the records in processes of this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--num-processes",
        type=int,
        help="processes that build shards (default: one per CPU, fewer for a small corpus)",
    )
    array = parser.add_mutually_exclusive_group()
    array.add_argument(
        "--part",
        type=Part.parse,
        metavar="K/N",
        help="build only the K-th of N equal shares of the shards, from 1, such as 3/64: for jobs "
        "on many machines with a common data directory, at the same time or not",
    )
    array.add_argument(
        "--finish",
        action="store_true",
        help="build nothing: check that all parts are there, and write metadata.json",
    )
    args = parser.parse_args()
    build(args, args.num_processes, part=args.part, finish_only=args.finish)


if __name__ == "__main__":
    errors.run(main)
