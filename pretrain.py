"""Pre-trains a ConvBERT on TFRecords, ELECTRA-style; the same command resumes a stopped run.

    python3 pretrain.py --data-dir DATA_DIR --model-name NAME --hparams '{"model_size": "small"}'

Reads DATA_DIR/pretrain_tfrecords and DATA_DIR/vocab.txt, writes DATA_DIR/models/NAME.
"""

import argparse
import contextlib
import dataclasses
import json
import os
from typing import Any

from absl import logging

import errors
import files
from configure_pretraining import PretrainingConfig
from errors import InputError
from model.config import ConvBertConfig, load_hparams, require

# A resumed run may change these: they alter neither the data's order nor the state's shape. (More
# steps stretch the schedule from here on.)
CHANGEABLE = {
    "do_train",
    "do_eval",
    "num_train_steps",
    "iterations_per_loop",
    "save_checkpoints_steps",
    "keep_checkpoints",
    "eval_batch_size",
    "eval_tfrecords",
    "num_eval_steps",
    "pretrain_tfrecords",
    "vocab_file",
    "jit_compile",
}


def parse_arguments(arguments=None):
    """The command line, and the hyper-parameters it describes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="holds the records and the models")
    parser.add_argument("--model-name", required=True, help="of the directory below models/")
    parser.add_argument(
        "--hparams",
        default="{}",
        help="a JSON object, or a file with one: see configure_pretraining.py for the names",
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
        tokenizer: of the vocabulary those were built with.
        network: the discriminator's `ConvBertConfig`.
        length: tokens a row, T.
        checkpoints: its `TrainingCheckpoints`.
    """

    config: PretrainingConfig
    directory: str
    metadata: Any
    tokenizer: Any
    network: ConvBertConfig
    length: int
    checkpoints: Any


def main(arguments=None):
    """Checks everything, then trains, then evaluates."""
    args, config = parse_arguments(arguments)

    # ---- input -------------------------------------------------------------------------------
    prepare_backend(config)
    run = open_run(args, config)

    # ---- model -------------------------------------------------------------------------------
    model, step = start_model(run)

    # ---- training ----------------------------------------------------------------------------
    if config.do_train and step < config.num_train_steps:
        train(run, model, step)
    if config.do_train:
        logging.info("step %s is done: %s", f"{config.num_train_steps:,}", run.directory)

    # ---- evaluation --------------------------------------------------------------------------
    if config.do_eval:
        evaluate(run, model)


def prepare_backend(config):
    """Tells Keras's backend what it must know before it computes anything."""
    import keras

    from data.devices import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow")


def open_run(args, config):
    """Reads and checks everything the run needs but its state."""
    from data import records
    from model.training import TrainingCheckpoints

    records_dir = config.pretrain_tfrecords or os.path.join(args.data_dir, "pretrain_tfrecords")
    metadata = records.load_metadata(records_dir)
    vocab_file = config.vocab_file or os.path.join(args.data_dir, "vocab.txt")
    tokenizer = records.load_tokenizer(metadata, vocab_file)
    length = config.max_seq_length or metadata.max_seq_length
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
    return Run(config, directory, metadata, tokenizer, network, length, checkpoints)


def start_model(run):
    """The compiled model in the state of the newest checkpoint, and that checkpoint's step."""
    import keras

    from model.pretraining import SpecialTokens
    from model.training import make_model

    logging.set_verbosity(logging.INFO)
    config, tokenizer = run.config, run.tokenizer
    check_same_run(config, run.checkpoints)
    special = SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    model = make_model(config, run.network, special)
    step = run.checkpoints.restore(model)
    if not config.do_train and step == 0:
        raise InputError(f"nothing to evaluate: no checkpoint in {run.checkpoints.directory}")
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


def check_same_run(config, checkpoints):
    """Refuses to go on from a checkpoint with hyper-parameters that change what the run is."""
    before, now = checkpoints.hparams(), dataclasses.asdict(config)
    if before is None:
        return
    changed = [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if name not in CHANGEABLE and before.get(name) != value
    ]
    if changed:
        raise InputError(
            f"{checkpoints.directory} holds a run with other hyper-parameters: "
            f"{'; '.join(changed)}. Choose another --model-name, or the same values"
        )


def train(run, model, first_step):
    """Runs the steps that are left, with log, progress and checkpoints."""
    from data import batches

    config = run.config
    dataset = batches.training_batches(
        run.metadata, config.train_batch_size, config.seed, first_step, run.length
    )
    os.makedirs(run.directory, exist_ok=True)
    with explain_data_errors(run.metadata):
        model.fit(
            dataset,
            steps_per_epoch=config.num_train_steps - first_step,
            shuffle=False,
            verbose=0,
            callbacks=training_callbacks(run, model, first_step),
        )


def training_callbacks(run, model, first_step):
    """What happens between the steps, in this order."""
    from model.training import SaveCheckpoints, TrainingLog

    config = run.config
    interval = {"first_step": first_step, "last_step": config.num_train_steps}
    log = TrainingLog(
        os.path.join(run.directory, "train_log.jsonl"),
        tensorboard_writer(os.path.join(run.directory, "tensorboard")),
        tokens_per_step=config.train_batch_size * run.length,
        every=config.iterations_per_loop,
        **interval,
    )
    return [log, SaveCheckpoints(saver(run, model), config.save_checkpoints_steps, **interval)]


def saver(run, model):
    """A function that writes a checkpoint: the models anyone can open, then the training state."""
    hparams = dataclasses.asdict(run.config)

    def save():
        # The state comes last: killed before it, the run does this step, and all of this, again.
        for directory in model.save_pretrained(run.directory):
            run.tokenizer.save_pretrained(directory)
        return run.checkpoints.save(model, hparams)

    return save


def tensorboard_writer(directory):
    """A function (step, {name: value}) that writes TensorBoard event files."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(directory)

    def write(step, scalars):
        with writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        writer.flush()

    return write


def evaluate(run, model):
    """Scores the model on `num_eval_steps` batches; writes and prints the result."""
    from data import batches, records

    config = run.config
    records_dir = config.eval_tfrecords or str(run.metadata.records_dir)
    metadata = records.load_metadata(records_dir)
    with explain_data_errors(metadata):
        dataset = batches.evaluation_batches(
            metadata, config.eval_batch_size, config.num_eval_steps, run.length
        )
        scores = model.evaluate(dataset, verbose=0, return_dict=True)
    scores = {f"eval_{name}": round(float(value), 6) for name, value in scores.items()}
    line = {"step": int(model.optimizer.iterations)} | scores
    path = os.path.join(run.directory, "results", "pretrain_results.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_text(path, json.dumps(line | {"records": records_dir}, indent=2) + "\n")
    with open(os.path.join(run.directory, "train_log.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    logging.info("evaluation on %s: %s", records_dir, json.dumps(line))


@contextlib.contextmanager
def explain_data_errors(metadata):
    """Turns TensorFlow's error about a damaged record into one that names shard and place."""
    import tensorflow as tf

    from data import records

    try:
        yield
    except tf.errors.DataLossError as error:
        raise records.explain_data_error(error, metadata) from error


if __name__ == "__main__":
    errors.run(main)
