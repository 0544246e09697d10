"""Searches fine-tuning settings with Optuna: trains a task with each, by finetune.py's code.

    python3 scripts/sweep.py --data-dir D --model-name N rte --trials 20 \\
        --space '{"learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}}'

Writes below D/models/N/finetuning_runs/RUN: for each setting what finetune.py writes (setting_1,
setting_2, …; only the best one keeps its models), the table sweep.md, the picture sweep.png, and
the best settings as best_hparams.json, for finetune.py's --hparams. The same command goes on with
a sweep that was stopped; with more --trials, it extends one that has ended.

Several `task_names` in --hparams are trained jointly. With `num_trials`, a score is a mean over
seeds. During the training with the first seed, after each epoch or every `eval_every` steps, a
setting is pruned if its dev score is below the median of the others' at the same time.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
from typing import Any

import bootstrap  # noqa: F401
from absl import logging

import finetune
from common import errors
from common.errors import InputError, require_package
from common.fields import override, require
from common.lock import locked
from configure_finetuning import FinetuningConfig
from jobs import sweep_report, sweep_space, sweep_study, trials, working_copy
from jobs.command_line import job_parser, print_config
from jobs.encoder import find_encoder
from jobs.prepare import check_batches, prepare_backend
from jobs.sweep_space import Settings, Space
from jobs.trials import Job
from model.config import load_hparams

OPTUNA = "optuna==5.0.0"  # as in requirements-dev.txt


def main(arguments: list[str] | None = None) -> None:
    """Checks everything, then trains with one setting after the other."""
    args = parse_arguments(arguments)
    logging.set_verbosity(logging.INFO)

    # ---- input: all of it is read and checked before anything is written -------------------
    hparams = load_hparams(args.hparams)
    config = base_config(args, hparams)
    if args.print_config:
        print_config(config)
        return
    source = "--space" if args.space.lstrip().startswith("{") else args.space
    given = load_hparams(args.space, "--space")
    space = sweep_space.check_space(given, source)
    model_dir, send = working_copy.open_directory(
        args.data_dir, args.model_name, without=working_copy.FINETUNING
    )
    directory = working_copy.output_directory(args.data_dir, args.model_name, args.run_name)
    base = finetune.load_job(config, args.data_dir, directory)
    check_settings(base, space, args)
    if args.dry_run:
        logging.info("%s: %d settings of %s", base.name, args.trials, ", ".join(space))
        logging.info("dry run: nothing was trained or written")
        return
    require_package("optuna", "scripts/sweep.py", OPTUNA)

    # ---- encoder ---------------------------------------------------------------------------
    prepare_backend(config, args.data_dir)
    base = dataclasses.replace(base, encoder=find_encoder(config, model_dir), send=send)

    # ---- settings --------------------------------------------------------------------------
    advice = "Wait until it ends, or give this sweep a place of its own with --run-name"
    with locked(os.path.join(directory, ".sweep.lock"), f"the sweep {directory}", advice):
        best = search(base, given, space, hparams, args, model_dir)
    print(f"setting {best.number}: {score_name(base)} {best.score:.2f}")
    print(os.path.join(directory, sweep_report.BEST))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    dry_run = "check the command, the space and the task's files; train and write nothing"
    parser = job_parser(__doc__, FinetuningConfig, dry_run)
    parser.add_argument(
        "task", nargs="?", help="a task's name, or the JSON file of one; or use `task_names`"
    )
    parser.add_argument(
        "--space",
        required=True,
        help="what to search: a JSON object, or a file with one. For each hyper-parameter, a list "
        'of values, or a range: {"low": 1, "high": 9}, with "log": true or a "step"',
    )
    parser.add_argument(
        "--sampler",
        choices=("tpe", "grid"),
        default="tpe",
        help="tpe: near what was good so far; grid: all combinations of lists (default: tpe)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="settings to try, including those of earlier starts (default: 20, or the whole grid)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the sampler; --hparams has that of training"
    )
    parser.add_argument("--no-prune", action="store_true", help="train every setting to its end")
    parser.add_argument(
        "--prune-after",
        type=int,
        default=5,
        metavar="N",
        help="finished settings before any is pruned (default: %(default)s)",
    )
    parser.add_argument(
        "--run-name",
        metavar="NAME",
        default="sweep",
        help="folder in finetuning_runs/ of the model's directory (default: %(default)s)",
    )
    args = parser.parse_intermixed_args(arguments)
    for name, least in {"trials": 1, "seed": 0, "prune_after": 1}.items():
        value = getattr(args, name)
        option = f"--{name.replace('_', '-')}"
        require(value is None or value >= least, option, f"at least {least}", value)
    return args


def base_config(args: argparse.Namespace, hparams: Settings) -> FinetuningConfig:
    """The hyper-parameters that all settings start from."""
    defaults: Settings = {"write_test_outputs": False}
    if not args.no_prune:
        defaults["eval_every"] = "epoch"
    args.tasks, args.hparams = [args.task] if args.task else [], json.dumps(defaults | hparams)
    (config,) = finetune.job_configs(args)
    for name in ("do_train", "do_eval"):
        require(getattr(config, name), name, "true in a sweep", False)
    return config


def check_settings(base: Job, space: Space, args: argparse.Namespace) -> None:
    """Checks the settings that are known in advance; sets how many are tried."""
    from data.tasks.class_weights import check_loss

    if args.sampler == "grid":
        settings = sweep_space.grid(space)
        args.trials = min(args.trials or len(settings), len(settings))
    else:
        settings, args.trials = sweep_space.corners(space), args.trials or 20
    for each in settings:
        job = with_settings(base, each)
        for part in job.parts:
            check_loss(part.task, job.config)


def with_settings(base: Job, settings: Settings, number: int | None = None) -> Job:
    """The job of a setting; if its number is given, in a folder of its own."""
    folder = base.model_dir if number is None else setting_folder(base, number)
    return dataclasses.replace(base, config=override(base.config, settings), model_dir=folder)


def setting_folder(base: Job, number: int) -> str:
    """Where finetune.py's files of a setting are."""
    return os.path.join(base.model_dir, f"setting_{number}")


def search(
    base: Job, given: Settings, space: Space, hparams: Settings, args: Any, model_dir: str
) -> sweep_report.Row:
    """Tries all settings, and writes the table, the picture and the best ones; returns the best."""
    identity = {"space": given, "sampler": args.sampler, "num_trials": base.config.num_trials}
    startup = 10**9 if args.no_prune else args.prune_after
    study = sweep_study.open_study(base.model_dir, base, identity, startup)
    title, metric = f"{base.title}, {base.name}", score_name(base)
    for trial in sweep_study.pending(study, space, args.sampler, args.seed, args.trials):
        number, settings = trial.number + 1, sweep_space.suggest(trial, space)
        logging.info("setting %d of %d: %s", number, args.trials, sweep_report.describe(settings))
        job = with_settings(base, settings, number)
        sweep_study.compute(study, trial, job, lambda job: run_setting(job, model_dir))
        rows = sweep_report.read_rows(study, space)
        keep_models(base, rows)
        sweep_report.write(base.model_dir, title, metric, space, rows, hparams)
        base.send()
        logging.info("%s", result_line(rows, number, metric))
    rows = sweep_report.read_rows(study, space)
    best = sweep_report.best_of(rows)
    if best is None:
        raise InputError(f"no setting could be trained to its end. The last one: {rows[-1].note}")
    sweep_report.write(base.model_dir, title, metric, space, rows, hparams)
    return best


def run_setting(job: Job, model_dir: str) -> float:
    """Trains, or continues training, with a setting; returns its score, the mean over its seeds."""
    from model.backends import distribution

    check_batches(job.config, distribution.count_devices(job.config.num_devices), {})
    job = dataclasses.replace(job, encoder=find_encoder(job.config, model_dir))
    finetune.run_jobs([job])
    results = trials.finished_trials(job).values()
    found = [{name: each[name]["metrics"] for name in each} for each in results]
    return statistics.fmean(trials.mean_score(job, metrics) for metrics in found)


def score_name(job: Job) -> str:
    """What a score is: the task's main metric, or the mean of several tasks'."""
    names = [f"{part.task.name} {part.task.metrics[0]}" for part in job.parts]
    return f"mean of {' and '.join(names)}" if job.is_joint else job.parts[0].task.metrics[0]


def keep_models(base: Job, rows: list[sweep_report.Row]) -> None:
    """Deletes the models and unfinished states of all settings but the best."""
    best = sweep_report.best_of(rows)
    for row in rows:
        folder = setting_folder(base, row.number)
        if row != best and not base.config.keep_all_models:
            shutil.rmtree(os.path.join(folder, "finetuning_models"), ignore_errors=True)
        shutil.rmtree(os.path.join(folder, trials.CHECKPOINTS), ignore_errors=True)


def result_line(rows: list[sweep_report.Row], number: int, metric: str) -> str:
    """How a setting ended, and the best one so far."""
    (row,) = (row for row in rows if row.number == number)
    text = f"{metric} {row.score:.2f}" if row.is_finished else f"pruned: {row.note}"
    best = sweep_report.best_of(rows)
    return f"setting {number}: {text}" + (
        f"; best so far: {best.score:.2f}, setting {best.number}" if best else ""
    )


if __name__ == "__main__":
    errors.run(main)
