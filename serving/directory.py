"""What an export's directory holds, and how it is written: whole or not at all."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
from typing import Any

from common import files
from common.errors import InputError
from pipelines.saved import HINT, architecture_of

FORMATS = ("savedmodel", "onnx", "litert")
METADATA = "export.json"
MODEL = {"savedmodel": "saved_model", "onnx": "model.onnx", "litert": "model.tflite"}
# What a format needs beyond TensorFlow.
PACKAGES = {"onnx": ("onnx", "tf2onnx")}

# The pipeline of each kind of model, by the class that its config.json names.
PIPELINES = {
    "ConvBertForSequenceClassification": "TextClassifier",
    "ConvBertForTokenClassification": "Tagger",
    "ConvBertForQuestionAnswering": "QuestionAnswerer",
    "ConvBertForMultipleChoice": "MultipleChoice",
    "ConvBertForMaskedLM": "FillMask",
    "ConvBertModel": "FeatureExtractor",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What an export shall be.

    Args:
        format: of `FORMATS`.
        pairs: whether a classifier, or an encoder, reads two texts; of a SavedModel alone.
        features: export the encoder, whatever head the model has.
        pooling, layer: of the vectors; see `pipelines.FeatureExtractor`.
        top_k: how many tokens for each [MASK]; of a SavedModel alone.
        int8: 8-bit weights; of LiteRT alone.
    """

    format: str
    pairs: bool = False
    features: bool = False
    pooling: str = "mean"
    layer: int = -1
    top_k: int = 5
    int8: bool = False


def find_pipeline(model_dir: str, options: Options) -> str:
    """The name of the class in `pipelines` that reads a model; loads nothing heavy.

    Raises:
        InputError: there is none, an option that does not suit it, or a missing package.
    """
    architecture = architecture_of(model_dir)
    pipeline = "FeatureExtractor" if options.features else PIPELINES.get(architecture)
    if pipeline is None:
        raise InputError(
            f"{model_dir}: no export for the architecture {json.dumps(architecture)} of its "
            f"config.json; there is one for {', '.join(PIPELINES)}. {HINT}. --features exports the "
            "encoder of any model"
        )
    refused = {
        "--pairs": options.pairs and (
            options.format != "savedmodel" or pipeline not in ("TextClassifier", "FeatureExtractor")
        ),
        "--int8": options.int8 and options.format != "litert",
        "--top-k": options.top_k != Options.top_k
        and (options.format != "savedmodel" or pipeline != "FillMask"),
        "--pooling and --layer": (options.pooling, options.layer)
        != (Options.pooling, Options.layer)
        and pipeline != "FeatureExtractor",
    }  # fmt: skip
    suits = {
        "--pairs": "a SavedModel of a classifier or an encoder: in the others, the user makes rows",
        "--int8": "the format litert",
        "--top-k": "a SavedModel of a masked language model",
        "--pooling and --layer": "an encoder: see --features",
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise InputError(f"{name}: only for {suits[name]}")
    missing = [name for name in PACKAGES.get(options.format, ()) if not _is_installed(name)]
    if missing:
        raise InputError(
            f"the format {options.format} needs {' and '.join(missing)}: "
            ".venv/bin/pip install -r requirements.txt installs them"
        )
    return pipeline


def _is_installed(package):
    return importlib.util.find_spec(package) is not None


def check_target(path: str, overwrite: bool) -> None:
    """Refuses a name that is taken, but for an earlier export that may be overwritten."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InputError(f"{path} is there already: give another name, or --overwrite")
    if not os.path.isfile(os.path.join(path, METADATA)):
        raise InputError(
            f"{path} is no earlier export, and is not overwritten: it has no {METADATA}"
        )


def write_export(model_dir: str, path: str, options: Options) -> dict[str, Any]:
    """Exports a model; imports TensorFlow.

    The directory gets the model, its tokenizer's files, and `export.json`: what goes in, what
    comes out, labels, and how texts become rows.

    Args:
        model_dir: of a saved model.
        path: of the directory; what it was before is deleted.
        options: what to export.

    Returns:
        What is in `export.json`.

    Raises:
        InputError: the model cannot be read, or not so.
    """
    import pipelines

    name = find_pipeline(model_dir, options)
    kind = getattr(pipelines, name)
    more = {"pooling": options.pooling, "layer": options.layer}
    pipeline = kind.from_pretrained(model_dir, **(more if name == "FeatureExtractor" else {}))
    with files.atomic_directory(path) as temporary:
        target = os.path.join(temporary, MODEL[options.format])
        fields = {"format": options.format, "model": MODEL[options.format]}
        fields |= _describe(name, pipeline, options) | _write_model(name, pipeline, target, options)
        pipeline.tokenizer.save_pretrained(temporary, fields["max_seq_length"])
        text = json.dumps(fields, indent=1, ensure_ascii=False)
        files.write_text(os.path.join(temporary, METADATA), text + "\n")
    return fields


def _write_model(name, pipeline, target, options):
    """Writes the model itself; returns its inputs and outputs."""
    if options.format == "savedmodel":
        from serving import savedmodel

        return savedmodel.save(savedmodel.graph_of(name, pipeline, options), target)
    from serving import network

    output = "vector" if name == "FeatureExtractor" else "logits"
    if options.format == "onnx":
        return network.save_onnx(pipeline.model, output, target)
    return network.save_litert(pipeline.model, output, target, options.int8)


def _describe(name, pipeline, options):
    """What a user of the export must know of the model, for JSON."""
    config, tokenizer = pipeline.model.config, pipeline.tokenizer
    if name in ("Tagger", "QuestionAnswerer"):
        max_seq_length = pipeline.options.max_seq_length
    else:
        max_seq_length = pipeline.max_seq_length
    fields = {
        "pipeline": name,
        "architecture": type(pipeline.model).__name__,
        "max_seq_length": max_seq_length,
        # Else what is behind a row's end changes its outputs.
        "pad_to_max_seq_length": not config.mask_padding,
        "do_lower_case": tokenizer.do_lower_case,
        "strip_accents": tokenizer.strip_accents,
        "labels": getattr(pipeline, "labels", None),
        "packages": {
            package: importlib.metadata.version(package)
            for package in ("tensorflow", "tensorflow-text", "keras")
        },
    }
    if name == "TextClassifier":
        fields |= {"problem_type": pipeline.problem_type, "score_range": pipeline.score_range}
    if name == "FeatureExtractor":
        fields |= {"pooling": options.pooling, "layer": options.layer}
    if name == "Tagger":
        fields["scheme"] = pipeline.task.file_scheme
    if name == "QuestionAnswerer":
        names = ("max_query_length", "doc_stride", "n_best_size", "max_answer_length",
                 "qa_na_threshold")  # fmt: skip
        fields |= {option: getattr(pipeline.options, option) for option in names}
        fields["unanswerable"] = pipeline.task.unanswerable
    if options.format == "litert":
        fields["int8"] = options.int8
    return fields
