"""Fine-tunes a pre-trained model on tasks, scores it on their dev sets, writes predictions.

    python3 finetune.py --data-dir D --model-name N --hparams '{"task_names": ["cola"]}'
    python3 finetune.py --data-dir D --model-name N cola rte mrpc
    python3 finetune.py --data-dir D --model-name N my_task.json
    python3 finetune.py --data-dir D --model-name N --hparams '{"task_names": ["mnli", "rte"]}'

A task is one of GLUE's, or described by a JSON file: see data/tasks/registry.py. Tasks that are
given as arguments are learned one after the other; several `task_names` by one encoder, jointly.

Reads D/models/N/discriminator (or encoder) and D/finetuning_data/TASK; writes, below D/models/N,
results/TASK_results.json and .txt, test_predictions/TASK_SPLIT_TRIAL.tsv and the fine-tuned model
finetuning_models/TASK_TRIAL (of joint tasks results/A+B_results.json, test_predictions/A+B/ and
finetuning_models/A+B_TRIAL/TASK). A trial that is finished is not repeated. After several tasks
comes a table of all, which is printed and in results/summary.md, .json and .png.
"""

import argparse
import dataclasses
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from common import errors, files
from common.console import progress_bar
from common.errors import InputError
from common.fields import hyperparameter_table, override
from configure_finetuning import FinetuningConfig
from data.tasks import glue
from data.tasks.registry import get_task
from jobs import results_table
from jobs.trials import (
    Encoder,
    Job,
    TaskData,
    read_results,
    result_line,
    trained_entry,
    write_results,
    write_results_as_text,
)
from model.config import MODEL_SIZES, ConvBertConfig, load_hparams

# Where below models/MODEL_NAME an encoder may be: from replaced-token detection, from masked
# language modeling alone, or a saved model put there by hand.
ENCODER_DIRECTORIES = ("discriminator", "encoder", ".")


def main(arguments: list[str] | None = None) -> None:
    """Checks everything that was given, then fine-tunes one task after the other."""
    args = parse_arguments(arguments)
    logging.set_verbosity(logging.INFO)
    configs = job_configs(args)
    first = configs[0]
    # Everything is read and checked before anything is written.
    jobs = [load_job(config, args) for config in configs]
    import keras

    from data.tensorflow_setup import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow", first.deterministic)
    encoder = find_encoder(args, first)
    run_suite([dataclasses.replace(job, encoder=encoder) for job in jobs])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"hyper-parameters:\n\n{hyperparameter_table(FinetuningConfig)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help='to train one by one: GLUE\'s, "all" for its nine, or JSON files that describe them',
    )
    parser.add_argument("--data-dir", required=True, help="holds models/ and finetuning_data/")
    parser.add_argument("--model-name", required=True, help="the model's folder in DATA_DIR/models")
    parser.add_argument("--hparams", default="{}", help="a JSON object, or a file with one")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from random weights of `model_size`, with the vocabulary DATA_DIR/vocab.txt",
    )
    return parser.parse_intermixed_args(arguments)


def job_configs(args: argparse.Namespace) -> list[FinetuningConfig]:
    """What is to be trained, in order: the checked hyper-parameters of one job each."""
    hparams = load_hparams(args.hparams)
    joint = override(FinetuningConfig(), hparams).task_names
    if args.tasks and "task_names" in hparams:
        raise InputError("tasks are named as arguments and in `task_names`: name them in one place")
    words = [name for word in args.tasks for name in (glue.TASKS if word == "all" else [word])]
    groups = [(word,) for word in dict.fromkeys(words)] or [joint]
    given: dict[str, str] = {}
    for word in (word for group in groups for word in group):
        name = get_task(word).name
        if name in given:
            raise InputError(f"{given[name]} and {word} are both called {name}")
        given[name] = word
    return [FinetuningConfig.for_tasks(group, hparams) for group in groups]


def load_job(config: FinetuningConfig, args: argparse.Namespace) -> Job:
    """Reads and checks the files of a job's tasks; the encoder is still to come."""
    directory = os.path.join(args.data_dir, "finetuning_data")
    parts = []
    for name in config.task_names:
        task = get_task(name).complete(directory)
        train = task.load(directory, "train") if config.do_train else None
        dev = {"dev": task.load(directory, "dev")} if config.do_eval else {}
        if config.do_eval:
            dev |= task.load_if_there(directory, task.more_dev_splits)
        tests = task.load_if_there(directory, task.test_splits) if config.write_test_outputs else {}
        parts.append(TaskData(task, train, dev, tests))
    job = Job(tuple(parts), config, None, os.path.join(args.data_dir, "models", args.model_name))
    if not config.do_train:
        for trial in range(1, config.num_trials + 1):
            for part in job.parts:
                model = job.trained_model(trial, part.task)
                if not os.path.isdir(model):
                    raise InputError(
                        f"no fine-tuned model to evaluate: {model} is missing, and `do_train` is "
                        "false"
                    )
    return job


def find_encoder(args: argparse.Namespace, config: FinetuningConfig) -> Encoder:
    """The pre-trained model and its tokenizer, checked against each other and `config`."""
    from data import ConvBertTokenizer
    from data.tokenizer.saved_files import vocabulary_file
    from model.weights import pretrained

    if args.from_scratch:
        directory, source = None, args.data_dir
        tokenizer = ConvBertTokenizer.from_pretrained(Path(args.data_dir))  # no name of the hub
        overrides = {"vocab_size": tokenizer.vocab_size} | config.model_hparam_overrides
        model_config = ConvBertConfig.from_size(config.model_size or "medium-small", **overrides)
        identity = hashlib.sha256(repr(model_config).encode())
    else:
        model_dir = os.path.join(args.data_dir, "models", args.model_name)
        folders = [os.path.normpath(os.path.join(model_dir, d)) for d in ENCODER_DIRECTORIES]
        found = [d for d in folders if os.path.isfile(os.path.join(d, "config.json"))]
        if not found:
            raise InputError(
                f"no pre-trained model: none of {', '.join(folders)} has a config.json. Run "
                "pretrain.sh first, or say --from-scratch to start from random weights"
            )
        directory = source = found[0]
        saved = pretrained.read(directory)
        saved_config = saved.config
        check_size(config.model_size, saved_config, directory)
        model_config = override(saved_config, config.model_hparam_overrides)
        tokenizer = ConvBertTokenizer.from_pretrained(directory)
        identity = hash_files(os.path.join(directory, "config.json"), *saved.paths)
    if tokenizer.vocab_size != model_config.vocab_size:
        raise InputError(
            f"{vocabulary_file(source)} has {tokenizer.vocab_size} tokens, but the "
            f"model's `vocab_size` is {model_config.vocab_size}: it is not this model's vocabulary"
        )
    if config.max_seq_length > model_config.max_position_embeddings:
        raise InputError(
            f"`max_seq_length` is {config.max_seq_length}, but the model has positions for "
            f"{model_config.max_position_embeddings} tokens (`max_position_embeddings`)"
        )
    identity.update(tokenizer.vocab_sha256.encode())
    identity.update(bytes([tokenizer.do_lower_case, tokenizer.strip_accents]))
    return Encoder(directory, model_config, tokenizer, identity.hexdigest())


def check_size(size: str | None, saved: ConvBertConfig, directory: str) -> None:
    """Refuses a `model_size` that the saved model does not have."""
    if size is None:
        return
    for field, expected in MODEL_SIZES[size].config_fields().items():
        if getattr(saved, field) != expected:
            raise InputError(
                f'`model_size` is "{size}", with {field} {expected}, but the model in {directory} '
                f"has {getattr(saved, field)}. Leave `model_size` out to take the model as it is"
            )


def hash_files(*paths: str):
    """A running SHA-256 over the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest


def run_suite(jobs: list[Job]) -> None:
    """Runs the trials that are not finished, job after job; sums up several tasks in a table."""
    finished = {job.name: read_results(job) for job in jobs}
    # The table of a joint job stays beside that of the same tasks on their own.
    name = f"{jobs[0].name}_summary" if jobs[0].is_joint else "summary"
    has_table = sum(len(job.parts) for job in jobs) > 1 and jobs[0].config.do_eval
    for job in jobs:
        finetune(job, finished[job.name], lambda: progress(jobs, finished))
        if has_table:
            table = summarize(jobs, finished)
            results_table.write(table, os.path.dirname(job.results_path), name)
    if has_table:
        print(f"\n{results_table.to_markdown(table)}", flush=True)


def summarize(jobs: list[Job], finished: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """The table of all tasks, of which some may not be finished."""
    results = [
        results_table.TaskResults(
            part.task.name,
            part.task.metrics,
            [entries[part.task.name] for _, entries in sorted(finished[job.name].items())],
            job.config.num_trials,
            len(part.train) if part.train else None,
            len(part.dev["dev"]),
            dataclasses.asdict(job.config),
        )
        for job in jobs
        for part in job.parts
    ]
    return results_table.summarize(os.path.basename(jobs[0].model_dir), results)


def progress(jobs: list[Job], finished: dict[str, dict[int, Any]]) -> str:
    """Which trial of how many comes next, and how long all that are left may take.

    A trial is taken to be as long as the job's finished ones; before the first of them, as long as
    its text is in proportion to what is finished.
    """
    done = sum(map(len, finished.values()))
    where = f"trial {done + 1} of {sum(job.config.num_trials for job in jobs)}"
    if not done:
        return where
    spent, size = 0.0, 0.0
    for job in jobs:
        spent += sum(map(seconds_of, finished[job.name].values()))
        size += job.num_characters * len(finished[job.name])
    left = 0.0
    for job in jobs:
        trials = finished[job.name].values()
        one = job.num_characters * spent / size
        if trials:
            one = sum(map(seconds_of, trials)) / len(trials)
        left += one * (job.config.num_trials - len(trials))
    hours, minutes = divmod(math.ceil(left / 60), 60)
    return f"{where}, about {f'{hours} h ' if hours else ''}{minutes} min left"


def seconds_of(entries: dict[str, Any]) -> float:
    """How long a trial took, of which each task has an entry."""
    return next(iter(entries.values()))["seconds"]


def finetune(job: Job, finished: dict[int, Any], describe_progress: Callable[[], str]) -> None:
    """Runs the trials of a job that are not in `finished`, and puts them there."""
    for trial in sorted(finished):
        for name, entry in finished[trial].items():
            logging.info("finished before: %s", result_line(name, entry))
    trials = [t for t in range(1, job.config.num_trials + 1) if t not in finished]
    if not trials:
        write_results_as_text(job)  # a run may have ended between the two files
        return
    features = {part.task.name: make_features(job, part) for part in job.parts}
    for trial in trials:
        logging.info("%s: %s", job.name, describe_progress())
        finished[trial] = run_trial(job, features, trial)
        write_results(job, finished)
        for name, entry in finished[trial].items():
            logging.info("%s", result_line(name, entry))
    logging.info("results: %s", job.results_path)


def make_features(job: Job, part: TaskData) -> dict[str, Any]:
    """The features of a task's splits, by name."""
    tokenizer, config = job.encoder.tokenizer, job.config
    splits = part.dev | part.tests
    features = {
        split: part.task.make_features(tokenizer, examples, config, training=False)
        for split, examples in splits.items()
    }
    if part.train:
        examples = part.task.training_examples(part.train, config)
        features["train"] = part.task.make_features(tokenizer, examples, config, training=True)
    return features


def run_trial(job: Job, features: dict[str, dict[str, Any]], trial: int) -> dict[str, Any]:
    """Trains and scores once; writes models and predictions; returns each task's results' entry."""
    import keras

    started, config, seed = time.time(), job.config, job.config.seed + trial - 1
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    models = build_models(job, trial)
    if config.do_train:
        title = f"{job.name} {trial}/{config.num_trials}"
        training = {name: features[name]["train"] for name in models}
        train(models, training, config, seed, title)
    metrics, outputs = {}, {}
    for part in job.parts:
        name = part.task.name
        metrics[name], outputs[name] = evaluate(job, part, models[name], features[name], trial)
    if config.do_train:
        # Results of other settings must not stand beside this trial's models if it ends here.
        write_results(job, read_results(job))
        save_models(job, models, trial)
    for part in job.parts:
        for split, found in outputs[part.task.name].items():
            path = job.predictions(part.task, split, trial)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            examples = (part.dev | part.tests)[split]
            given = (examples, features[part.task.name][split], found)
            part.task.write_predictions(*given, path)
    trained = {
        "trial": trial,
        "seed": seed,
        "seconds": round(time.time() - started, 1),
        "fingerprint": job.fingerprint(),
    }
    entries = {}
    for part in job.parts:
        # A model that was only scored stays the one that was trained.
        known = {} if config.do_train else trained_entry(job, part.task, trial)
        entries[part.task.name] = (known or trained) | {
            "metrics": metrics[part.task.name],
            "num_examples": len(part.dev["dev"]) if config.do_eval else 0,
            "tests": {split: part.tests[split].sha256 for split in job.tests_of(part, trial)},
        }
    return entries


def evaluate(job: Job, part: TaskData, model, features: dict[str, Any], trial: int):
    """A task's scores by metric's name, and the outputs to be written as predictions by split."""
    from pipelines.base import compute_outputs

    metrics, outputs, task = {}, {}, part.task
    for split, examples in part.dev.items():
        found = compute_outputs(model, features[split], job.config.eval_batch_size)
        scores = task.score(examples, features[split], found)
        suffix = split.removeprefix("dev")  # accuracy, and accuracy_mismatched
        metrics |= {metric + suffix: score for metric, score in scores.items()}
        if task.predicts_dev:
            outputs[split] = found
    for split in job.tests_of(part, trial):
        outputs[split] = compute_outputs(model, features[split], job.config.predict_batch_size)
    return metrics, outputs


def build_models(job: Job, trial: int) -> dict[str, Any]:
    """A model for each task, all with the same encoder; without training, the trained ones."""
    import model as library
    from model.training.callbacks import default_jit_compile

    models: dict[str, Any] = {}
    for task in (part.task for part in job.parts):
        fields = task.model_fields() | {"mask_padding": job.config.mask_padding}
        kind = getattr(library, task.architecture)
        if not job.config.do_train:
            models[task.name] = load_trained(kind, job.trained_model(trial, task), task, fields)
            continue
        fields["task_specific_params"] = task.saved_options(job.config) or None
        options = task.model_options(job.config)
        if models:
            options["convbert"] = next(iter(models.values())).convbert
        if job.encoder.directory is None:
            models[task.name] = kind(override(job.encoder.config, fields), **options)
        else:
            overrides = job.config.model_hparam_overrides | fields | options
            models[task.name] = kind.from_pretrained(job.encoder.directory, **overrides)
    for model in models.values():
        model.compile(optimizer=None, jit_compile=default_jit_compile())  # to predict
    return models


def load_trained(kind, directory: str, task, fields: dict[str, Any]):
    """A fine-tuned model, which must be one for `task`."""
    model = kind.from_pretrained(directory)
    found, wanted = (c.to_hf_dict("") for c in (model.config, override(model.config, fields)))
    for name in sorted(found):
        if found[name] != wanted[name]:
            raise InputError(
                f"{directory} was trained for another task than {task.name}: its `{name}` is "
                f"{found[name]}, and not {wanted[name]}"
            )
    return model


def train(models, features, config: FinetuningConfig, seed: int, title: str) -> None:
    """Fits the model, as the original does: losses summed over the batch, then clipped to norm 1.

    Source: run_finetuning.py and model/optimization.py of the release.

    Args:
        models: by task's name; several share an encoder, and are trained jointly.
        features: the training sets, by the same names.
        config: the hyper-parameters.
        seed: of the data's order.
        title: of the progress bar.
    """
    import keras

    from data.tasks.batching import join_features, training_batches
    from model.joint import JointModel
    from model.training.callbacks import default_jit_compile
    from model.training.optimizer import create_optimizer

    jit_compile = default_jit_compile()
    is_joint = len(models) > 1
    model = JointModel(models) if is_joint else next(iter(models.values()))
    batches = training_batches(
        join_features(features) if is_joint else next(iter(features.values())),
        config.train_batch_size,
        config.num_train_epochs,
        seed,
        pad_to_max=not config.mask_padding,
        bucket_lengths=jit_compile,
    )
    steps = int(batches.cardinality())
    encoder = next(iter(models.values())).config
    is_wide = encoder.hidden_size >= MODEL_SIZES["base"].hidden_size
    optimizer = create_optimizer(
        config.learning_rate or (1e-4 if is_wide else 3e-4),
        num_train_steps=steps,
        num_warmup_steps=steps * config.warmup_proportion,
        weight_decay_rate=config.weight_decay_rate,
        layerwise_lr_decay=config.layerwise_lr_decay,
        num_hidden_layers=encoder.num_hidden_layers,
    )
    model.compile(optimizer, **model.objective("sum"), jit_compile=jit_compile)
    with progress_bar(steps, title, unit="step") as bar:

        def show(step, logs):
            bar.update()
            if step % 10 == 0 or step == steps - 1:  # reading the loss waits for the device
                mean_loss = float(logs["loss"]) / config.train_batch_size
                bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
                if not np.isfinite(mean_loss):
                    raise InputError(
                        f"{title}: the loss is no longer a finite number at step {step + 1}. "
                        "Try a lower `learning_rate`"
                    )

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=show)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[callback])


def save_models(job: Job, models: dict[str, Any], trial: int) -> None:
    """Writes a trial's models, each with its tokenizer, and drops those of the trials before.

    The trial's directory appears whole or stays as it was. Texts that the models are given are to
    be cut as those trained on were, to `max_seq_length`.
    """
    directory = job.trained_model(trial)
    with files.atomic_directory(directory) as temporary:
        for name, model in models.items():
            folder = os.path.join(temporary, name) if job.is_joint else temporary
            model.save_pretrained(folder)
            job.encoder.tokenizer.save_pretrained(folder, job.config.max_seq_length)
    for before in range(1, 1 if job.config.keep_all_models else trial):
        shutil.rmtree(job.trained_model(before), ignore_errors=True)


if __name__ == "__main__":
    errors.run(main)
