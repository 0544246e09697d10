"""The TensorFlow Model Garden's ELECTRA as a worker of the benchmarks: on Keras 2.

Network, losses, metrics, training step and optimizer are those of its experiment
`electra/pretraining`, with our sizes and without a sentence pair's label. The Model Garden masks
tokens when it reads data; here, this is done before the first step.
"""

import importlib.metadata
import os
import pickle
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.session import Session

CLS, SEP, MASK = 101, 102, 103


def main():
    """Trains on request, as the Model Garden's trainer does on one device."""
    session = Session(report, make_product)
    job, (task, experiment) = session.job, make_task(session.job)
    model, metrics = task.build_model(), task.build_metrics(training=True)
    optimizer = task.create_optimizer(experiment.trainer.optimizer_config)
    batches = pickle.loads(Path(job["batches"]).read_bytes())
    masked = [mask(batch, job, np.random.default_rng(i)) for i, batch in enumerate(batches)]
    stacked = {name: np.stack([batch[name] for batch in masked]) for name in masked[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(tf.data.AUTOTUNE)
    iterator = iter(dataset)

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")))
    def step(inputs):
        return task.train_step(inputs, model, optimizer, metrics)[task.loss]

    def run(count):
        for _ in range(count):
            loss = float(step(next(iterator)))  # waits for the step
            session.facts.setdefault("first_loss", loss)
        session.facts["parameters"] = sum(np.prod(w.shape) for w in model.trainable_weights).item()
        session.facts["tokens_per_row"] = float(stacked["input_mask"].shape[-1])

    session.serve(run)


def make_task(job: dict) -> tuple:
    """The Model Garden's task, and the experiment that describes it."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras
    from official.core import exp_factory
    from official.nlp.configs import pretraining_experiments  # noqa: F401  (adds the experiment)
    from official.nlp.tasks.electra_task import ElectraPretrainTask

    tf_keras.utils.set_random_seed(0)
    tf_keras.mixed_precision.set_global_policy(job["precision"])
    experiment = exp_factory.get_exp_config("electra/pretraining")
    experiment.override(overrides(job))
    return ElectraPretrainTask(experiment.task), experiment


def overrides(job: dict) -> dict:
    """The experiment's fields that a job sets."""
    length = job["amounts"]["tokens"] // job["amounts"]["examples"]
    schedule = {
        "learning_rate": {"polynomial": {"decay_steps": 1_000_000}},
        "warmup": {"polynomial": {"warmup_steps": 10_000}},
    }
    network = {
        "num_masked_tokens": job["max_predictions"],
        "sequence_length": length,
        "discriminator_loss_weight": job["disc_weight"],
        "discriminator_encoder": {"bert": encoder(job["network"])},
        "generator_encoder": {"bert": encoder(job["generator"])},
        "cls_heads": [],
    }
    return {
        "task": {"model": network, "train_data": {"use_next_sentence_label": False}},
        "trainer": {"optimizer_config": schedule},
    }


def encoder(config: dict) -> dict:
    """The Model Garden's names for the fields of a `config.json`."""
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "type_vocab_size", "initializer_range", "embedding_size")
    return {name: config[name] for name in names} | {
        "num_layers": config["num_hidden_layers"],
        "hidden_activation": config["hidden_act"],
        "dropout_rate": config["hidden_dropout_prob"],
        "attention_dropout_rate": config["attention_probs_dropout_prob"],
    }


def mask(batch: dict, job: dict, random: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch [B, T] with [MASK] at 85 % of the positions [B, P] that are predicted."""
    ids, is_token, count = batch["input_ids"], batch["input_mask"], job["max_predictions"]
    is_candidate = (is_token > 0) & (ids != CLS) & (ids != SEP)
    noise = np.where(is_candidate, random.random(ids.shape), -1.0)
    positions = np.argsort(-noise, axis=1)[:, :count].astype(np.int32)
    expected = (is_token.sum(1) * job["mask_prob"]).round().clip(1, count)
    is_predicted = np.arange(count) < expected[:, None]
    originals, masked = np.take_along_axis(ids, positions, 1), ids.copy()
    hidden = is_predicted & (random.random(originals.shape) < 0.85)
    np.put_along_axis(masked, positions, np.where(hidden, MASK, originals), 1)
    return {
        "input_word_ids": masked,
        "input_mask": is_token,
        "input_type_ids": batch["segment_ids"],
        "masked_lm_positions": positions * is_predicted,  # 0: none
        "masked_lm_ids": originals * is_predicted,
        "masked_lm_weights": is_predicted.astype(np.float32),
    }


def make_product(m: int, k: int, n: int, dtype: str):
    """A function that computes a matrix product; see `Session`."""
    a, b = (tf.cast(tf.random.normal(shape), dtype) for shape in ((m, k), (k, n)))
    return lambda: float((a @ b)[0, 0])


def report() -> dict:
    """Versions, device and its peak memory."""
    packages = ("tf-models-official", "tf_keras", "tensorflow")
    versions = {package: importlib.metadata.version(package) for package in packages}
    facts = {"device": "cpu", "device_peak_bytes": None, "versions": versions}
    if gpus := tf.config.list_physical_devices("GPU"):
        facts["device"] = tf.config.experimental.get_device_details(gpus[0])["device_name"]
        facts["device_peak_bytes"] = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return facts


if __name__ == "__main__":
    main()
