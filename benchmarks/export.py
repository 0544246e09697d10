"""`benchmark.py export`: a fine-tuned classifier in each format that `scripts/export.py` writes.

Size, time for one text after the other, and the score of the whole dev set, beside the pipeline
that finetune.py's predictions come from. What takes strings is timed with its tokenizer; ONNX and
LiteRT are the network alone, and the tokenizer's own time stands in a row of its own.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, on_cores
from common.errors import InputError
from common.fields import require
from common.files import write_text
from data.tasks.classification.decoding import MULTI_LABEL, REGRESSION, answers
from data.tasks.classification.task import ClassificationTask
from data.tasks.examples import TextExamples
from data.tasks.registry import get_task
from serving.directory import MODEL, Options, write_export

KERAS, TOKENIZER = "Keras (pipelines)", "the tokenizer alone"
FORMATS = {
    "SavedModel": Options("savedmodel"),
    "ONNX": Options("onnx"),
    "LiteRT, float32": Options("litert"),
    "LiteRT, int8": Options("litert", int8=True),
}
BATCH_SIZE = 32  # of what is scored
PAUSE = 0.3  # seconds before a turn, in which the threads of the turn before stop spinning
WARM_UP = 3  # texts before a turn that do not count


@dataclasses.dataclass
class Contender:
    """A format of a model.

    Args:
        prepare: from texts, and their pairs or None, to what `run` takes; not timed.
        run: computes, and is timed.
        answers: what `run` returned, as `answers` of data/tasks/classification/task.py has it; None
            for what says nothing of texts.
        size: bytes of what is served; None for no file of its own.
        has_tokenizer: whether `run` takes texts.
    """

    prepare: Callable[[list[str], list[str] | None], Any]
    run: Callable[[Any], Any]
    answers: Callable[[Any], list] | None
    size: int | None
    has_tokenizer: bool
    seconds: list[float] = dataclasses.field(default_factory=list)


def benchmark_export(args: argparse.Namespace) -> None:
    """Exports a model, times each format, scores it, and reports."""
    for name in ("num_texts", "rounds", "threads"):
        require(getattr(args, name) >= 1, f"--{name.replace('_', '-')}", "at least 1",
                getattr(args, name))  # fmt: skip
    task = get_task(args.task).complete(args.tasks_dir)
    if not isinstance(task, ClassificationTask):
        raise InputError(f"--task {args.task}: the benchmark is for tasks of classification")
    examples = task.load(args.tasks_dir, "dev")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as scratch, on_cores(args.threads):
        contenders = make_contenders(args, examples, scratch)
        time_each(contenders, examples, args.num_texts, args.rounds)
        scores = {
            name: score(task, examples, contender)
            for name, contender in contenders.items()
            if contender.answers is not None
        }
    result = {
        "machine": machine(),
        "options": {name: value for name, value in vars(args).items() if name != "output"},
        "examples": len(examples),
        "contenders": {
            name: {
                "bytes": contender.size,
                "has_tokenizer": contender.has_tokenizer,
                "median": float(np.median(contender.seconds)),
                "percentile_99": float(np.percentile(contender.seconds, 99)),
                "scores": scores.get(name),
                "seconds": contender.seconds,
            }
            for name, contender in contenders.items()
        },
    }
    print(report_text(result))
    if args.output:
        write_text(args.output, json.dumps(result, indent=1) + "\n")


def make_contenders(
    args: argparse.Namespace, examples: TextExamples, scratch: str
) -> dict[str, Contender]:
    """Writes every format into the folder `scratch`, and loads it."""
    from pipelines import TextClassifier

    classifier = TextClassifier.from_pretrained(args.model_dir)
    source = [Path(args.model_dir, name) for name in ("model.safetensors", "vocab.txt")]
    contenders = {
        KERAS: Contender(
            lambda texts, pairs: (texts, pairs),
            lambda inputs: classifier.predict(*inputs, batch_size=BATCH_SIZE),
            lambda found: found.answers,
            sum(path.stat().st_size for path in source),
            has_tokenizer=True,
        )
    }
    for name, options in FORMATS.items():
        print(f"exporting {name}", file=sys.stderr, flush=True)
        is_graph = options.format == "savedmodel"
        pairs = is_graph and examples.text_pairs is not None
        target = os.path.join(scratch, name)
        write_export(args.model_dir, target, dataclasses.replace(options, pairs=pairs))
        path = os.path.join(target, MODEL[options.format])
        if is_graph:
            contenders[name] = load_savedmodel(path, classifier)
        else:
            load = load_onnx if options.format == "onnx" else load_litert
            contenders[name] = network_contender(load(path, args.threads), path, classifier)
    contenders[TOKENIZER] = Contender(
        lambda texts, pairs: (texts, pairs),
        lambda inputs: classifier.tokenizer(*inputs, max_length=classifier.max_seq_length),
        None,
        None,
        has_tokenizer=True,
    )
    return contenders


def load_savedmodel(path: str, classifier: Any) -> Contender:
    """A SavedModel, as a process without this project would load it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def prepare(texts, pairs):
        named = {"text": texts} if pairs is None else {"text": texts, "text_pair": pairs}
        return {name: tf.constant(column) for name, column in named.items()}

    def run(inputs, loaded=loaded):  # which owns the variables
        return {name: value.numpy() for name, value in serve(**inputs).items()}

    def found_answers(outputs):
        if classifier.problem_type == REGRESSION:
            return outputs["score"].tolist()
        if classifier.problem_type == MULTI_LABEL:
            rows = zip(outputs["labels"], outputs["num_labels"], strict=True)
            return [[label.decode() for label in row[:count]] for row, count in rows]
        return [label.decode() for label in outputs["label"]]

    size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    return Contender(prepare, run, found_answers, size, has_tokenizer=True)


def load_onnx(path: str, threads: int) -> Callable[[dict], np.ndarray]:
    """From token ids to logits, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], inputs)[0]


def load_litert(path: str, threads: int) -> Callable[[dict], np.ndarray]:
    """From token ids to logits, by LiteRT's interpreter."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(path, num_threads=threads)
    runner = interpreter.get_signature_runner()
    return lambda inputs: runner(**inputs)["logits"]


def network_contender(
    network: Callable[[dict], np.ndarray], path: str, classifier: Any
) -> Contender:
    """A network alone: what it takes is made of texts before."""
    padding = "longest" if classifier.model.config.mask_padding else "max_length"

    def prepare(texts, pairs):
        return classifier.tokenizer(texts, pairs, classifier.max_seq_length, padding)

    def found_answers(logits):
        rules = classifier.problem_type, logits, classifier.labels, classifier.score_range
        return answers(*rules)

    size = os.path.getsize(path)
    return Contender(prepare, network, found_answers, size, has_tokenizer=False)


def time_each(
    contenders: dict[str, Contender], examples: TextExamples, num_texts: int, rounds: int
) -> None:
    """Times texts from all over the file one by one; the contenders take turns, in both orders."""
    chosen = np.linspace(0, len(examples) - 1, min(num_texts, len(examples))).astype(int)
    for turn, part in enumerate(np.array_split(chosen, min(rounds, len(chosen)))):
        print(f"[{turn + 1}/{rounds}]", file=sys.stderr, flush=True)
        for contender in list(contenders.values())[:: 1 - 2 * (turn % 2)]:
            inputs = [contender.prepare(*_part(examples, [index])) for index in part]
            time.sleep(PAUSE)
            for item in inputs[:WARM_UP]:
                contender.run(item)
            for item in inputs:
                begin = time.perf_counter()
                contender.run(item)
                contender.seconds.append(time.perf_counter() - begin)


def _part(examples: TextExamples, indices: Sequence[int]):
    """Some of the texts, and their pairs."""
    pairs = examples.text_pairs
    return (
        [examples.texts[i] for i in indices],
        None if pairs is None else [pairs[i] for i in indices],
    )


def score(
    task: ClassificationTask, examples: TextExamples, contender: Contender
) -> dict[str, float]:
    """The task's metrics, in percent, of what a contender says of all examples."""
    from data.tasks.metrics import compute_metrics

    found = []
    for begin in range(0, len(examples), BATCH_SIZE):
        part = _part(examples, range(begin, min(begin + BATCH_SIZE, len(examples))))
        found += contender.answers(contender.run(contender.prepare(*part)))
    if task.problem_type == REGRESSION:
        predictions = np.array(found)
    elif task.problem_type == MULTI_LABEL:
        predictions = np.array([[int(name in row) for name in task.labels] for row in found])
    else:
        predictions = np.array([task.labels.index(name) for name in found])
    return compute_metrics(task.metrics, examples.labels, predictions)


def report_text(result: dict) -> str:
    """The measurements as Markdown."""
    options, rows = result["options"], result["contenders"]
    metrics = list(rows[KERAS]["scores"])
    lines = [
        f"{options['task']}, {result['examples']} dev examples, "
        f"{len(rows[KERAS]['seconds'])} of them timed one by one; "
        f"{result['machine']['cpu']}, {options['threads']} cores",
        "",
        "| format | MB | with the tokenizer | ms a text, median | 99th percentile | "
        f"{' | '.join(metrics)} |",
        "|---|---|---|---|---|" + "---|" * len(metrics),
    ]
    for name, row in rows.items():
        cells = [
            name,
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
            "yes" if row["has_tokenizer"] else "no",
            f"{1000 * row['median']:.2f}",
            f"{1000 * row['percentile_99']:.2f}",
            *(
                "" if row["scores"] is None else f"{row['scores'][metric]:.2f}"
                for metric in metrics
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
