"""Repeats an experiment: pre-trains every variant with every seed, and fine-tunes each on tasks.

    python3 scripts/run_experiment.py --data-dir D scripts/experiments/tiny.json --output RESULTS

The JSON file has the settings of `pretraining`, the `variants` with their `seeds` and what differs
in their `hparams`, and `finetuning`: groups of `tasks` with their `hparams`. Records and the tasks'
files must be below D. Random weights of the model's size are fine-tuned beside the variants.

Runs pretrain.py and finetune.py, which write to D/models/VARIANT_SEED. When a run is done, its log
and its scores go to RESULTS/VARIANT_SEED, and D/models/VARIANT_SEED is deleted. Runs with results
are not repeated, and a stopped run goes on. So an experiment can be split over several days, and
over machines that share RESULTS by way of a repository.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401

from common import errors, files
from common.errors import InputError
from common.fields import require
from configure_pretraining import PretrainingConfig
from jobs import stop_signals
from jobs.encoder import saved_encoder
from jobs.loggers import LOG_FILE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "results.json"
RANDOM = "random"  # the run without pre-training
KEYS = {"pretraining", "variants", "finetuning"}


def main(arguments: list[str] | None = None) -> None:
    """Checks the settings, then makes the runs that have no results yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="the JSON file of the experiment")
    parser.add_argument("--data-dir", required=True, help="directory of records, tasks and models")
    parser.add_argument("--output", required=True, metavar="RESULTS", help="where results go")
    parser.add_argument(
        "--runs", nargs="+", metavar="RUN", help="only these, such as convbert_0 (default: all)"
    )
    parser.add_argument("--keep", action="store_true", help="keep D/models/VARIANT_SEED")
    args = parser.parse_intermixed_args(arguments)
    experiment = read_experiment(args.experiment)
    runs = list_runs(experiment)
    for name in args.runs or ():
        require(name in runs, "--runs", f"one of {', '.join(runs)}", name)
    chosen, data_dir = args.runs or list(runs), os.path.abspath(args.data_dir)
    for number, name in enumerate(chosen, start=1):
        directory = Path(args.output, name)
        state = "has results" if (directory / RESULTS).exists() else "begins"
        print(f"run {number} of {len(chosen)}, {name}: {state}", flush=True)
        if state == "begins":
            make_run(data_dir, name, runs[name], experiment, directory)
        if not args.keep:
            shutil.rmtree(Path(data_dir, "models", name), ignore_errors=True)


def read_experiment(path: str) -> dict[str, Any]:
    """The settings of an experiment, checked except for the hyper-parameters of fine-tuning.

    Raises:
        InputError: as `read_json_object`; a missing or unknown part, or impossible hyper-parameters
            of pre-training; the message names the file and the field.
    """
    experiment = files.read_json_object(path)
    require(experiment.keys() == KEYS, "its parts", ", ".join(sorted(KEYS)), [*experiment], path)
    for name, variant in experiment["variants"].items():
        where = f"{path}, variant {name}"
        is_complete = isinstance(variant, dict) and variant.keys() == {"seeds", "hparams"}
        require(is_complete, name, "an object with `seeds` and `hparams`", variant, where)
        try:
            config = PretrainingConfig.from_hparams(experiment["pretraining"] | variant["hparams"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        length = config.max_seq_length  # decides the operations per token
        require(length is not None, "max_seq_length", "given in an experiment", length, where)
    for group in experiment["finetuning"]:
        is_complete = isinstance(group, dict) and group.keys() == {"tasks", "hparams"}
        expected = "objects with `tasks` and `hparams`"
        require(is_complete, "finetuning", expected, group, path)
    return experiment


def list_runs(experiment: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """All runs by name, with the hyper-parameters of their pre-training; None for `RANDOM`.

    One seed of every variant comes first, so that variants can be compared early.
    """
    variants = experiment["variants"]
    runs: dict[str, dict[str, Any] | None] = {}
    for seed in sorted({seed for variant in variants.values() for seed in variant["seeds"]}):
        for name, variant in variants.items():
            if seed in variant["seeds"]:
                hparams = experiment["pretraining"] | variant["hparams"] | {"seed": seed}
                runs[f"{name}_{seed}"] = hparams
        runs.setdefault(RANDOM, None)
    return runs


def make_run(
    data_dir: str,
    name: str,
    hparams: dict[str, Any] | None,
    experiment: dict[str, Any],
    output: Path,
) -> None:
    """Pre-trains and fine-tunes, or continues a stopped run; then writes results to `output`."""
    from benchmarks.rounds import describe_machine

    for task in (task for group in experiment["finetuning"] for task in group["tasks"]):
        for split in ("train", "dev"):  # before the pre-training, which takes hours
            find_task(task).find_file(os.path.join(data_dir, "finetuning_data"), split)
    places = ["--data-dir", data_dir, "--model-name", name]
    model_dir = Path(data_dir, "models", name)
    options, more = [], {"write_test_outputs": False}
    if hparams is None:
        options, more["model_size"] = ["--from-scratch"], experiment["pretraining"]["model_size"]
    else:
        run_job("pretrain.py", *places, "--hparams", json.dumps(hparams))
    scores = {}
    for group in experiment["finetuning"]:
        settings = ["--hparams", json.dumps(more | group["hparams"])]
        run_job("finetune.py", *places, *group["tasks"], *options, *settings)
        for task in group["tasks"]:
            scores |= read_scores(model_dir, find_task(task))
    results = {"pretraining": hparams, "scores": scores, "machine": describe_machine()}
    if hparams is not None:
        results |= describe_model(hparams, model_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_directory(output) as temporary:
        if hparams is not None:
            shutil.copyfile(model_dir / LOG_FILE, Path(temporary, LOG_FILE))
        files.write_json(Path(temporary, RESULTS), results, indent=1)


def find_task(name: str) -> Any:
    """A task by its name, or by its JSON file in the project."""
    from data.tasks.registry import get_task

    return get_task(str(ROOT / name) if name.endswith(".json") else name)


def read_scores(model_dir: Path, task: Any) -> dict[str, Any]:
    """The main metric of a task, and its value for each seed, in percent."""
    from jobs.trials import read_results_file

    path = model_dir / "results" / f"{task.name}_results.json"
    metric, results = task.metrics[0], read_results_file(str(path), task.name)
    values = {str(each["seed"]): each["metrics"][metric] for each in results}
    return {task.name: {"metric": metric, "values": values}}


def run_job(script: str, *arguments: str) -> None:
    """Runs a job and passes signals on to it.

    Raises:
        SystemExit: it failed or was stopped; with its exit status, or 128 + N after signal N.
    """
    command = [sys.executable, str(ROOT / script), *arguments]
    print("running", shlex.join(command[1:]), flush=True)
    # The job has a process group of its own: Ctrl-C reaches it only once, through `forward`.
    with subprocess.Popen(command, cwd=ROOT, process_group=0) as job:
        forward = lambda number, _: job.send_signal(number)  # noqa: E731
        before = {number: signal.signal(number, forward) for number in stop_signals.SIGNALS}
        try:
            job.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if job.returncode:
        sys.exit(job.returncode if job.returncode > 0 else 128 - job.returncode)


def describe_model(hparams: dict[str, Any], model_dir: Path) -> dict[str, Any]:
    """The cost of a pre-trained model: parameters of its encoder, and operations per token."""
    from benchmarks.flops import pretraining_flops
    from model.weights import pretrained

    config = PretrainingConfig.from_hparams(hparams)
    saved = pretrained.read(saved_encoder(model_dir))
    counts = {"embeddings": 0, "encoder": 0}
    for name, array in saved.arrays.items():
        part = name.split(".")[0].removesuffix("_project")
        if part in counts:  # others are heads
            counts[part] += math.prod(array.shape)
    length = config.max_seq_length
    flops = pretraining_flops(saved.config, config.objective(), 1, length) / length
    return {"parameters": counts, "flops_per_token": flops}


if __name__ == "__main__":
    errors.run(main)
