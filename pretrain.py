"""Pre-trains a ConvBERT on TFRecords, ELECTRA-style; the same command resumes a stopped run.

    python3 pretrain.py --data-dir DATA_DIR --model-name NAME --hparams '{"model_size": "small"}'

Reads DATA_DIR/pretrain_tfrecords and DATA_DIR/vocab.txt, writes DATA_DIR/models/NAME.
"""

import argparse
import contextlib
import dataclasses
import json
import os

import errors
import files
from configure_pretraining import PretrainingConfig
from errors import InputError
from model.config import load_hparams, require

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


def main(arguments=None):
    """Checks everything, then trains, then evaluates."""
    args, config = parse_arguments(arguments)
    records_dir = config.pretrain_tfrecords or os.path.join(args.data_dir, "pretrain_tfrecords")
    run_dir = os.path.join(args.data_dir, "models", args.model_name)

    # ---- input -------------------------------------------------------------------------------
    import keras

    from data import batches, records
    from data.devices import prepare_tensorflow

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
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

    # ---- model -------------------------------------------------------------------------------
    from absl import logging

    from model.training import TrainingCheckpoints

    logging.set_verbosity(logging.INFO)
    checkpoints = TrainingCheckpoints(
        os.path.join(run_dir, "checkpoints"), keep=config.keep_checkpoints
    )
    check_same_run(config, checkpoints)
    model = make_model(config, network, tokenizer)
    step = checkpoints.restore(model)
    logging.info(
        "%s on %s: %s parameters, %s at step %s of %s",
        config.model_size,
        keras.backend.backend(),
        f"{model.count_params():,}",
        "resuming" if step else "starting",
        f"{step:,}",
        f"{config.num_train_steps:,}",
    )

    # ---- training ----------------------------------------------------------------------------
    if config.do_train and step < config.num_train_steps:
        dataset = batches.training_batches(
            metadata, config.train_batch_size, config.seed, step, length
        )
        os.makedirs(run_dir, exist_ok=True)
        save = saver(model, tokenizer, checkpoints, config, run_dir)
        with explain_data_errors(metadata):
            train(model, dataset, config, run_dir, step, length, save)
    if config.do_train:
        logging.info("step %s is done: %s", f"{config.num_train_steps:,}", run_dir)

    # ---- evaluation --------------------------------------------------------------------------
    if config.do_eval:
        if not config.do_train and step == 0:
            raise InputError(f"nothing to evaluate: no checkpoint in {checkpoints.directory}")
        evaluate(model, config, config.eval_tfrecords or records_dir, run_dir, length)


def make_model(config, network, tokenizer):
    """The compiled pre-training model, drawn from the run's seed."""
    import keras

    from model.optimizer import create_optimizer
    from model.pretraining import ConvBertForPreTraining, SpecialTokens
    from model.training import default_jit_compile

    keras.utils.set_random_seed(config.seed)
    special = SpecialTokens(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    model = ConvBertForPreTraining(network, config.objective(), special, seed=config.seed)
    optimizer = create_optimizer(
        config.learning_rate,
        config.num_train_steps,
        config.num_warmup_steps,
        weight_decay_rate=config.weight_decay_rate,
        lr_decay_power=config.lr_decay_power,
    )
    jit_compile = default_jit_compile() if config.jit_compile is None else config.jit_compile
    model.compile(optimizer=optimizer, jit_compile=jit_compile)
    return model


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


def saver(model, tokenizer, checkpoints, config, run_dir):
    """A function that writes a checkpoint: the models anyone can open, then the training state."""
    hparams = dataclasses.asdict(config)

    def save():
        # The state comes last: killed before it, the run does this step, and all of this, again.
        for directory in model.save_pretrained(run_dir):
            tokenizer.save_pretrained(directory)
        return checkpoints.save(model, hparams)

    return save


def train(model, dataset, config, run_dir, first_step, length, save):
    """Runs the steps that are left, with log, progress and checkpoints."""
    from model.training import SaveCheckpoints, TrainingLog

    interval = {"first_step": first_step, "last_step": config.num_train_steps}
    log = TrainingLog(
        os.path.join(run_dir, "train_log.jsonl"),
        tensorboard_writer(os.path.join(run_dir, "tensorboard")),
        tokens_per_step=config.train_batch_size * length,
        every=config.iterations_per_loop,
        **interval,
    )
    model.fit(
        dataset,
        steps_per_epoch=config.num_train_steps - first_step,
        shuffle=False,
        verbose=0,
        callbacks=[log, SaveCheckpoints(save, config.save_checkpoints_steps, **interval)],
    )


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


def evaluate(model, config, records_dir, run_dir, length):
    """Scores the model on `num_eval_steps` batches; writes and prints the result."""
    from absl import logging

    from data import batches, records

    metadata = records.load_metadata(records_dir)
    with explain_data_errors(metadata):
        dataset = batches.evaluation_batches(
            metadata, config.eval_batch_size, config.num_eval_steps, length
        )
        scores = model.evaluate(dataset, verbose=0, return_dict=True)
    scores = {f"eval_{name}": round(float(value), 6) for name, value in scores.items()}
    line = {"step": int(model.optimizer.iterations)} | scores
    path = os.path.join(run_dir, "results", "pretrain_results.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_text(path, json.dumps(line | {"records": records_dir}, indent=2) + "\n")
    with open(os.path.join(run_dir, "train_log.jsonl"), "a", encoding="utf-8") as file:
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
