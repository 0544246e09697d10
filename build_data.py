"""Builds the pre-training records of a corpus: DATA_DIR/pretrain_tfrecords."""

import argparse
import os

from common import errors
from data.records.command_line import add_arguments, build


def main():
    """Builds the records with processes of this machine."""
    args = parse_arguments()
    build(args, args.num_processes)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--num-processes", type=int, default=os.cpu_count(), help="processes that build shards"
    )
    return parser.parse_args()


if __name__ == "__main__":
    errors.run(main)
