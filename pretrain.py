"""Pre-trains a ConvBERT on TFRecords, ELECTRA-style; the same command resumes a stopped run.

    python3 pretrain.py --data-dir DATA_DIR --model-name NAME --hparams '{"model_size": "small"}'

Reads DATA_DIR/pretrain_tfrecords and DATA_DIR/vocab.txt, writes DATA_DIR/models/NAME.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any

from absl import logging

from common import console, errors, files
from common.errors import InputError
from common.fields import require
from configure_pretraining import PretrainingConfig
from jobs import model_card, run_record, same_run, working_copy
from jobs.command_line import job_parser, print_config
from jobs.loggers import Loggers
from jobs.prepare import check_batches, prepare_backend
from jobs.stop_signals import StopSignals
from model.config import ConvBertConfig, load_hparams

# Bytes per weight: a checkpoint has it and two moments, and the models are saved beside it.
STATE_SIZE = 4 * 4


def main(arguments=None):
    """Checks the input, then trains, then evaluates."""
    args, config = parse_arguments(arguments)
    if args.print_config:
        print_config(config)
        return
    with StopSignals() as stop, contextlib.ExitStack() as stack:
        # ---- input ---------------------------------------------------------------------------
        kept_in = None if args.dry_run else args.data_dir
        num_devices = prepare_backend(config, kept_in, connect=True)
        check_batches(config, num_devices, {"eval_batch_size": config.do_eval or config.eval_every})
        run = open_run(args, config)
        if not args.dry_run:
            stack.enter_context(same_run.lock(run.directory))

        # ---- model ---------------------------------------------------------------------------
        model, step = start_model(run)

        if args.dry_run:
            try_one_step(run, model, step, stop)
            return

        # ---- training ------------------------------------------------------------------------
        if config.do_train and step < config.num_train_steps:
            train(run, model, step, stop)
        if config.do_train:
            logging.info("trained %s steps: %s", f"{config.num_train_steps:,}", run.directory)

        # ---- evaluation ----------------------------------------------------------------------
        if config.do_eval:
            evaluate(run, model, stop)


def parse_arguments(arguments=None):
    """The command line, and the hyper-parameters it describes."""
    args = job_parser(__doc__, PretrainingConfig).parse_args(arguments)
    config = PretrainingConfig.from_hparams(load_hparams(args.hparams))
    if config.do_train and config.num_warmup_steps >= config.num_train_steps:
        logging.warning(
            "the default of `num_warmup_steps`, %s, is not below `num_train_steps`, %s: the "
            "learning rate reaches only %.2g instead of %g. Set `num_warmup_steps`, such as %s",
            f"{config.num_warmup_steps:,}",
            f"{config.num_train_steps:,}",
            config.highest_learning_rate(),
            config.learning_rate,
            f"{config.num_train_steps // 10:,}",
        )
    return args, config


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run needs except the model, checked before anything is computed."""

    config: PretrainingConfig
    data_dir: str
    directory: str  # DATA_DIR/models/NAME, or its local copy
    metadata: Any  # `RecordsMetadata` of the records to train on
    eval_metadata: Any  # and of those to evaluate on
    tokenizer: Any  # the one that the records were built with
    network: ConvBertConfig  # of the discriminator
    length: int  # T, tokens in a sequence
    checkpoints: Any  # `TrainingCheckpoints`
    send: Callable[[], None] = lambda: None  # to the store that `directory` is a copy of

    def data(self) -> dict[str, Any]:
        """What the run is trained on, for `state.json`."""
        return {
            "vocab_sha256": self.tokenizer.vocab_sha256,
            "length": self.length,
            "records": os.path.abspath(self.metadata.records_dir),
            "records_sha256": self.metadata.sha256(),
        }


def open_run(args, config):
    """Reads the records' metadata and the vocabulary, and checks them against each other."""
    from data.records import batches
    from data.records import metadata as records
    from model.backends import distribution
    from model.training.checkpoints import TrainingCheckpoints

    records_dir, vocab_file = (
        os.path.join(args.data_dir, name) for name in ("pretrain_tfrecords", "vocab.txt")
    )
    find = functools.partial(files.find_path, data_dir=args.data_dir)
    if config.pretrain_tfrecords:
        records_dir = find("pretrain_tfrecords", config.pretrain_tfrecords)
    if config.vocab_file:
        vocab_file = find("vocab_file", config.vocab_file)
    metadata = eval_metadata = records.load_metadata(records_dir)
    if config.eval_holdout_shards:
        metadata, eval_metadata = records.hold_out(metadata, config.eval_holdout_shards)
    if config.eval_tfrecords and (config.do_eval or config.eval_every):
        eval_metadata = records.load_metadata(find("eval_tfrecords", config.eval_tfrecords))
    tokenizer = records.load_tokenizer(metadata, vocab_file)
    records.check_vocab(eval_metadata, tokenizer)
    length = config.max_seq_length or metadata.max_seq_length
    for each in (metadata, eval_metadata):
        batches.check_length(each, length)
    network = config.model_config(tokenizer.vocab_size, tokenizer.pad_id)
    longest = network.max_position_embeddings
    expected = f"at most {longest}, the network's `max_position_embeddings`"
    require(length <= longest, "max_seq_length", expected, length)
    directory, send = working_copy.open_directory(
        args.data_dir, args.model_name, distribution.writes()
    )
    checkpoints = TrainingCheckpoints(
        os.path.join(directory, "checkpoints"), keep=config.keep_checkpoints
    )
    return Run(
        config,
        args.data_dir,
        directory,
        metadata,
        eval_metadata,
        tokenizer,
        network,
        length,
        checkpoints,
        send,
    )


def start_model(run):
    """The compiled model with its initial or restored state, and the number of steps done."""
    import keras

    from model.backends import distribution
    from model.masking import SpecialTokens
    from model.training import memory
    from model.training.build import make_model

    logging.set_verbosity(logging.INFO)
    config, tokenizer = run.config, run.tokenizer
    state = run.checkpoints.newest()
    if state:
        same_run.check_resumed(config, run.data(), state)
    elif not config.do_train:
        raise InputError(f"nothing to evaluate: no checkpoint in {run.checkpoints.directory}")
    else:
        same_run.check_new(run.directory)
    special = SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    model = make_model(config, run.network, special)
    # 1. A run that has a checkpoint resumes from it: the same command must continue a stopped run.
    # 2. A new run takes the weights of `init_checkpoint`, but neither its step nor its optimizer.
    # 3. `make_model` has drawn all other weights from the seed.
    if state:
        state.restore(model)
        if config.init_checkpoint:
            logging.info("resuming from the run's own checkpoint: `init_checkpoint` is ignored")
    elif config.init_checkpoint:
        warm_start_model(run, model)
    step, count = state.step if state else 0, model.count_params()
    num_devices = distribution.count_devices(config.num_devices)
    memory.warn_if_large(config, run.network, run.length, count, num_devices)
    begins = f"{'resuming' if step else 'starting'} at step {step:,} of {config.num_train_steps:,}"
    name, backend = config.model_size, keras.backend.backend()
    logging.info("%s on %s: %s parameters, %s", name, backend, f"{count:,}", begins)
    return model, step


def warm_start_model(run, model):
    """Loads the weights of `init_checkpoint`, if its vocabulary is that of the records."""
    from data import ConvBertTokenizer
    from data.tokenizer.saved_files import vocabulary_file
    from model.weights import warm_start

    found = warm_start.find_models(warm_start.locate(run.config.init_checkpoint, run.data_dir))
    vocab_file = vocabulary_file(found["main"])
    if not vocab_file.exists():
        logging.warning("%s not found: only the size of the vocabulary can be checked", vocab_file)
    else:
        theirs, ours = ConvBertTokenizer.from_pretrained(found["main"]), run.tokenizer
        if theirs.vocab_sha256 != ours.vocab_sha256:
            raise InputError(
                f"`init_checkpoint`: its vocabulary, {vocab_file} ({theirs.vocab_size:,} tokens, "
                f"SHA-256 {theirs.vocab_sha256[:12]}…), differs from that of the records "
                f"({ours.vocab_size:,} tokens, SHA-256 {ours.vocab_sha256[:12]}…). Build records "
                "with it: build_data.sh --vocab-file"
            )
    warm_start.initialize(model.saved_models(), found, same_vocabulary=vocab_file.exists())


def try_one_step(run, model, first_step, stop):
    """Computes one step, and one batch of an evaluation if the run has any; writes nothing."""
    config = run.config
    if config.do_train:
        files.require_writable(run.directory, STATE_SIZE * model.count_params())
        dataset = training_dataset(run, first_step, 1)
        with explain_errors(run, run.metadata):
            done = model.fit(dataset, steps_per_epoch=1, shuffle=False, verbose=0)
        logging.info("one step: loss %.4f", done.history["loss"][0])
    if config.do_eval or config.eval_every:
        one_batch = dataclasses.replace(config, num_eval_steps=1)
        scores = score(dataclasses.replace(run, config=one_batch), model, stop)
        logging.info("one batch of an evaluation: %s", json.dumps(scores))
    logging.info("dry run: nothing was written")


def training_dataset(run, first_step, steps):
    """The batches of the steps that follow `first_step`."""
    from data.records import batches
    from model.backends import distribution

    config = run.config
    rows, pad_id = distribution.process_rows(config.train_batch_size), run.tokenizer.pad_id
    return batches.training_batches(
        run.metadata, config.train_batch_size, config.seed, first_step, run.length, rows, pad_id
    ).take(steps)  # the last execution may have fewer steps than `steps_per_execution`


def train(run, model, first_step, stop):
    """Runs the remaining steps, with log, progress bar, evaluations and checkpoints."""
    from model.backends import distribution
    from model.training.callbacks import TrainingLog

    config = run.config
    steps = config.num_train_steps - first_step
    dataset = training_dataset(run, first_step, steps)
    interval = {"first_step": first_step, "last_step": config.num_train_steps}
    with explain_errors(run, run.metadata), stop.deferred():
        if distribution.writes():
            files.require_writable(run.directory, STATE_SIZE * model.count_params())
            hparams = dataclasses.asdict(config)
            run_record.add_start(run.directory, first_step, hparams, run.metadata.records_dir)
        if model.jit_compile:
            console.say_compiling((config.train_batch_size, run.length), set())
        with open_loggers(run, first_step) as write:
            log = TrainingLog(
                write,
                tokens_per_step=config.train_batch_size * run.length,
                every=config.iterations_per_loop,
                **interval,
            )
            callbacks = training_callbacks(run, model, log, interval, stop)
            fit = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
            with contextlib.closing(log):
                model.fit(dataset, callbacks=callbacks, **fit)
    if stop.received or model.stop_training:
        saved = run.checkpoints.last_good or "by process 0"
        stop.leave(f"saved {saved}. The same command resumes from there")


@contextlib.contextmanager
def open_loggers(run, first_step):
    """A function that writes to the run's loggers; None in processes that write nothing."""
    from model.backends import distribution

    if not distribution.writes():
        yield None
        return
    tensorboard, title = os.path.join(run.directory, "tensorboard"), os.path.basename(run.directory)
    settings, services = dataclasses.asdict(run.config), run.config.loggers
    loggers = Loggers(run.directory, tensorboard, services, title, settings, first_step)
    with contextlib.closing(loggers):
        yield loggers.write


def training_callbacks(run, model, log, interval, stop):
    """What happens between the steps; a checkpoint comes after the log lines of its step."""
    from model.backends import backend
    from model.training.callbacks import CheckFinite, SaveCheckpoints, StepCallbacks
    from model.training.evaluation import PeriodicEvaluation

    config = run.config
    not_finite = functools.partial(not_finite_error, run, "the loss")
    read_every = (config.iterations_per_loop, config.save_checkpoints_steps)
    callbacks = [CheckFinite(not_finite, read_every, **interval), log]
    if config.eval_every:
        score_now = functools.partial(score, run, model, stop)
        callbacks.append(
            PeriodicEvaluation(score_now, log.write_evaluation, config.eval_every, **interval)
        )
    save = SaveCheckpoints(
        functools.partial(save_checkpoint, run, model),
        config.save_checkpoints_steps,
        stop_requested=lambda: backend.any_process(stop.received is not None),
        # Several processes agree on stopping only where they wait for the device anyway.
        ask_every=config.iterations_per_loop if backend.process()[1] > 1 else 1,
        **interval,
    )
    return StepCallbacks([*callbacks, save], model)


def save_checkpoint(run, model):
    """Writes the models as Hugging Face directories, then the training state; returns its path."""
    from safetensors import SafetensorError

    from model.backends import distribution
    from model.training.checkpoints import not_finite

    step = int(model.optimizer.iterations.numpy())
    if weight := not_finite(model):  # even if the loss is finite, a gradient may not be
        raise not_finite_error(run, weight, step, step)
    if not distribution.writes():
        return f"{run.checkpoints.path(step)}, by process 0"
    # The state comes last: a run killed before that resumes from an earlier state, and saves again.
    with (
        files.write_errors_named(run.directory, SafetensorError),
        files.temporary_directory(os.path.join(run.directory, "models")) as temporary,
    ):
        for directory in model.save_pretrained(temporary):
            run.tokenizer.save_pretrained(directory)
            target = os.path.join(run.directory, os.path.basename(directory))
            model_card.keep_edited(target, directory)
            model_card.write_pretrained(directory, run, step)
            files.replace_directory(directory, target)
    path = run.checkpoints.save(model, dataclasses.asdict(run.config), run.data())
    run.send()
    return path


def not_finite_error(run, what, first, last):
    """The error for a loss or a weight that is not finite after the steps `first` to `last`."""
    from data.records import batches

    config, sources = run.config, ""
    for step in range(first, last + 1):
        for path, records in batches.batch_sources(
            run.metadata, config.train_batch_size, config.seed, step - 1
        ).items():
            numbers = ", ".join(map(str, records[:8])) + ", …" * (len(records) > 8)
            sources += f"\n  step {step:,}: {path}, records {numbers}"
    steps = f"step {last:,}" if first == last else f"one of the steps {first:,} to {last:,}"
    return InputError(
        f"{what} is no longer finite after {steps}. {run.checkpoints.last_good_sentence()}; "
        "nothing was saved after it. Try a lower `learning_rate` or more `num_warmup_steps`, with "
        f"another --model-name. The batch came from:{sources}"
    )


def score(run, model, stop):
    """The model's scores on `num_eval_steps` batches, by name in the log; None after a signal."""
    from data.records import batches
    from model.backends import distribution
    from model.training.evaluation import StopEvaluation

    config = run.config
    if stop.received:
        return None
    watch = StopEvaluation(lambda: stop.received is not None)
    with explain_errors(run, run.eval_metadata):
        rows, pad_id = distribution.process_rows(config.eval_batch_size), run.tokenizer.pad_id
        shape = (config.eval_batch_size, config.num_eval_steps, run.length, rows, pad_id)
        dataset = batches.evaluation_batches(run.eval_metadata, *shape)
        scores = model.evaluate(dataset, verbose=0, return_dict=True, callbacks=[watch])
    if watch.stopped:
        return None
    return {f"eval_{name}": round(float(value), 6) for name, value in scores.items()}


def evaluate(run, model, stop):
    """Scores the model at the end; writes and logs the scores."""
    from model.backends import distribution

    records_dir = str(run.eval_metadata.records_dir)
    step, scores = int(model.optimizer.iterations.numpy()), score(run, model, stop)
    line = {"step": step} | scores
    if not distribution.writes():
        return
    path = os.path.join(run.directory, "results", "pretrain_results.json")
    with explain_errors(run, run.eval_metadata), files.write_errors_named(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_json(path, line | {"records": records_dir})
        with open_loggers(run, None) as write:
            write(step, scores)
        directories = [os.path.join(run.directory, name) for name in model.saved_models()]
        for directory in filter(os.path.isdir, directories):
            model_card.write_pretrained(directory, run, step)
        run.send()
    logging.info("evaluation on %s: %s", records_dir, json.dumps(line))


@contextlib.contextmanager
def explain_errors(run, metadata):
    """Inside, errors about damaged records, a full disk or too little memory say what to do."""
    import tensorflow as tf

    from data.records.metadata import explain_data_error
    from model.training import memory

    try:
        with memory.explained(run.config, run.length):
            yield
    except (
        tf.errors.DataLossError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
    ) as error:
        raise explain_data_error(error, metadata) from error
    except files.WriteError as error:
        raise InputError(
            f"{error}. {run.checkpoints.last_good_sentence()}. Free some space, or fix what is "
            "wrong, and run the same command again"
        ) from error


if __name__ == "__main__":
    errors.run(main)
