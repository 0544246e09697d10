"""Builds the pre-training records of a corpus: DATA_DIR/pretrain_tfrecords."""

import argparse

from common import errors
from data.records.command_line import add_arguments, build


def main():
    """Builds the records in processes of this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--num-processes",
        type=int,
        help="processes that build shards (default: one per CPU, fewer for a small corpus)",
    )
    args = parser.parse_args()
    build(args, args.num_processes)


if __name__ == "__main__":
    errors.run(main)
