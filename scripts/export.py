"""Exports a model to be served without this project: as a SavedModel, as ONNX, or for LiteRT.

    python3 scripts/export.py MODEL_DIR OUT --format savedmodel
    python3 scripts/export.py MODEL_DIR OUT --format savedmodel --pairs
    python3 scripts/export.py MODEL_DIR OUT --format onnx
    python3 scripts/export.py MODEL_DIR OUT --format litert --int8
    python3 scripts/export.py MODEL_DIR OUT --format savedmodel --features --pooling cls

MODEL_DIR is what finetune.py leaves in DATA_DIR/models/NAME/finetuning_models/TASK_TRIAL, or any
other saved model; what kind it is says its config.json. OUT gets the model, the tokenizer's files,
and export.json, which says what goes in and what comes out.

A SavedModel takes strings and says what the model says of them: the tokenizer is part of it. ONNX
and LiteRT are the network alone, from token ids to logits. All take any number of texts.
"""

import argparse
import os

import bootstrap  # noqa: F401

from common import errors
from scripts import text_input
from serving import directory


def main(arguments: list[str] | None = None) -> None:
    """Checks the options, exports, says what came out."""
    args = parse_arguments(arguments)
    options = directory.Options(
        **{name: getattr(args, name) for name in directory.Options.__dataclass_fields__}
    )
    directory.find_pipeline(args.model_dir, options)
    directory.check_target(args.output, args.overwrite)

    os.environ["KERAS_BACKEND"] = "tensorflow"  # what all formats are made with
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    fields = directory.write_export(args.model_dir, args.output, options)
    print(os.path.join(args.output, fields["model"]))
    for side in ("inputs", "outputs"):
        for name, spec in fields[side].items():
            print(f"{side[:-1]:7} {name} {spec['dtype']} {spec['shape']}".replace("None", "any"))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="folder of a saved model")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument("--format", choices=directory.FORMATS, required=True)
    parser.add_argument(
        "--pairs", action="store_true", help="the model was fine-tuned on pairs of texts"
    )
    parser.add_argument(
        "--features", action="store_true", help="vectors of texts, whatever head the model has"
    )
    text_input.add_vector_options(parser)
    parser.add_argument(
        "--top-k", type=int, default=5, help="tokens for each [MASK] (default: %(default)s)"
    )
    parser.add_argument("--int8", action="store_true", help="LiteRT with 8-bit weights")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    errors.run(main)
