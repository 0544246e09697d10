"""`export`: size and latency, at batch size 1, of a fine-tuned classifier in each format.

The pipeline and the SavedModel read text. ONNX and LiteRT read token ids, made beforehand.
tests/scripts/test_export.py checks that all of them give the same outputs.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.rounds import alternate, report, use_cores
from data.tasks.registry import get_task
from pipelines import TextClassifier
from serving.directory import MODEL, Options, write_export

PIPELINE = "pipeline, with tokenizer"
FORMATS = {
    "SavedModel, with tokenizer": Options("savedmodel"),
    "ONNX": Options("onnx"),
    "LiteRT, float32": Options("litert"),
    "LiteRT, int8": Options("litert", int8=True),
}
WARM_UP = 3  # texts of each round that are not timed


def run(args: argparse.Namespace) -> None:
    """Exports the model, and predicts texts of the dev file one by one in each format."""
    use_cores(args.threads)
    examples = get_task(args.task).complete(args.tasks_dir).load(args.tasks_dir, "dev")
    classifier = TextClassifier.from_pretrained(args.model_dir)
    pairs = examples.text_pairs is not None
    columns = (examples.texts, examples.text_pairs) if pairs else (examples.texts,)
    chosen = np.linspace(0, len(examples) - 1, args.num_texts).astype(int)
    texts = [[[column[i]] for column in columns] for i in chosen]
    padding = "longest" if classifier.model.config.mask_padding else "max_length"
    reading = {"max_length": classifier.max_seq_length, "padding": padding}
    rows = [classifier.tokenizer(*text, **reading) for text in texts]
    weights = Path(args.model_dir, "model.safetensors")
    runs = {PIPELINE: timer(lambda text: classifier.predict(*text), texts, weights)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in FORMATS.items():
            is_graph = options.format == "savedmodel"
            target, inputs = os.path.join(scratch, name), texts if is_graph else rows
            pairs_option = dataclasses.replace(options, pairs=pairs and is_graph)
            write_export(args.model_dir, target, pairs_option)
            path = Path(target, MODEL[options.format])
            runs[name] = timer(load(options.format, str(path), args.threads), inputs, path)
        report(args, alternate(runs, args.rounds), "text", "examples_per_second", PIPELINE)


def timer(predict: Callable, inputs: list, path: Path) -> Callable[[], dict]:
    """A function that measures the median time of `predict`, for the model at `path`."""
    size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())

    def measure():
        seconds = []
        for item in inputs[:WARM_UP] + inputs:
            begin = time.perf_counter()
            predict(item)
            seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds[WARM_UP:])
        return {"seconds": median, "examples_per_second": 1 / median, "file_bytes": size}

    return measure


def load(model_format: str, path: str, threads: int) -> Callable:
    """An exported model, as a function of one text or one row of token ids."""
    if model_format == "savedmodel":
        loaded = tf.saved_model.load(path)

        def predict(text, loaded=loaded):  # keeps `loaded`, which owns the variables
            inputs = dict(zip(("text", "text_pair"), map(tf.constant, text), strict=False))
            outputs = loaded.signatures["serving_default"](**inputs)
            return [output.numpy() for output in outputs.values()]

        return predict
    if model_format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda row: session.run(["logits"], row)
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path, num_threads=threads).get_signature_runner()
    return lambda row: runner(**row)
