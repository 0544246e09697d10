"""Fine-tunes a pre-trained model on tasks, scores it on their dev sets, writes predictions.

    python3 finetune.py --data-dir D --model-name N --hparams '{"task_names": ["cola"]}'
    python3 finetune.py --data-dir D --model-name N cola rte mrpc
    python3 finetune.py --data-dir D --model-name N my_task.json

A task is one of GLUE's, or described by a JSON file: see data/task_file.py.

Reads D/models/N/discriminator (or encoder) and D/finetuning_data/TASK; writes, below D/models/N,
results/TASK_results.json and .txt, test_predictions/TASK_SPLIT_TRIAL.tsv and the fine-tuned model
finetuning_models/TASK_TRIAL. A trial that is finished is not repeated. After several tasks comes
a table of all, which is printed and in results/summary.md, .json and .png.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

import errors
import files
from configure_finetuning import FinetuningConfig
from data import glue, summary, tasks
from data.task_file import get_task
from errors import InputError
from model.config import MODEL_SIZES, ConvBertConfig, load_hparams, override

# Where below models/MODEL_NAME an encoder may be: from replaced-token detection, from masked
# language modelling alone, or a saved model put there by hand.
ENCODER_DIRECTORIES = ("discriminator", "encoder", ".")

# Fields that change neither the trained model nor its scores (a trial's seed counts by itself).
NOT_IN_FINGERPRINT = (
    "do_train", "do_eval", "num_trials", "keep_all_models", "write_test_outputs", "n_writes_test",
    "eval_batch_size", "predict_batch_size", "seed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What every trial starts from: a saved model, or random weights if `directory` is None."""

    directory: str | None
    config: ConvBertConfig
    tokenizer: Any
    sha256: str


@dataclasses.dataclass(frozen=True)
class Job:
    """One task with all that was given for it, read and checked. Paths are below `model_dir`."""

    task: tasks.ClassificationTask
    config: FinetuningConfig
    encoder: Encoder | None
    model_dir: str
    train: tasks.Examples | None
    dev: tasks.Examples | None
    tests: dict[str, tasks.Examples]

    @property
    def results_path(self) -> str:
        """The results as JSON; the text beside it ends in `.txt`."""
        return os.path.join(self.model_dir, "results", f"{self.task.name}_results.json")

    @property
    def num_characters(self) -> float:
        """The size of a trial: the text it reads, that of training three times."""

        def size(examples):
            return sum(map(len, examples.texts)) + sum(map(len, examples.text_pairs or ()))

        read = sum(size(examples) for examples in (self.dev, *self.tests.values()) if examples)
        return read + 3 * self.config.num_train_epochs * (size(self.train) if self.train else 0)

    def trained_model(self, trial: int) -> str:
        """The directory of a trial's fine-tuned model."""
        return os.path.join(self.model_dir, "finetuning_models", f"{self.task.name}_{trial}")

    def predictions(self, split: str, trial: int) -> str:
        """The file of a trial's predictions for a test split."""
        name = f"{self.task.name}_{split}_{trial}.tsv"
        return os.path.join(self.model_dir, "test_predictions", name)

    def tests_of(self, trial: int) -> dict[str, tasks.Examples]:
        """The test splits that this trial writes predictions for."""
        return self.tests if trial <= self.config.n_writes_test else {}

    def fingerprint(self) -> str:
        """A hash of everything that decides a trial's outcome but its seed."""
        fields = dataclasses.asdict(self.config)
        for name in NOT_IN_FINGERPRINT:
            del fields[name]
        data = [examples and examples.sha256 for examples in (self.train, self.dev)]
        parts = [fields, self.task.identity(), self.encoder.sha256, data]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Checks everything that was given, then fine-tunes one task after the other."""
    args = parse_arguments(arguments)
    logging.set_verbosity(logging.INFO)
    configs = task_configs(args)
    first = next(iter(configs.values()))
    # Everything is read and checked before anything is written.
    jobs = [load_job(name, config, args) for name, config in configs.items()]
    import keras

    from data.devices import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow", first.deterministic)
    encoder = find_encoder(args, first)
    run_suite([dataclasses.replace(job, encoder=encoder) for job in jobs])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help='to train one by one: GLUE\'s, "all" for its nine, or JSON files that describe them',
    )
    parser.add_argument("--data-dir", required=True, help="holds models/ and finetuning_data/")
    parser.add_argument("--model-name", required=True, help="the model's folder in DATA_DIR/models")
    parser.add_argument("--hparams", default="{}", help="hyper-parameters: JSON text or a file")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from random weights of `model_size`, with the vocabulary DATA_DIR/vocab.txt",
    )
    return parser.parse_intermixed_args(arguments)


def task_configs(args: argparse.Namespace) -> dict[str, FinetuningConfig]:
    """The tasks asked for, in order, each with its checked hyper-parameters."""
    hparams = load_hparams(args.hparams)
    named = override(FinetuningConfig(), hparams).task_names
    if args.tasks and "task_names" in hparams:
        raise InputError("tasks are named as arguments and in `task_names`: name them in one place")
    if len(named) > 1:
        raise InputError(
            "`task_names` with several tasks means one model trained on all of them, which "
            "finetune.py does not do. To train each on its own, give them as arguments: "
            f"finetune.sh {' '.join(named)}"
        )
    configs, given = {}, {}
    for word in args.tasks or named:
        for name in glue.TASKS if word == "all" else [word]:
            task = get_task(name)
            if given.setdefault(task.name, name) != name:
                raise InputError(f"{given[task.name]} and {name} are both called {task.name}")
            configs[name] = FinetuningConfig.for_task(task.name, hparams)
    return configs


def load_job(name: str, config: FinetuningConfig, args: argparse.Namespace) -> Job:
    """Reads and checks the files of one task; the encoder is still to come."""
    directory = os.path.join(args.data_dir, "finetuning_data")
    task = tasks.complete(get_task(name), directory)
    train = tasks.load_examples(task, directory, "train") if config.do_train else None
    dev = tasks.load_examples(task, directory, "dev") if config.do_eval else None
    tests = tasks.load_test_examples(task, directory) if config.write_test_outputs else {}
    model_dir = os.path.join(args.data_dir, "models", args.model_name)
    job = Job(task, config, None, model_dir, train, dev, tests)
    if not config.do_train:
        for trial in range(1, config.num_trials + 1):
            if not os.path.isdir(job.trained_model(trial)):
                raise InputError(
                    f"no fine-tuned model to evaluate: {job.trained_model(trial)} is missing, and "
                    "`do_train` is false"
                )
    return job


def find_encoder(args: argparse.Namespace, config: FinetuningConfig) -> Encoder:
    """The pre-trained model and its tokenizer, checked against each other and `config`."""
    from data import ConvBertTokenizer
    from model import checkpoint

    if args.from_scratch:
        directory, source = None, args.data_dir
        tokenizer = ConvBertTokenizer.from_pretrained(args.data_dir)
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
        saved_config = checkpoint.read(directory).config
        check_size(config.model_size, saved_config, directory)
        model_config = override(saved_config, config.model_hparam_overrides)
        tokenizer = ConvBertTokenizer.from_pretrained(directory)
        identity = hash_files(directory, ("config.json", "model.safetensors"))
    if tokenizer.vocab_size != model_config.vocab_size:
        raise InputError(
            f"{os.path.join(source, 'vocab.txt')} has {tokenizer.vocab_size} tokens, but the "
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


def hash_files(directory: str, names: tuple[str, ...]):
    """A running SHA-256 over the contents of files in a directory."""
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(directory, name), "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest


def run_suite(jobs: list[Job]) -> None:
    """Runs the trials that are not finished, task after task; sums up where there are several."""
    finished = {job.task.name: read_results(job) for job in jobs}
    for job in jobs:
        finetune(job, finished[job.task.name], lambda: progress(jobs, finished))
        if len(jobs) > 1 and job.config.do_eval:
            table = summarize(jobs, finished)
            summary.write(table, os.path.dirname(job.results_path))
    if len(jobs) > 1 and job.config.do_eval:
        print(f"\n{summary.to_markdown(table)}", flush=True)


def summarize(jobs: list[Job], finished: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """The table of all tasks, of which some may not be finished."""
    results = [
        summary.TaskResults(
            job.task.name,
            [entry for _, entry in sorted(finished[job.task.name].items())],
            job.config.num_trials,
            len(job.train) if job.train else None,
            len(job.dev),
            dataclasses.asdict(job.config),
        )
        for job in jobs
    ]
    return summary.summarize(os.path.basename(jobs[0].model_dir), results)


def progress(jobs: list[Job], finished: dict[str, dict[int, Any]]) -> str:
    """Which trial of how many comes next, and how long all that are left may take.

    A trial is taken to be as long as the task's finished ones; before the first of them, as long as
    its text is in proportion to what is finished.
    """
    done = sum(map(len, finished.values()))
    where = f"trial {done + 1} of {sum(job.config.num_trials for job in jobs)}"
    if not done:
        return where
    spent, size = 0.0, 0.0
    for job in jobs:
        seconds = [entry["seconds"] for entry in finished[job.task.name].values()]
        spent, size = spent + sum(seconds), size + job.num_characters * len(seconds)
    left = 0.0
    for job in jobs:
        entries = finished[job.task.name]
        one = job.num_characters * spent / size
        if entries:
            one = sum(entry["seconds"] for entry in entries.values()) / len(entries)
        left += one * (job.config.num_trials - len(entries))
    hours, minutes = divmod(math.ceil(left / 60), 60)
    return f"{where}, about {f'{hours} h ' if hours else ''}{minutes} min left"


def finetune(job: Job, finished: dict[int, Any], describe_progress: Callable[[], str]) -> None:
    """Runs the trials of one task that are not in `finished`, and puts them there."""
    from data.features import make_features

    for trial in sorted(finished):
        logging.info("finished before: %s", result_line(job.task, finished[trial]))
    trials = [t for t in range(1, job.config.num_trials + 1) if t not in finished]
    if not trials:
        write_results_as_text(job)  # a run may have ended between the two files
        return
    train = job.train
    if train and job.task.unordered and job.config.double_unordered:
        train = train.with_swapped_pairs()
    splits = {"train": train, "dev": job.dev, **job.tests}
    features = {
        split: make_features(job.encoder.tokenizer, examples, job.config.max_seq_length)
        for split, examples in splits.items()
        if examples is not None
    }
    for trial in trials:
        logging.info("%s: %s", job.task.name, describe_progress())
        finished[trial] = run_trial(job, features, trial)
        write_results(job, finished)
        logging.info("%s", result_line(job.task, finished[trial]))
    logging.info("results: %s", job.results_path)


def run_trial(job: Job, features: dict[str, Any], trial: int) -> dict[str, Any]:
    """Trains and scores once; writes the model and the predictions; returns the results' entry."""
    import keras

    from classifier import compute_logits
    from data.metrics import compute_metrics

    started, config, seed = time.time(), job.config, job.config.seed + trial - 1
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = build_model(job, trial)
    if config.do_train:
        title = f"{job.task.name} {trial}/{config.num_trials}"
        train(model, features["train"], job, seed, title)
    metrics = {}
    if config.do_eval:
        logits = compute_logits(model, features["dev"], config.eval_batch_size)
        predictions = tasks.predictions(job.task.problem_type, logits, job.task.score_range)
        metrics = compute_metrics(job.task.metrics, job.dev.labels, predictions)
    tests = job.tests_of(trial)
    logits = {
        split: compute_logits(model, features[split], config.predict_batch_size) for split in tests
    }
    if config.do_train:
        # Results of other settings must not stand beside this trial's model if it ends here.
        write_results(job, read_results(job))
        tokenizer, directory = job.encoder.tokenizer, job.trained_model(trial)
        save_model(model, tokenizer, directory, config.max_seq_length)
        for before in range(1, 1 if config.keep_all_models else trial):
            shutil.rmtree(job.trained_model(before), ignore_errors=True)
    for split in tests:
        write_predictions(job.task, logits[split], job.predictions(split, trial))
    return {
        "trial": trial,
        "metrics": metrics,
        "num_examples": len(job.dev) if config.do_eval else 0,
        "seed": seed,
        "seconds": round(time.time() - started, 1),
        "fingerprint": job.fingerprint(),
        "tests": {split: examples.sha256 for split, examples in tests.items()},
    }


def build_model(job: Job, trial: int):
    """The encoder with the task's head; without training, the model a training run left."""
    from model import ConvBertForSequenceClassification
    from model.training import default_jit_compile

    task, config = job.task, job.config
    fields = {
        "num_labels": task.num_labels,
        "problem_type": task.problem_type,
        "id2label": task.labels or None,
        "score_range": task.score_range,
        "mask_padding": config.mask_padding,
    }
    if not config.do_train:
        model = ConvBertForSequenceClassification.from_pretrained(job.trained_model(trial))
        found, wanted = (c.to_hf_dict("") for c in (model.config, override(model.config, fields)))
        for name in ("problem_type", "id2label", "score_range"):
            if found[name] != wanted[name]:
                raise InputError(
                    f"{job.trained_model(trial)} was trained for another task than {task.name}: "
                    f"its `{name}` is {found[name]}, and not {wanted[name]}"
                )
        model.compile(jit_compile=default_jit_compile())
        return model
    if job.encoder.directory is None:
        return ConvBertForSequenceClassification(
            override(job.encoder.config, fields), classifier_head=config.classifier_head
        )
    return ConvBertForSequenceClassification.from_pretrained(
        job.encoder.directory,
        classifier_head=config.classifier_head,
        **(config.model_hparam_overrides | fields),
    )


def train(model, features, job: Job, seed: int, title: str) -> None:
    """Fits the model, as the original does: losses summed over the batch, then clipped to norm 1.

    Source: run_finetuning.py and model/optimization.py of the release.
    """
    import keras

    from data.features import training_batches
    from model.optimizer import create_optimizer
    from model.training import default_jit_compile

    config, jit_compile = job.config, default_jit_compile()
    batches = training_batches(
        features,
        config.train_batch_size,
        config.num_train_epochs,
        seed,
        pad_to_max=not config.mask_padding,
        few_lengths=jit_compile,
    )
    steps = int(batches.cardinality())
    is_wide = model.config.hidden_size >= MODEL_SIZES["base"].hidden_size
    optimizer = create_optimizer(
        config.learning_rate or (1e-4 if is_wide else 3e-4),
        num_train_steps=steps,
        num_warmup_steps=steps * config.warmup_proportion,
        weight_decay_rate=config.weight_decay_rate,
        layerwise_lr_decay=config.layerwise_lr_decay,
        num_hidden_layers=model.config.num_hidden_layers,
    )
    if job.task.problem_type == tasks.REGRESSION:
        loss = keras.losses.MeanSquaredError(reduction="sum")
    elif job.task.problem_type == tasks.MULTI_LABEL:  # the mean over an example's labels
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(optimizer, loss=loss, jit_compile=jit_compile)
    with tqdm(total=steps, desc=title, unit="step", mininterval=1) as bar:

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


def write_predictions(task: tasks.ClassificationTask, logits: np.ndarray, path: str) -> None:
    """One row an example: its index, its label, labels or score as in the task's files, logits."""
    lines = ["index\tprediction\tlogits"]
    answers = tasks.answers(task.problem_type, logits, task.labels, task.score_range)
    for index, answer in enumerate(answers):
        numbers = " ".join(f"{number:.6f}" for number in logits[index])
        lines.append(f"{index}\t{tasks.answer_text(answer, task.label_delimiter)}\t{numbers}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_text(path, "\n".join(lines) + "\n")


def save_model(model, tokenizer, directory: str, max_seq_length: int) -> None:
    """Writes the model and its tokenizer; the directory appears whole or stays as it was.

    Texts to be classified are to be cut as those trained on were, to `max_seq_length`.
    """
    temporary = directory + ".tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary, max_seq_length)
    files.replace_directory(temporary, directory)


def read_results(job: Job) -> dict[int, dict[str, Any]]:
    """The entries of trials that need no repeating, by trial.

    A trial is finished if it was run with the same hyper-parameters, model and data, and what it
    had to write is there.
    """
    if not (job.config.do_train and os.path.isfile(job.results_path)):
        return {}
    try:
        with open(job.results_path, encoding="utf-8") as file:
            entries = json.load(file)[job.task.name]
        return {entry["trial"]: entry for entry in entries if is_finished(job, entry)}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{job.results_path} is not a results file ({error!r}): move it away"
        ) from None


def is_finished(job: Job, entry: dict[str, Any]) -> bool:
    """Whether a results entry is what this job would compute; see `read_results`."""
    config, trial = job.config, entry["trial"]
    expected = (job.fingerprint(), config.seed + trial - 1)
    if (entry["fingerprint"], entry["seed"]) != expected or trial > config.num_trials:
        return False
    if config.do_eval and not entry["metrics"]:
        return False
    needs_model = config.keep_all_models or trial == config.num_trials
    return (not needs_model or os.path.isdir(job.trained_model(trial))) and all(
        entry["tests"].get(split) == examples.sha256
        and os.path.isfile(job.predictions(split, trial))
        for split, examples in job.tests_of(trial).items()
    )


def write_results(job: Job, entries: dict[int, dict[str, Any]]) -> None:
    """Writes the results so far as JSON and as text."""
    ordered = [entries[trial] for trial in sorted(entries)]
    os.makedirs(os.path.dirname(job.results_path), exist_ok=True)
    files.write_text(job.results_path, json.dumps({job.task.name: ordered}, indent=2) + "\n")
    write_results_as_text(job)


def write_results_as_text(job: Job) -> None:
    """Says in words what the JSON file says, if the text beside it does not say it already."""
    with open(job.results_path, encoding="utf-8") as file:
        entries = json.load(file)[job.task.name]
    lines = [result_line(job.task, entry) for entry in entries]
    if len(entries) > 1:
        for name in entries[0]["metrics"]:
            values = [entry["metrics"][name] for entry in entries if name in entry["metrics"]]
            if len(values) == len(entries):
                numbers = summary.over_trials(values)
                words = ", ".join(f"{key} {value:.2f}" for key, value in numbers.items())
                lines.append(f"{job.task.name} {name}: {words}")
    path = os.path.splitext(job.results_path)[0] + ".txt"
    text = "\n".join(lines) + "\n"
    if not os.path.isfile(path) or pathlib.Path(path).read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def result_line(task: tasks.ClassificationTask, entry: dict[str, Any]) -> str:
    """One trial's result in words."""
    scores = " - ".join(f"{name}: {value:.2f}" for name, value in entry["metrics"].items())
    return (
        f"{task.name} trial {entry['trial']}: {scores or 'not scored'} "
        f"({entry['num_examples']} dev examples, seed {entry['seed']}, {entry['seconds']} s)"
    )


if __name__ == "__main__":
    errors.run(main)
