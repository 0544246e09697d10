"""Fine-tunes a pre-trained model on tasks, scores it on their dev sets, writes predictions.

    python3 finetune.py --data-dir D --model-name N --hparams '{"task_names": ["cola"]}'
    python3 finetune.py --data-dir D --model-name N cola rte mrpc
    python3 finetune.py --data-dir D --model-name N my_task.json
    python3 finetune.py --data-dir D --model-name N --hparams '{"task_names": ["mnli", "rte"]}'

A task is a name, such as a GLUE task's, or a JSON file: see docs/finetuning.md. Tasks given as
arguments are trained one after the other; several `task_names` are trained jointly, by one encoder.

Reads D/models/N/discriminator (or encoder) and D/finetuning_data/TASK. Writes below D/models/N or,
with --run-name RUN, below D/models/N/finetuning_runs/RUN:

    results/TASK_results.json and .txt     scores of all trials
    results/TASK_report.html               errors on the dev set
    results/summary.md, .json and .png     for several tasks, a table of all scores
    test_predictions/TASK_SPLIT_TRIAL.tsv
    finetuning_models/TASK_TRIAL           the fine-tuned model
    finetuning_logs/TASK_TRIAL             with `eval_every`, scores during the training

Tasks A and B that are trained jointly have results/A+B_results.json, results/A+B/,
test_predictions/A+B/, finetuning_models/A+B_TRIAL/TASK and finetuning_logs/A+B_TRIAL. Finished
trials are not repeated, interrupted ones go on, and results of other settings are not replaced. If
D is a URL such as s3://bucket/folder, everything is read and written through a local copy.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shutil
import time
from typing import Any

from absl import logging

from common import errors, files
from common.console import progress_bar
from common.errors import InputError
from common.fields import override
from common.lock import locked
from configure_finetuning import FinetuningConfig
from jobs import model_card, results_table, trials, unfinished, working_copy
from jobs.command_line import job_parser, print_config
from jobs.dry_run import try_one_step
from jobs.encoder import find_encoder, random_encoder
from jobs.job_models import JobModels
from jobs.prepare import check_batches, prepare_backend
from jobs.stop_signals import StopSignals
from jobs.trials import Job, TaskData, TrialResult, Trials
from model.config import load_hparams


def main(arguments: list[str] | None = None) -> None:
    """Checks everything, then fine-tunes on one task after the other."""
    args = parse_arguments(arguments)
    logging.set_verbosity(logging.INFO)
    if args.print_config:
        print_config(*job_configs(args))
        return
    model_dir, send = working_copy.open_directory(
        args.data_dir, args.model_name, without=working_copy.FINETUNING
    )
    output_dir = working_copy.output_directory(args.data_dir, args.model_name, args.run_name)
    with StopSignals("finished trials are saved, others are not. Run the same command again"):
        # ---- input: all of it is read and checked before anything is written ---------------
        configs = job_configs(args)
        jobs = [load_job(config, args.data_dir, output_dir) for config in configs]

        # ---- encoder -----------------------------------------------------------------------
        num_devices = prepare_backend(configs[0], None if args.dry_run else args.data_dir)
        for config in configs:
            predicted = {"eval_batch_size": config.do_eval}
            predicted["predict_batch_size"] = config.write_test_outputs
            check_batches(config, num_devices, predicted)
        longest = max(configs, key=lambda config: config.max_seq_length)  # its rows must fit, too
        if args.from_scratch:
            encoder = random_encoder(longest, args.data_dir, model_dir)
        else:
            encoder = find_encoder(longest, model_dir)

        # ---- trials ------------------------------------------------------------------------
        jobs = [dataclasses.replace(job, encoder=encoder, send=send) for job in jobs]
        if args.dry_run:
            try_jobs(jobs, args.overwrite)
        else:
            run_jobs(jobs, args.overwrite)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = job_parser(__doc__, FinetuningConfig)
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help='trained one by one: names, "all" for GLUE\'s nine, or JSON files of tasks',
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from random weights of the saved model's shape, or of `model_size`",
    )
    parser.add_argument(
        "--run-name",
        metavar="NAME",
        help="write to finetuning_runs/NAME in the model's directory, beside other runs' results",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of other settings"
    )
    return parser.parse_intermixed_args(arguments)


def job_configs(args: argparse.Namespace) -> list[FinetuningConfig]:
    """The checked hyper-parameters of each job, in order."""
    from data.tasks import glue
    from data.tasks.registry import get_task

    hparams = load_hparams(args.hparams)
    joint = override(FinetuningConfig(), hparams).task_names
    if args.tasks and "task_names" in hparams:
        raise InputError("tasks are given as arguments and in `task_names`: use one of the two")
    words = [name for word in args.tasks for name in (glue.TASKS if word == "all" else [word])]
    groups = [(word,) for word in dict.fromkeys(words)] or [joint]
    words_by_name: dict[str, str] = {}
    for word in itertools.chain(*groups):
        name = get_task(word).name
        if name in words_by_name:
            raise InputError(f"duplicate task name: {name} ({words_by_name[name]}, {word})")
        words_by_name[name] = word
    return [FinetuningConfig.for_tasks(group, hparams) for group in groups]


def load_job(config: FinetuningConfig, data_dir: str, model_dir: str) -> Job:
    """A job with its tasks' examples, read and checked, and no encoder yet."""
    from data.tasks.class_weights import check_loss
    from data.tasks.registry import get_task

    directory = os.path.join(data_dir, "finetuning_data")
    parts = []
    for name in config.task_names:
        task = get_task(name).complete(directory)
        check_loss(task, config)
        train = task.load(directory, "train") if config.do_train else None
        dev = {"dev": task.load(directory, "dev")} if config.do_eval else {}
        if config.do_eval:
            dev |= task.load_if_there(directory, task.more_dev_splits)
        tests = task.load_if_there(directory, task.test_splits) if config.write_test_outputs else {}
        parts.append(TaskData(task, train, dev, tests))
    job = Job(tuple(parts), config, None, model_dir)
    if not config.do_train:
        check_models(job)
    return job


def check_models(job: Job) -> None:
    """Checks that there are models to evaluate, except those of trials that kept none."""
    numbers = range(1, job.config.num_trials + 1)
    known, paths = trials.kept_trials(job), {}
    for trial, part in itertools.product(numbers, job.parts):
        path = job.trained_model(trial, part.task)
        if not os.path.isdir(path):
            paths[trial] = path
    unknown = paths if len(paths) == len(numbers) else paths.keys() - known.keys()
    if unknown:
        raise InputError(
            f"no model to evaluate: {paths[min(unknown)]} is missing (`do_train` is false). "
            "Without `keep_all_models`, training keeps only the last trial's: give the same "
            "`num_trials` as for training"
        )


def run_jobs(jobs: list[Job], overwrite: bool = False) -> None:
    """Runs the unfinished trials of all jobs; summarizes several tasks in a table.

    Raises:
        InputError: another process works on a job's results; they are of other settings and
            `overwrite` is false, see `trials.check_results`; or a trial fails.
    """
    with contextlib.ExitStack() as stack:
        for job in jobs:
            folder, name = os.path.split(job.results_path)
            advice = "Wait until it ends, or give this run a place of its own with --run-name"
            path = os.path.join(folder, f".{name}.lock")
            stack.enter_context(locked(path, job.results_path, advice))
            if not overwrite:
                trials.check_results(job)
        finished = {job.name: trials.finished_trials(job) for job in jobs}
        # Joint training has its own table, beside that of the same tasks trained alone.
        name = f"{jobs[0].name}_summary" if jobs[0].is_joint else "summary"
        has_table = sum(len(job.parts) for job in jobs) > 1 and jobs[0].config.do_eval
        for job in jobs:
            run_trials(job, jobs, finished)
            if has_table:
                table = summarize(jobs, finished)
                results_table.write(table, os.path.dirname(job.results_path), name)
                job.send()
        if has_table:
            print(f"\n{results_table.to_markdown(table)}", flush=True)


def try_jobs(jobs: list[Job], overwrite: bool = False) -> None:
    """Checks all that `run_jobs` would check, and runs one step of each job; writes nothing."""
    for job in jobs:
        if not overwrite:
            trials.check_results(job)
        trials.check_disk(job)
        try_one_step(job, {part.task.name: make_features(job, part) for part in job.parts})
    logging.info("dry run: nothing was written")


def run_trials(job: Job, jobs: list[Job], finished: dict[str, Trials]) -> None:
    """Runs a job's trials that are not in `finished`, and adds them to it."""
    own, config = finished[job.name], job.config
    for trial in own:
        unfinished.forget(job.checkpoints(trial))  # a run may have been killed before this
        for name, result in own[trial].items():
            logging.info("finished before: %s", trials.result_line(name, result))
    missing = [trial for trial in range(1, config.num_trials + 1) if trial not in own]
    if not config.do_train:
        missing = [trial for trial in missing if os.path.isdir(job.trained_model(trial))]
    if not missing:
        trials.write_results_as_text(job)  # a run may have been killed between the two
        model_card.write_finetuned(job)
        return
    trials.check_disk(job)  # before the features, which take a while, and before each trial
    features = {part.task.name: make_features(job, part) for part in job.parts}
    models = JobModels(job)
    for trial in missing:
        logging.info("%s: %s", job.name, trials.describe_progress(jobs, finished))
        trials.check_disk(job)
        own[trial] = run_trial(models, features, trial)
        trials.write_results(job, {trial: own[trial]})
        model_card.write_finetuned(job)
        if config.do_train:
            unfinished.forget(job.checkpoints(trial))
        job.send()
        for name, result in own[trial].items():
            logging.info("%s", trials.result_line(name, result))
    logging.info("results: %s", job.results_path)


def summarize(jobs: list[Job], finished: dict[str, Trials]) -> dict[str, Any]:
    """The table of all tasks, finished or not."""
    results = [
        results_table.TaskResults(
            part.task.name,
            part.task.metrics,
            [results[part.task.name] for _, results in sorted(finished[job.name].items())],
            job.config.num_trials,
            len(part.train) if part.train else None,
            len(part.dev["dev"]),
            dataclasses.asdict(job.config),
        )
        for job in jobs
        for part in job.parts
    ]
    return results_table.summarize(jobs[0].title, results)


def make_features(job: Job, part: TaskData) -> dict[str, Any]:
    """The features of a task's splits, by name."""
    make = functools.partial(part.task.make_features, job.encoder.tokenizer, options=job.config)
    splits = part.dev | part.tests
    features = {split: make(splits[split], training=False) for split in splits}
    if part.train:
        examples = part.task.training_examples(part.train, job.config)
        features["train"] = make(examples, training=True)
    return features


def run_trial(
    models: JobModels, features: dict[str, dict[str, Any]], trial: int
) -> dict[str, TrialResult]:
    """Runs a trial (from 1), writes its models and predictions, and returns each task's result."""
    from jobs import report

    started, job, config = time.time(), models.job, models.job.config
    metrics, outputs, trained = train_and_score(models, features, trial)
    seconds = time.time() - started + trained.pop("seconds_before", 0.0)
    training = {
        "trial": trial,
        "seed": job.seed(trial),
        "seconds": round(seconds, 1),
        "fingerprint": job.fingerprint(),
        "keep_all_models": config.keep_all_models,
    }
    # The order is important, because a run can be killed anywhere: the caller writes the results,
    # which mark the trial as finished, at the end.
    if config.do_train:
        save_models(job, models.by_task, trial)
    write_predictions(job, features, outputs, trial)
    results, before = {}, trials.kept_trials(job).get(trial, {})
    for part in job.parts:
        name = part.task.name
        scores = {
            "metrics": metrics[name],
            "num_examples": len(part.dev["dev"]) if config.do_eval else 0,
            "tests": {split: part.tests[split].sha256 for split in job.tests_of(part, trial)},
        }
        if config.do_train:
            training["settings"] = job.settings(part)
            results[name] = training | trained | scores
        else:
            known = before.get(name, training)
            results[name] = trials.merge_evaluation(job, part, known, scores)
    if config.do_eval:
        report.write(job, features, outputs, trials.kept_trials(job) | {trial: results}, trial)
    return results


def write_predictions(job: Job, features, outputs, trial: int) -> None:
    """Writes a trial's predictions for test sets and, if the task asks for it, for dev sets.

    `features` and `outputs` are by task and split.
    """
    for part in job.parts:
        name, splits = part.task.name, part.dev | part.tests
        for split, split_outputs in outputs[name].items():
            if split in part.dev and not part.task.predicts_dev:
                continue
            path = job.predictions(part.task, split, trial)
            split_features = features[name][split]
            part.task.write_predictions(splits[split], split_features, split_outputs, path)


def train_and_score(models: JobModels, features: dict[str, dict[str, Any]], trial: int):
    """A trial's scores, its outputs by split, each by task; and what `train` returns."""
    job, config = models.job, models.job.config
    models.start(trial)
    training = {}
    if config.do_train:
        train_features = {name: features[name]["train"] for name in models.by_task}
        training = train(models, train_features, trial, lambda: score(models, features))
    metrics, outputs = training.pop("found", None) or score(models, features)
    for part in job.parts:
        name = part.task.name
        for split in job.tests_of(part, trial):
            outputs[name][split] = predict(models, features, name, split, config.predict_batch_size)
    return metrics, outputs, training


def predict(models: JobModels, features, task: str, split: str, batch_size: int):
    """A model's outputs for one of its task's splits."""
    from pipelines.base import compute_outputs

    return compute_outputs(models.predictors[task], features[task][split], batch_size)


def score(models: JobModels, features: dict[str, dict[str, Any]]):
    """The scores by metric, and the outputs by dev split, of each task."""
    metrics, outputs = {}, {}
    for part in models.job.parts:
        name, task = part.task.name, part.task
        metrics[name], outputs[name] = {}, {}
        for split, examples in part.dev.items():
            found = predict(models, features, name, split, models.job.config.eval_batch_size)
            scores = task.score(examples, features[name][split], found)
            suffix = split.removeprefix("dev")  # accuracy, and accuracy_mismatched
            metrics[name] |= {metric + suffix: value for metric, value in scores.items()}
            outputs[name][split] = found
    return metrics, outputs


def train(models: JobModels, features, trial: int, evaluate) -> dict[str, Any]:
    """Fits a trial's models on the features of their tasks, jointly if there are several.

    As in the original's run_finetuning.py and model/optimization.py, losses are summed over the
    batch, and gradients are clipped to norm 1.

    `evaluate` returns the scores and the outputs of the current weights. Returns what
    `TrialProgress.finish` does, and `seconds_before`: how long earlier processes have trained the
    trial.
    """
    import keras

    from jobs.trial_progress import TrialProgress
    from model.training import memory
    from model.training.callbacks import StepCallbacks

    job, config = models.job, models.job.config
    title = f"{job.name} {trial}/{config.num_trials}"
    batches = models.training_batches(features, job.seed(trial))
    model = models.trainer(features, len(batches))
    num_examples = sum(map(len, features.values()))
    progress = TrialProgress(job, trial, model, evaluate, len(batches), num_examples)
    left = dataclasses.replace(batches, indices=batches.indices[progress.step :])
    stop = progress.stop
    with progress_bar(len(batches), title, unit="step", initial=progress.step) as bar:
        show = functools.partial(show_loss, bar, title, config.train_batch_size, progress)
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda step, logs=None: models.before_step(left.shape(step)),
            on_train_batch_end=show,
        )
        callbacks = StepCallbacks([progress, callback], model)
        with (
            contextlib.closing(progress),
            memory.explained(config, config.max_seq_length),
            stop,
            stop.deferred(),
        ):
            if not progress.is_done:
                model.fit(left.dataset(), shuffle=False, verbose=0, callbacks=callbacks)
    if stop.received:
        progress.leave()
    return progress.finish() | {"seconds_before": progress.seconds_before}


def show_loss(bar, title: str, batch_size: int, progress, step: int, logs: dict[str, Any]) -> None:
    """Advances the progress bar; checks and shows the loss at some steps and the last."""
    bar.update()
    # Reading the loss waits for the device.
    if bar.n % 10 == 1 or bar.n == bar.total or bar.n in progress.evaluated:
        mean_loss = float(logs["loss"]) / batch_size
        bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False, **progress.shown)
        if not math.isfinite(mean_loss):
            raise InputError(
                f"{title}: the loss is no longer finite at step {bar.n}. Try a lower "
                "`learning_rate`"
            )


def save_models(job: Job, models: dict[str, Any], trial: int) -> None:
    """Writes a trial's models with their tokenizers, and deletes those of earlier trials.

    The tokenizers record `max_seq_length`, so that new texts are cut as in training.
    """
    # First, because models must never stand beside the results of others.
    trials.write_results(job, {}, without=trial)
    directory = job.trained_model(trial)
    with files.atomic_directory(directory) as temporary:
        for name, model in models.items():
            folder = os.path.join(temporary, name) if job.is_joint else temporary
            model.save_pretrained(folder)
            job.encoder.tokenizer.save_pretrained(folder, job.config.max_seq_length)
            part = name if job.is_joint else ""
            model_card.keep_edited(os.path.join(directory, part), folder)
    for earlier, results in trials.kept_trials(job).items():
        # Deletes only models that a job with these settings wrote and would not keep.
        keeps = [result.get("keep_all_models", True) for result in results.values()]
        if earlier < trial and not job.config.keep_all_models and not any(keeps):
            shutil.rmtree(job.trained_model(earlier), ignore_errors=True)


if __name__ == "__main__":
    errors.run(main)
