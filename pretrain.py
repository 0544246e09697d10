"""Pre-trains a ConvBERT on TFRecords, ELECTRA-style; the same command resumes a stopped run.

    python3 pretrain.py --data-dir DATA_DIR --model-name NAME --hparams '{"model_size": "small"}'

Reads DATA_DIR/pretrain_tfrecords and DATA_DIR/vocab.txt, writes DATA_DIR/models/NAME.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import shutil
from typing import Any

from absl import logging

from common import errors, files
from common.errors import InputError
from common.fields import hyperparameter_table, require
from configure_pretraining import PretrainingConfig
from jobs import run_record
from jobs.stop_signals import StopSignals
from model.config import ConvBertConfig, load_hparams

# A resumed run may change these: they alter neither the data's order nor the state's shape. (More
# steps stretch the schedule from here on.)
CHANGEABLE = {
    "do_train",
    "do_eval",
    "num_train_steps",
    "steps_per_execution",
    "iterations_per_loop",
    "save_checkpoints_steps",
    "keep_checkpoints",
    "eval_batch_size",
    "gradient_accumulation_steps",
    "num_devices",
    "eval_every",
    "eval_tfrecords",
    "num_eval_steps",
    "init_checkpoint",
    "pretrain_tfrecords",
    "vocab_file",
    "jit_compile",
    "deterministic",
}


def parse_arguments(arguments=None):
    """The command line, and the hyper-parameters it describes."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"hyper-parameters:\n\n{hyperparameter_table(PretrainingConfig)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", required=True, help="holds the records and the models")
    parser.add_argument("--model-name", required=True, help="of the directory below models/")
    parser.add_argument(
        "--hparams",
        default="{}",
        help="hyper-parameters: a JSON object or the path of a file with one",
    )
    parsed = parser.parse_args(arguments)
    return parsed, PretrainingConfig.from_hparams(load_hparams(parsed.hparams))


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and all it needs, checked before anything is computed.

    Args:
        config: its `PretrainingConfig`.
        directory: DATA_DIR/models/NAME.
        metadata: of the records it trains on.
        evaluated: of the records it is scored on.
        tokenizer: of the vocabulary those were built with.
        network: the discriminator's `ConvBertConfig`.
        length: tokens a row, T.
        checkpoints: its `TrainingCheckpoints`.
    """

    config: PretrainingConfig
    directory: str
    metadata: Any
    evaluated: Any
    tokenizer: Any
    network: ConvBertConfig
    length: int
    checkpoints: Any


def main(arguments=None):
    """Checks everything, then trains, then evaluates."""
    args, config = parse_arguments(arguments)
    with StopSignals() as stop:
        # ---- input ---------------------------------------------------------------------------
        prepare_backend(config)
        run = open_run(args, config)

        # ---- model ---------------------------------------------------------------------------
        model, step = start_model(run)

        # ---- training ------------------------------------------------------------------------
        if config.do_train and step < config.num_train_steps:
            train(run, model, step, stop)
        if config.do_train:
            logging.info("step %s is done: %s", f"{config.num_train_steps:,}", run.directory)

        # ---- evaluation ----------------------------------------------------------------------
        if config.do_eval:
            evaluate(run, model, stop)


def prepare_backend(config):
    """Tells Keras's backend what it must know before it computes anything."""
    if config.deterministic:
        flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true"]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    import keras

    from data.tensorflow_setup import prepare_tensorflow
    from model.backends import distribution

    distribution.connect_processes(config.seed)
    prepare_tensorflow(
        keras.backend.backend() == "tensorflow", config.deterministic, config.num_devices
    )
    devices = {"devices": distribution.count_devices(config.num_devices)}
    parts = devices | {"gradient_accumulation_steps": config.gradient_accumulation_steps}
    distribution.check_batch("train_batch_size", config.train_batch_size, parts)
    if config.do_eval or config.eval_every:
        distribution.check_batch("eval_batch_size", config.eval_batch_size, devices)


def open_run(args, config):
    """Reads and checks everything the run needs but its state."""
    from data.records import batches
    from data.records import metadata as records
    from model.training.checkpoints import TrainingCheckpoints

    metadata, evaluated = open_records(args, config)
    vocab_file = config.vocab_file or os.path.join(args.data_dir, "vocab.txt")
    tokenizer = records.load_tokenizer(metadata, vocab_file)
    records.check_vocab(evaluated, tokenizer)
    length = config.max_seq_length or metadata.max_seq_length
    for each in (metadata, evaluated):
        batches.check_length(each, length)
    network = config.model_config(tokenizer.vocab_size)
    require(
        length <= network.max_position_embeddings,
        "max_seq_length",
        f"at most max_position_embeddings, {network.max_position_embeddings}",
        length,
    )
    directory = os.path.join(args.data_dir, "models", args.model_name)
    checkpoints = TrainingCheckpoints(
        os.path.join(directory, "checkpoints"), keep=config.keep_checkpoints
    )
    return Run(config, directory, metadata, evaluated, tokenizer, network, length, checkpoints)


def open_records(args, config):
    """The metadata of the records to train on, and of those to evaluate on."""
    from data.records import metadata as records

    records_dir = config.pretrain_tfrecords or os.path.join(args.data_dir, "pretrain_tfrecords")
    metadata = evaluated = records.load_metadata(records_dir)
    if config.eval_holdout_shards:
        metadata, evaluated = records.hold_out(metadata, config.eval_holdout_shards)
    if config.eval_tfrecords and (config.do_eval or config.eval_every):
        evaluated = records.load_metadata(config.eval_tfrecords)
    return metadata, evaluated


def start_model(run):
    """The compiled model in the state of the newest checkpoint, and that checkpoint's step."""
    import keras

    from model.pretraining import SpecialTokens
    from model.training.callbacks import make_model

    logging.set_verbosity(logging.INFO)
    config, tokenizer = run.config, run.tokenizer
    saved = run.checkpoints.newest()
    if saved:
        check_same_run(config, saved)
    elif not config.do_train:
        raise InputError(f"nothing to evaluate: no checkpoint in {run.checkpoints.directory}")
    special = SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    model = make_model(config, run.network, special)
    step = 0
    if saved:
        saved.restore(model)
        step = saved.step
        if config.init_checkpoint:
            logging.info("the run goes on from its own weights: `init_checkpoint` is ignored")
    elif config.init_checkpoint:
        initialize(run, model)
    logging.info(
        "%s on %s: %s parameters, %s at step %s of %s",
        config.model_size,
        keras.backend.backend(),
        f"{model.count_params():,}",
        "resuming" if step else "starting",
        f"{step:,}",
        f"{config.num_train_steps:,}",
    )
    return model, step


def initialize(run, model):
    """Gives a run that begins the weights of `init_checkpoint`, if its vocabulary is the run's."""
    from data import ConvBertTokenizer
    from data.tokenizer.saved_files import vocabulary_file
    from model.weights import warm_start

    path = run.config.init_checkpoint
    found = warm_start.find_models(path)
    directory = found["main"]
    vocab_file = vocabulary_file(directory)
    if not vocab_file.exists():
        logging.warning("%s is not there: only the vocabulary's size can be checked", vocab_file)
    else:
        theirs, ours = ConvBertTokenizer.from_pretrained(directory), run.tokenizer
        if theirs.vocab_sha256 != ours.vocab_sha256:
            raise InputError(
                f"the vocabulary of `init_checkpoint`, {vocab_file} ({theirs.vocab_size:,} tokens, "
                f"SHA-256 {theirs.vocab_sha256[:12]}…), is not that of the records "
                f"({ours.vocab_size:,} tokens, SHA-256 {ours.vocab_sha256[:12]}…). Build records "
                "with it: build_data.sh --vocab-file"
            )
    warm_start.initialize(model.saved_models(), found)


def check_same_run(config, saved):
    """Refuses to go on from a state with hyper-parameters that change what the run is."""
    changed = [
        f"{name} was {saved.hparams.get(name)!r}, is {value!r}"
        for name, value in dataclasses.asdict(config).items()
        if name not in CHANGEABLE and saved.hparams.get(name) != value
    ]
    if changed:
        raise InputError(
            f"{saved.path} is of a run with other hyper-parameters: {'; '.join(changed)}. Choose "
            "another --model-name, or the same values"
        )


def train(run, model, first_step, stop):
    """Runs the steps that are left, with log, progress and checkpoints."""
    from data.records import batches
    from model.backends import distribution

    config = run.config
    steps = config.num_train_steps - first_step
    rows = distribution.process_rows(config.train_batch_size)
    dataset = batches.training_batches(
        run.metadata, config.train_batch_size, config.seed, first_step, run.length, rows
    ).take(steps)  # the last call of the backend may have fewer than steps_per_execution
    interval = {"first_step": first_step, "last_step": config.num_train_steps}
    with explain_errors(run, run.metadata), stop.deferred():
        if distribution.writes():
            record_start(run, first_step)
        with contextlib.closing(training_log(run, interval)) as log:
            model.fit(
                dataset,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=training_callbacks(run, model, log, interval, stop),
            )
    if stop.received or model.stop_training:
        saved = run.checkpoints.last_good or "by process 0"
        stop.leave(f"saved {saved}. The same command goes on from there")


def record_start(run, first_step):
    """Notes in the run's directory what is started, and with what."""
    import keras

    from data.records.metadata import METADATA_FILE
    from model.training.checkpoints import write_errors_named

    entry = run_record.describe_start(
        first_step,
        dataclasses.asdict(run.config),
        os.path.join(run.metadata.records_dir, METADATA_FILE),
        keras.backend.backend(),
    )
    with write_errors_named(os.path.join(run.directory, run_record.FILE)):
        os.makedirs(run.directory, exist_ok=True)
        run_record.append_start(run.directory, entry)


def training_log(run, interval):
    """The log, of which one process of a run writes and shows something."""
    from model.backends import distribution
    from model.training.callbacks import TrainingLog

    path = write_scalars = None
    if distribution.writes():
        path = os.path.join(run.directory, "train_log.jsonl")
        write_scalars = tensorboard_writer(os.path.join(run.directory, "tensorboard"))
    return TrainingLog(
        path,
        write_scalars,
        tokens_per_step=run.config.train_batch_size * run.length,
        every=run.config.iterations_per_loop,
        **interval,
    )


def training_callbacks(run, model, log, interval, stop):
    """What happens between the steps, in this order."""
    from model.backends import distribution
    from model.training.callbacks import CheckFinite, SaveCheckpoints
    from model.training.evaluation import PeriodicEvaluation

    config = run.config
    save = SaveCheckpoints(
        saver(run, model),
        config.save_checkpoints_steps,
        stop_requested=lambda: distribution.any_process(stop.received is not None),
        # Where several processes must agree, they do so where they wait for the device anyway.
        ask_every=config.iterations_per_loop if distribution.process()[1] > 1 else 1,
        **interval,
    )
    callbacks = [
        CheckFinite(lambda *steps: not_finite_error(run, "the loss", *steps), **interval),
        log,
        save,
    ]
    if config.eval_every:
        score_now = functools.partial(score, run, model, stop)
        evaluation = PeriodicEvaluation(
            score_now, log.write_evaluation, config.eval_every, **interval
        )
        callbacks.insert(2, evaluation)  # a step's checkpoint follows its lines in the log
    return callbacks


def saver(run, model):
    """A function that writes a checkpoint: the models anyone can open, then the training state."""
    from model.backends import distribution
    from model.training.checkpoints import not_finite, write_errors_named

    hparams = dataclasses.asdict(run.config)
    temporary = os.path.join(run.directory, ".saving.tmp")

    def save():
        step = int(model.optimizer.iterations.numpy())
        if weight := not_finite(model):  # after a gradient that was not, from a loss that was
            raise not_finite_error(run, weight, step, step)
        if not distribution.writes():
            return f"{run.checkpoints.path(step)}, by process 0"
        # The state comes last: killed before it, the run does this step, and all of this, again.
        with write_errors_named(run.directory):
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                for directory in model.save_pretrained(temporary):
                    run.tokenizer.save_pretrained(directory)
                    name = os.path.basename(directory)
                    files.replace_directory(directory, os.path.join(run.directory, name))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return run.checkpoints.save(model, hparams)

    return save


def not_finite_error(run, what, first, last):
    """The error for a loss or a weight that is not finite after the steps `first` to `last`."""
    from data.records import batches

    config = run.config
    lines = []
    for step in range(first, last + 1):
        sources = batches.batch_sources(
            run.metadata, config.train_batch_size, config.seed, step - 1
        )
        lines += [
            f"\n  step {step:,}: {path}, record{'s' * (len(records) > 1)} "
            f"{', '.join(map(str, records[:8]))}{', …' * (len(records) > 8)}"
            for path, records in sources.items()
        ]
    steps = f"step {last:,}" if first == last else f"one of the steps {first:,} to {last:,}"
    return InputError(
        f"{what} is no longer finite after {steps}. {run.checkpoints.last_good_sentence()}; "
        "nothing was saved after it. A lower learning_rate or more num_warmup_steps may help, in "
        f"a run of another name. The batch came from{''.join(lines)}"
    )


def tensorboard_writer(directory):
    """A function (step, {name: value}) that writes TensorBoard event files."""
    import tensorflow as tf

    from model.training.checkpoints import write_errors_named

    def write_errors():
        return write_errors_named(directory, tf.errors.OpError)

    with write_errors():
        writer = tf.summary.create_file_writer(directory)

    def write(step, scalars):
        with write_errors(), writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
            writer.flush()

    return write


def score(run, model, stop):
    """The model's scores on `num_eval_steps` batches, by their names in the log.

    Returns:
        None if a signal came before the end.
    """
    from data.records import batches
    from model.backends import distribution
    from model.training.evaluation import StopEvaluation

    config = run.config
    if stop.received:
        return None
    watch = StopEvaluation(lambda: stop.received is not None)
    with explain_errors(run, run.evaluated):
        rows = distribution.process_rows(config.eval_batch_size)
        dataset = batches.evaluation_batches(
            run.evaluated, config.eval_batch_size, config.num_eval_steps, run.length, rows
        )
        scores = model.evaluate(dataset, verbose=0, return_dict=True, callbacks=[watch])
    if watch.stopped:
        return None
    return {f"eval_{name}": round(float(value), 6) for name, value in scores.items()}


def evaluate(run, model, stop):
    """Writes and prints the scores at the end."""
    from model.backends import distribution
    from model.training.callbacks import append_line
    from model.training.checkpoints import write_errors_named

    records_dir = str(run.evaluated.records_dir)
    line = {"step": int(model.optimizer.iterations.numpy())} | score(run, model, stop)
    if not distribution.writes():
        return
    path = os.path.join(run.directory, "results", "pretrain_results.json")
    with explain_errors(run, run.evaluated), write_errors_named(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_text(path, json.dumps(line | {"records": records_dir}, indent=2) + "\n")
        append_line(os.path.join(run.directory, "train_log.jsonl"), line)
    logging.info("evaluation on %s: %s", records_dir, json.dumps(line))


@contextlib.contextmanager
def explain_errors(run, metadata):
    """Says what a damaged record or a full disk means for the run."""
    import tensorflow as tf

    from data.records import metadata as records
    from model.training.checkpoints import WriteError

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise records.explain_data_error(error, metadata) from error
    except WriteError as error:
        raise InputError(
            f"{error}. {run.checkpoints.last_good_sentence()}. Make room, or whatever else it "
            "needs, and run the same command again"
        ) from error


if __name__ == "__main__":
    errors.run(main)
