"""The command line that pretrain.py and finetune.py have in common."""

import argparse

from common.fields import hyperparameter_table


def job_parser(description: str, config_class: type) -> argparse.ArgumentParser:
    """A parser for the options of both jobs; its help ends with all hyper-parameters."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"hyper-parameters:\n\n{hyperparameter_table(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", required=True, help="directory of all data and models")
    parser.add_argument(
        "--model-name", type=_name, required=True, help="name of the directory in models/"
    )
    parser.add_argument("--hparams", default="{}", help="a JSON object, or a file with one")
    return parser


def _name(text):
    if text.strip("./ ") == "":
        raise argparse.ArgumentTypeError(f"expected a name, got {text!r}")
    return text
