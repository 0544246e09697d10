"""Functions that the pipelines' scripts share: options, loading a pipeline, writing results."""

import argparse
import os
from collections.abc import Iterable
from typing import Any

from common import console, files, hub
from common.errors import InputError
from model.config import PRECISIONS

# Inputs of more rows than this have a progress bar.
MANY = 1024


def make_parser(description: str, what: str, columns: str) -> argparse.ArgumentParser:
    """A parser with MODEL, --revision, the texts, and how to read them."""
    parser = model_parser(description, what)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: read --input")
    parser.add_argument("--input", metavar="FILE", help="texts (default: standard input)")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        help=f"{columns} of the input: names in its header, or fields of JSON lines; numbers from "
        "1 if it has no header",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=PRECISIONS,
        default="float32",
        help="precision of the computation; half precision is for GPUs, and for CPUs that multiply "
        "in it (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-bad-texts",
        dest="errors",
        action="store_const",
        const="skip",
        default="raise",
        help="leave out blank lines and other rows with wrong texts, and say so in the output",
    )
    return parser


def model_parser(description: str, what: str) -> argparse.ArgumentParser:
    """A parser with MODEL and --revision; see `find_model`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"directory of {what}, its URL, or its name on the Hugging Face hub",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    return parser


def add_vector_options(parser: argparse.ArgumentParser) -> None:
    """Adds --pooling and --layer; see `FeatureExtractor`."""
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        default="mean",
        help="the mean of all tokens' vectors, or the vector of [CLS] (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-1,
        help="1 is the first layer, 0 the embeddings, -1 the last layer (default: %(default)s)",
    )


def find_model(args: argparse.Namespace, weights: bool = True) -> str:
    """The directory of MODEL; a model on the hub is downloaded, perhaps without its weights."""
    return hub.resolve(args.model, args.revision, weights=weights)


def check_output(path: str | None, ending: str) -> None:
    """Checks the ending and the directory of the file to write, before the work starts."""
    if path and not path.endswith(ending):
        raise InputError(f"`--output` must end in {ending}. Received: {path}")
    if path:
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise InputError(f"`--output`: no such directory: {os.path.dirname(path)}")
        files.require_writable(folder)


def load_pipeline(name: str, directory: str, **options: Any) -> Any:
    """Sets TensorFlow up and loads a pipeline, by the name of its class in `pipelines`."""
    import keras

    import pipelines
    from data.tensorflow_setup import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    pipeline = getattr(pipelines, name).from_pretrained(directory, **options)
    pipeline.report_device()
    return pipeline


def progress_bar(total: int, unit: str = "text", many: int = MANY) -> Any:
    """A progress bar on stderr, shown if there are more than `many` rows."""
    return console.progress_bar(total, unit=unit, disable=total <= many)


def rounded(probabilities: Iterable[float]) -> list[float]:
    """Probabilities for JSON, with six decimals."""
    return [round(float(probability), 6) for probability in probabilities]


def write_lines(path: str | None, lines: Iterable[str]) -> None:
    """Writes lines to a file, which appears when it is complete, or prints them."""
    if path is None:
        for line in lines:
            print(line)
        return
    with (
        files.write_errors_named(path),
        files.atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.writelines(line + "\n" for line in lines)
