"""This project's models as workers of the benchmarks."""

import importlib.metadata
import itertools
import pickle
import time
from pathlib import Path

from common import lean_imports

lean_imports.install()  # as the jobs do

# ruff: noqa: E402
import keras
import numpy as np

import model
from benchmarks.session import Session
from configure_pretraining import PretrainingConfig
from model.backends import backend
from model.masking import SpecialTokens
from model.training.build import make_model
from model.training.optimizer import create_optimizer

NUM_EPOCHS = 1000  # of fine-tuning: more than any request needs


def main():
    """Does the job that the parent sends."""
    session = Session(report, make_product)
    job, on_tensorflow = session.job, keras.backend.backend() == "tensorflow"
    if on_tensorflow or job.get("records") or job.get("features"):
        from data.tensorflow_setup import prepare_tensorflow

        prepare_tensorflow(on_tensorflow)
    benchmarks = (pretrain, infer, read, finetune, predict)
    {function.__name__: function for function in benchmarks}[job["kind"]](session)


class StepsOnRequest(keras.callbacks.Callback):
    """Lets `fit` take as many steps as the parent asks for, and waits for the next request."""

    def __init__(self, session: Session):
        super().__init__()
        self.session = session
        self.count = self.end = 0
        self.begin = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Replies and waits for the next request, once all requested steps have been taken.

        The device may still be computing the steps before `batch`.
        """
        if batch < self.end:
            return
        if batch:
            keras.ops.convert_to_numpy(self.model.optimizer.iterations)  # waits for the device
            self.session.facts["parameters"] = self.model.count_params()
            self.session.reply(self.begin, self.count)
        steps = self.model.steps_per_execution
        self.count = -(-self.session.next_steps() // steps) * steps
        self.end += self.count
        self.begin = time.monotonic()


def pretrain(session: Session) -> None:
    """Trains as pretrain.py does, but without its log, checks, checkpoints and evaluation."""
    config = PretrainingConfig.from_hparams(session.job["hparams"])
    network = config.model_config(session.job["vocab_size"])
    first_loss = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: session.facts.setdefault("first_loss", logs["loss"])
    )
    make_model(config, network, SpecialTokens()).fit(
        training_data(session.job, config),
        steps_per_epoch=config.num_train_steps,
        shuffle=False,
        verbose=0,
        callbacks=[first_loss, StepsOnRequest(session)],
    )


def training_data(job: dict, config: PretrainingConfig):
    """Batches without end: those of the records, or the job's own, repeated."""
    if job["records"]:
        from data.records.batches import training_batches

        shape = (config.train_batch_size, config.seed, 0, config.max_seq_length)
        return training_batches(job["records"], *shape)
    batches = load(job["batches"])
    if keras.backend.backend() == "tensorflow":  # a dataset of static shapes, as from records
        import tensorflow as tf

        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        return tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(tf.data.AUTOTUNE)
    return ((batch,) for batch in itertools.cycle(batches))


def infer(session: Session) -> None:
    """Calls `predict_on_batch`: arrays in, an array [B, T, H] out."""
    config = PretrainingConfig.from_hparams(session.job["hparams"])
    network = config.model_config(session.job["vocab_size"])
    encoder = model.ConvBertModel(network, dtype=config.precision)
    if config.jit_compile is not None:
        encoder.jit_compile = config.jit_compile
    batches = itertools.cycle(load(session.job["batches"]))

    def run(count):
        for batch in itertools.islice(batches, count):
            encoder.predict_on_batch(batch)
        session.facts["parameters"] = encoder.count_params()

    session.serve(run)


def read(session: Session) -> None:
    """Reads records without using them; keeps the first batches for the peers."""
    config = PretrainingConfig.from_hparams(session.job["hparams"])
    stream = training_data(session.job, config).as_numpy_iterator()
    first = list(itertools.islice(stream, 8))
    Path(session.job["batches"]).write_bytes(pickle.dumps(first, protocol=4))

    def run(count):
        for _ in itertools.islice(stream, count):
            pass

    session.serve(run)


def finetune(session: Session) -> None:
    """Trains as finetune.py does, with the same examples in each pass, but no progress bar."""
    from data.tasks.batching import training_batches

    job, jit_compile = session.job, backend.default_jit_compile()
    network, features = make_network(job), load(job["features"])
    shape = (job["batch_size"], NUM_EPOCHS, 0, job["pad_to_max"], jit_compile)
    batches = training_batches(features, *shape)
    steps, layers = len(batches), network.config.num_hidden_layers
    decay = {"layerwise_lr_decay": 0.8, "num_hidden_layers": layers}
    optimizer = create_optimizer(3e-4, steps, steps * 0.1, **decay)
    network.compile(optimizer, **network.objective("sum"), jit_compile=jit_compile)
    session.facts["tokens_per_row"] = tokens_per_row(itertools.islice(batches, job["steps"]))
    network.fit(batches.dataset(), shuffle=False, verbose=0, callbacks=[StepsOnRequest(session)])


def predict(session: Session) -> None:
    """Predicts as finetune.py does: one batch as the first step, then all examples per request."""
    from data.tasks.batching import evaluation_batches, gather_outputs
    from pipelines.base import BATCHES_AT_ONCE

    job, jit_compile = session.job, backend.default_jit_compile()
    network, features = make_network(job), load(job["features"])
    network.compile(jit_compile=jit_compile)
    shape = (job["batch_size"], job["pad_to_max"], jit_compile)
    batches, _ = evaluation_batches(features, *shape)
    threads = 1 if jit_compile else BATCHES_AT_ONCE
    session.facts["tokens_per_row"] = tokens_per_row(batches)

    def run(count):
        if count == len(batches):
            outputs = network.token_outputs
            gather_outputs(features, network.predict_on_batch, outputs, *shape, threads)
        else:
            network.predict_on_batch(batches[0][0])
        session.facts["parameters"] = network.count_params()

    session.serve(run)


def make_network(job: dict) -> keras.Model:
    """The model for a task, with random weights."""
    return getattr(model, job["architecture"])(job["config"], **job["options"])


def tokens_per_row(batches) -> float:
    """The mean length of rows, including padding."""
    return float(np.mean([inputs["input_ids"].shape[-1] for inputs, *_ in batches]))


def load(path: str):
    """Reads what the parent pickled."""
    return pickle.loads(Path(path).read_bytes())


def make_product(m: int, k: int, n: int, dtype: str):
    """A function that computes a matrix product; see `Session`."""
    a, b = (keras.random.normal(shape, dtype=dtype) for shape in ((m, k), (k, n)))
    return lambda: float(keras.ops.cast(keras.ops.matmul(a, b)[0, 0], "float32"))


def report() -> dict:
    """Versions, device and its peak memory."""
    device, _ = backend.accelerator() or ("cpu", None)
    packages = ("keras", keras.backend.backend())
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"device": device, "device_peak_bytes": backend.peak_memory(), "versions": versions}


if __name__ == "__main__":
    main()
