"""The directory of an exported model, written completely or not at all."""

import dataclasses
import importlib.metadata
import importlib.util
import os
from typing import Any

from common import files
from common.errors import InputError
from pipelines.kinds import KINDS
from pipelines.saved import find_architecture

METADATA = "export.json"
# The model's file, by format.
MODEL = {"savedmodel": "saved_model", "onnx": "model.onnx", "litert": "model.tflite"}
# Packages that a format needs besides TensorFlow.
PACKAGES = {"onnx": ("onnx", "tf2onnx")}

# The pipeline of each kind of model, by the class in its config.json.
PIPELINES = {name: kind.pipeline for name, kind in KINDS.items()}
PIPELINES |= {"ConvBertForMaskedLM": "FillMask", "ConvBertModel": "FeatureExtractor"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to export."""

    format: str  # a key of `MODEL`
    pairs: bool = False  # a SavedModel of a classifier or an encoder takes two texts
    features: bool = False  # export the encoder, whatever head the model has
    pooling: str = "mean"  # for an encoder, like `layer`; see `FeatureExtractor`
    layer: int = -1
    top_k: int = 5  # tokens for each [MASK], in a SavedModel
    int8: bool = False  # 8-bit weights, for LiteRT
    transformers_inputs: bool = False  # a network's inputs have transformers' names and types


def find_pipeline(model_dir: str, options: Options) -> str:
    """The class in `pipelines` that loads a model; imports nothing heavy.

    Raises an `InputError` if an option does not suit the model, or a package is missing.
    """
    pipeline = "FeatureExtractor"
    if not options.features:
        pipeline = PIPELINES[find_architecture(model_dir, PIPELINES, "a model to export")]
    is_graph, is_encoder = options.format == "savedmodel", pipeline == "FeatureExtractor"
    takes_pairs = is_graph and (is_encoder or pipeline == "TextClassifier")
    has_vectors = (options.pooling, options.layer) != (Options.pooling, Options.layer)
    has_top_k = options.top_k != Options.top_k
    for name, is_used, is_allowed, allowed in (
        ("--pairs", options.pairs, takes_pairs, "a SavedModel of a classifier or an encoder"),
        ("--int8", options.int8, options.format == "litert", "the format litert"),
        ("--transformers-inputs", options.transformers_inputs, not is_graph, "onnx and litert"),
        ("--top-k", has_top_k, is_graph and pipeline == "FillMask", "a SavedModel with [MASK]"),
        ("--pooling and --layer", has_vectors, is_encoder, "an encoder: see --features"),
    ):
        if is_used and not is_allowed:
            raise InputError(f"{name}: only for {allowed}")
    packages = PACKAGES.get(options.format, ())
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the format {options.format} needs {' and '.join(missing)}: "
            ".venv/bin/pip install -r requirements.txt installs them"
        )
    return pipeline


def check_target(path: str, overwrite: bool) -> None:
    """Raises an `InputError` if the path exists and is not an export that may be overwritten."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InputError(f"{path} exists already: choose another name, or add --overwrite")
    if not os.path.isfile(os.path.join(path, METADATA)):
        raise InputError(f"{path} is not overwritten: it has no {METADATA}, so it is not an export")


def write_export(model_dir: str, path: str, options: Options) -> dict[str, Any]:
    """Exports a saved model to the directory `path`; returns the content of `export.json`."""
    import tensorflow as tf

    import pipelines
    from serving import formats

    name = find_pipeline(model_dir, options)
    vectors = {"pooling": options.pooling, "layer": options.layer}
    vectors = vectors if name == "FeatureExtractor" else {}
    pipeline = getattr(pipelines, name).from_pretrained(model_dir, **vectors)
    takes_one = options.format == "savedmodel" and not options.pairs
    if takes_one and getattr(pipeline, "reads_pairs", False):
        raise InputError(f"{model_dir} was fine-tuned on pairs of texts: add --pairs")
    full = tf.errors.ResourceExhaustedError  # TensorFlow's error for a full disk
    with files.write_errors_named(path, full), files.atomic_directory(path) as temporary:
        target = os.path.join(temporary, MODEL[options.format])
        fields = {"format": options.format, "model": MODEL[options.format]}
        fields |= _describe(name, pipeline) | vectors
        if options.format == "litert":
            fields["int8"] = options.int8
        fields |= getattr(formats, f"save_{options.format}")(pipeline, options, target)
        pipeline.tokenizer.save_pretrained(temporary, pipeline.max_seq_length)
        files.write_json(os.path.join(temporary, METADATA), fields, indent=1, ensure_ascii=False)
    return fields


def _describe(name, pipeline):
    tokenizer = pipeline.tokenizer
    fields = {
        "pipeline": name,
        "architecture": type(pipeline.model).__name__,
        "max_seq_length": pipeline.max_seq_length,
        # Padding changes the outputs of a model without `mask_padding`.
        "pad_to_max_seq_length": not pipeline.model.config.mask_padding,
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
    if name == "Tagger":
        fields["scheme"] = pipeline.task.file_scheme
    if name == "QuestionAnswerer":
        fields |= dataclasses.asdict(pipeline.options)
        fields["unanswerable"] = pipeline.task.unanswerable
    return fields
