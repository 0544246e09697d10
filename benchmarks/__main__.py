"""Measures speed and memory next to other implementations, on the same machine in the same run.

    python3 -m benchmarks smoke
    python3 -m benchmarks data --corpus openwebtext.tar --num-processes 2 --output data.json
    python3 -m benchmarks pretrain --peer-python .venv-peers/bin/python --output pretrain.json
    python3 -m benchmarks infer --peers torch torch-compiled --peer-python .venv-peers/bin/python
    python3 -m benchmarks finetune --task sst --tasks-dir D --peer-python .venv-peers/bin/python
    python3 -m benchmarks predict --task sst --tasks-dir D --peer-python .venv-peers/bin/python
    python3 -m benchmarks export --model-dir M --task sst --tasks-dir D
    python3 -m benchmarks scale --files 1000000 --shards 100000
    python3 -m benchmarks compile --target h100 --precision mixed_bfloat16 --by-kind

All implementations alternate for several rounds on the same cores. The table shows medians. `smoke`
shows ratios next to the ratios recorded for the same processor. `scale` measures only this project.
`compile` measures nothing: it compiles the training step for a GPU, which need not be there.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # `python PATH/benchmarks` puts that folder first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.gpu_targets import TARGETS
from common import errors
from model.config import MODEL_SIZES, PRECISIONS

BACKENDS = ("tensorflow", "jax")
OF_MODELS = ("pretrain", "infer", "finetune", "predict")
PEERS = ("torch", "torch-compiled")
PRETRAINING_PEERS = (*PEERS, "torch-autocast", "garden")


def main():
    """Runs the benchmark that the first argument names."""
    args = parse_arguments()
    module = "models" if args.benchmark in OF_MODELS else args.benchmark
    importlib.import_module(f"benchmarks.{module}").run(args)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(required=True, dest="benchmark", metavar="BENCHMARK")
    cores = len(os.sched_getaffinity(0))  # those that this process may use

    def add(name, help):
        formatter = argparse.ArgumentDefaultsHelpFormatter
        return benchmarks.add_parser(name, help=help, description=help, formatter_class=formatter)

    data = add("data", "build_data.py, from a corpus to records")
    pretrain = add("pretrain", "the training step of pretrain.py")
    infer = add("infer", "the encoder's forward pass")
    finetune = add("finetune", "the training step of finetune.py, on a task's examples")
    predict = add("predict", "finetune.py's predictions for a dev set")
    export = add("export", "size and latency of a fine-tuned classifier in each format")
    add_model_options(pretrain, 16, PRETRAINING_PEERS)
    for benchmark in (infer, finetune, predict):
        add_model_options(benchmark, 32, PEERS)
    infer.set_defaults(peers=PEERS, records=None)

    data.add_argument("--corpus", required=True, help="as for build_data.py")
    data.add_argument("--vocab-file", help="an uncased vocabulary instead of BERT's")
    add_count(data, "--num-processes", cores, "processes, and cores to use")
    for benchmark in (pretrain, infer):
        add_network_options(benchmark)
    help = "for the peer garden: a Python with the packages of requirements-garden.txt"
    pretrain.add_argument("--garden-python", default=".venv-garden/bin/python", help=help)
    pretrain.add_argument("--records", help="train on these, and measure the input pipeline, too")
    for benchmark in (finetune, predict, export):
        benchmark.add_argument("--task", default="sst", help="as for finetune.py")
        benchmark.add_argument("--tasks-dir", required=True, help="folder of the tasks' folders")
    export.add_argument("--model-dir", required=True, help="the model that finetune.py saved")
    add_count(export, "--num-texts", 40, "dev examples that are timed in each round")
    for benchmark in benchmarks.choices.values():
        add_count(benchmark, "--rounds", 5, "measurements of each implementation")
        benchmark.add_argument("--output", help="JSON file for all measurements")
        if benchmark is not data:
            add_count(benchmark, "--threads", cores, "threads and cores to use")

    smoke = add("smoke", "shows in a minute whether a change costs speed on this kind of processor")
    add_count(smoke, "--threads", cores, "threads and cores to use")
    help = "a Python with torch and transformers"
    smoke.add_argument("--peer-python", default=".venv-peers/bin/python", help=help)
    smoke.add_argument("--record", action="store_true", help="record the ratios in smoke.json")

    scale = add("scale", "CPU time and memory of building records, without the building itself")
    add_count(scale, "--files", 100_000, "files of the corpus")
    add_count(scale, "--shards", 10_000, "shards of the records")
    add_count(scale, "--parts", 2, "parts that build them")

    compiler = add("compile", "the training step as XLA compiles it for a GPU, without the GPU")
    compiler.add_argument("--target", required=True, choices=TARGETS, help="the GPU")
    add_network_options(compiler)
    add_shape_options(compiler, 128)
    add_count(compiler, "--length", 128, "tokens per row")
    compiler.add_argument("--by-kind", action="store_true", help="list each kind of kernel")
    compiler.add_argument("--output", help="JSON file, with all kernels")
    return parser.parse_args()


def add_shape_options(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Adds the options that every benchmark of a model has."""
    backend = os.environ.get("KERAS_BACKEND", BACKENDS[0])
    parser.add_argument("--size", choices=MODEL_SIZES, default="medium-small", help="of the model")
    add_count(parser, "--batch-size", batch_size, "rows or examples per batch")
    parser.add_argument("--backend", choices=BACKENDS, default=backend, help="Keras's backend")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds options that change the network or its precision."""
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help=" ")
    parser.add_argument("--hparams", default="{}", help="as for pretrain.py")


def add_model_options(
    parser: argparse.ArgumentParser, batch_size: int, peers: tuple[str, ...]
) -> None:
    """Adds the options that the benchmarks of models share."""
    add_shape_options(parser, batch_size)
    add_count(parser, "--length", None, "tokens per row, to override the records' or the task's")
    add_count(parser, "--steps", 16, "steps of each implementation per round")
    help = "transformers in PyTorch, or the Model Garden's ELECTRA; left out if not installed"
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers[:1], help=help)
    help = "a Python with torch and transformers"
    parser.add_argument("--peer-python", default=sys.executable, help=help)


def add_count(parser: argparse.ArgumentParser, name: str, default: int | None, help: str) -> None:
    """Adds an option for a positive integer."""

    def positive_integer(text):
        if int(text) < 1:
            raise ValueError
        return int(text)

    parser.add_argument(name, type=positive_integer, default=default, help=help)


if __name__ == "__main__":
    errors.run(main)
