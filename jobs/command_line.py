"""The command line that the jobs have in common."""

import argparse
import dataclasses
import json
from typing import Any

from common.fields import hyperparameter_table

_DRY_RUN = "read and check everything, make the model, run one step, and write nothing"


def job_parser(
    description: str, config_class: type, dry_run: str = _DRY_RUN
) -> argparse.ArgumentParser:
    """A parser with the options that all jobs share, and all hyper-parameters in its help.

    `dry_run` says what --dry-run does.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"hyper-parameters:\n\n{hyperparameter_table(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir", required=True, help="directory of all data and models, or its URL"
    )
    parser.add_argument(
        "--model-name", type=_name, required=True, help="name of the directory in models/"
    )
    parser.add_argument("--hparams", default="{}", help="a JSON object, or a file with one")
    parser.add_argument(
        "--print-config", action="store_true", help="print the hyper-parameters as JSON, and exit"
    )
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    return parser


def print_config(*configs: Any) -> None:
    """Prints a job's hyper-parameters as `--hparams` takes them; for several jobs, a list."""
    objects = [dataclasses.asdict(config) for config in configs]
    print(json.dumps(objects if len(objects) > 1 else objects[0], indent=2))


def _name(text):
    if text.strip("./ ") == "":
        raise argparse.ArgumentTypeError(f"expected a name, got {text!r}")
    return text
