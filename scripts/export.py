"""Exports a model as a SavedModel, as ONNX or for LiteRT, to be served without this project.

    python3 scripts/export.py MODEL OUT --format savedmodel --pairs
    python3 scripts/export.py MODEL OUT --format onnx
    python3 scripts/export.py MODEL OUT --format litert --int8
    python3 scripts/export.py MODEL OUT --format savedmodel --features --pooling cls

MODEL is the directory of a saved model, or its name on the Hugging Face hub. OUT is a directory for
the model, the tokenizer's files, and export.json, which describes the inputs and outputs.

A SavedModel takes strings and returns the predictions: it contains the tokenizer. ONNX and LiteRT
contain the network alone, from token ids to logits. All take any number of texts.
"""

import dataclasses
import os

import bootstrap  # noqa: F401

from common import errors
from pipelines import command_line
from serving import directory


def main(arguments: list[str] | None = None) -> None:
    """Checks the options, exports, and prints the inputs and outputs."""
    parser = command_line.model_parser(__doc__, "a saved model")
    parser.add_argument("output", metavar="OUT", help="directory to write")
    parser.add_argument("--format", choices=directory.MODEL, required=True)
    parser.add_argument(
        "--pairs", action="store_true", help="for a model that was fine-tuned on pairs of texts"
    )
    parser.add_argument(
        "--features", action="store_true", help="vectors of texts, whatever head the model has"
    )
    command_line.add_vector_options(parser)
    parser.add_argument(
        "--top-k", type=int, default=5, help="tokens for each [MASK] (default: %(default)s)"
    )
    parser.add_argument("--int8", action="store_true", help="8-bit weights for LiteRT")
    parser.add_argument(
        "--transformers-inputs",
        action="store_true",
        help="for ONNX and LiteRT: int64 input_ids, attention_mask and token_type_ids",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    args = parser.parse_args(arguments)
    fields = dataclasses.fields(directory.Options)
    options = directory.Options(**{field.name: getattr(args, field.name) for field in fields})
    model_dir = command_line.find_model(args)
    directory.find_pipeline(model_dir, options)
    directory.check_target(args.output, args.overwrite)

    os.environ["KERAS_BACKEND"] = "tensorflow"  # all formats are made by TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    described = directory.write_export(model_dir, args.output, options)
    print(os.path.join(args.output, described["model"]))
    for side in ("inputs", "outputs"):
        for name, spec in described[side].items():
            print(f"{side[:-1]:7} {name} {spec['dtype']} {spec['shape']}".replace("None", "any"))


if __name__ == "__main__":
    errors.run(main)
