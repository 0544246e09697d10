"""Measures speed and memory, beside what others reach on the same machine in the same run.

    python3 -m benchmarks data --corpus openwebtext.tar --num-processes 2 --output data.json
    python3 -m benchmarks pretrain --peer-python ~/torch/bin/python --output pretrain.json
    python3 -m benchmarks infer --peers torch torch-compiled --peer-python ~/torch/bin/python
    python3 -m benchmarks finetune --task sst --tasks-dir D --peer-python ~/t/bin/python
    python3 -m benchmarks predict --task sst --tasks-dir D --peer-python ~/t/bin/python
    python3 -m benchmarks export --model-dir M --task sst --tasks-dir D

What is compared runs in turn, several times over, on the same cores; the tables show medians.
"""

import argparse
import os
import sys

from common import errors
from configure_pretraining import PRECISIONS
from model.config import MODEL_SIZES

BACKENDS = ("tensorflow", "jax")
MODEL_PEERS = ("torch", "torch-compiled")


def main():
    """Runs the benchmark that the first argument names."""
    args = parse_arguments()
    from benchmarks import data as benchmark_data
    from benchmarks import export as benchmark_export
    from benchmarks import model, tasks

    benchmarks = {
        "data": benchmark_data.benchmark_data,
        "pretrain": model.benchmark_pretrain,
        "infer": model.benchmark_infer,
        "finetune": tasks.benchmark_task,
        "predict": tasks.benchmark_task,
        "export": benchmark_export.benchmark_export,
    }
    benchmarks[args.benchmark](args)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(required=True, dest="benchmark", metavar="BENCHMARK")
    data = benchmarks.add_parser("data", help="from a corpus to records")
    pretrain = benchmarks.add_parser("pretrain", help="the step of pretrain.py")
    infer = benchmarks.add_parser("infer", help="the encoder's forward pass")
    finetune = benchmarks.add_parser("finetune", help="the step of finetune.py, on a task's texts")
    predict = benchmarks.add_parser("predict", help="finetune.py's predictions for a dev set")
    export = benchmarks.add_parser("export", help="a fine-tuned classifier in every format")
    add_data_options(data)
    add_export_options(export)
    add_model_options(pretrain, 16, ["torch"], MODEL_PEERS)
    add_model_options(infer, 32, list(MODEL_PEERS), MODEL_PEERS)
    for benchmark in (pretrain, infer):
        add_computation_options(benchmark)
    for benchmark in (finetune, predict):
        add_model_options(benchmark, 32, ["torch"], ("torch",), rounds=3, steps=16)
    for benchmark in (finetune, predict, export):
        benchmark.add_argument(
            "--task", default="sst", help="what finetune.py takes (default: %(default)s)"
        )
        benchmark.add_argument(
            "--tasks-dir", required=True, help="the folder of the tasks' folders"
        )
    pretrain.add_argument(
        "--steps-per-execution", type=int, default=1, help="the hyper-parameter of that name"
    )
    pretrain.add_argument(
        "--records",
        help="train on these, not on random tokens, and measure the input pipeline alone, too",
    )
    for benchmark in (data, pretrain, infer, finetune, predict, export):
        benchmark.add_argument("--output", help="JSON file for every measurement")
    return parser.parse_args()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data`."""
    parser.add_argument("--corpus", required=True, help="what build_data.py takes")
    parser.add_argument("--vocab-file", help="uncased vocabulary (default: BERT's)")
    parser.add_argument(
        "--num-processes", type=int, default=os.cpu_count(), help="and cores used (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=("tokenizers", "original"),
        default=["tokenizers", "original"],
        help="Rust's tokenizers, if installed, tokenizing text in memory and nothing else; the "
        "original's builder (default: both)",
    )
    parser.add_argument(
        "--original",
        help="checkout of the ConvBERT release (default: a stand-in in plain Python, with the "
        "release's tokenizer, segment rule and record format)",
    )
    parser.add_argument(
        "--original-python", default=sys.executable, help="the Python that runs the checkout"
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `export` alone."""
    parser.add_argument(
        "--model-dir", required=True, help="a classifier that finetune.py left for the task"
    )
    parser.add_argument(
        "--num-texts",
        type=int,
        default=200,
        help="dev examples that are timed, from all over the file (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="and cores used (default: all)"
    )


def add_model_options(
    parser: argparse.ArgumentParser,
    batch_size: int,
    peers: list[str],
    all_peers: tuple[str, ...],
    rounds: int = 5,
    steps: int = 10,
) -> None:
    """Adds the options that all benchmarks of models share, with these defaults."""
    parser.add_argument(
        "--size", choices=MODEL_SIZES, default="medium-small", help="(default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=batch_size, help="(default: %(default)s)")
    parser.add_argument(
        "--length",
        type=int,
        help="tokens a row, of a task's at most (default: the task's or the records', or 128)",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=os.environ.get("KERAS_BACKEND", BACKENDS[0]),
        help="of Keras (default: %(default)s)",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=all_peers,
        default=peers,
        help="transformers' ConvBERT in PyTorch, as it is or compiled; left out where it is not "
        f"installed (default: {' '.join(peers)})",
    )
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        help="the Python that has torch and transformers (default: this one)",
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=steps, help="of each in a round (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="and cores used (default: all)"
    )


def add_computation_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how `pretrain` and `infer` compute."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0], help="(default: %(default)s)"
    )
    parser.add_argument(
        "--jit-compile",
        action=argparse.BooleanOptionalAction,
        help="our step with XLA, or without (default: as pretrain.py and Keras choose)",
    )


if __name__ == "__main__":
    errors.run(main)
