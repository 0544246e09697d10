"""This project's models as contenders; model.py and tasks.py start it."""

import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from benchmarks.session import Session, peak_memory, rate_of_product
from common.errors import InputError


def main():
    """Does the job that the parent sends."""
    session = Session()
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if on_tensorflow or session.job.get("records") or session.job.get("features"):
        from data.tensorflow_setup import prepare_tensorflow

        prepare_tensorflow(on_tensorflow)
    session.tools = {"multiply": multiply, "report": report}
    kinds = {
        "pretrain": pretrain,
        "infer": infer,
        "read": read,
        "finetune": finetune,
        "predict": predict,
    }
    kinds[session.job["kind"]](session)


def pretrain(session: Session) -> None:
    """Trains as pretrain.py does: one `fit` of the model it compiles, with its log.

    Checkpoints and evaluations are left out.
    """
    from configure_pretraining import PretrainingConfig
    from model.masking import SpecialTokens
    from model.training.build import make_model
    from model.training.callbacks import CheckFinite, TrainingLog

    job = session.job
    config = PretrainingConfig.from_hparams(job["hparams"])
    model = make_model(config, config.model_config(job["vocab_size"]), SpecialTokens())
    interval = {"first_step": 0, "last_step": config.num_train_steps}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train_log.jsonl")
        log = TrainingLog(
            str(path),
            lambda step, scalars: None,
            tokens_per_step=config.train_batch_size * job["length"],
            every=config.iterations_per_loop,
            **interval,
        )
        finite = CheckFinite(lambda *steps: InputError(f"not finite: steps {steps}"), **interval)

        def fields():
            first_line = path.read_text().partition("\n")[0]
            first_loss = json.loads(first_line)["loss"]
            return {"parameters": model.count_params(), "first_loss": first_loss}

        model.fit(
            training_data(job, config),
            steps_per_epoch=config.num_train_steps,
            shuffle=False,
            verbose=0,
            callbacks=[finite, log, StepsOnRequest(session, config.steps_per_execution, fields)],
        )


class StepsOnRequest(keras.callbacks.Callback):
    """Lets `fit` go on for as many steps as the parent asks for, and waits in between.

    Args:
        session: the conversation with the parent.
        stride: steps of one call of the train function.
        fields: further ones of an answer.
    """

    def __init__(self, session: Session, stride: int = 1, fields: Callable[[], dict] = lambda: {}):
        super().__init__()
        self.session = session
        self.stride = stride
        self.fields = fields
        self.begin_step = self.end_step = 0
        self.begin = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """The steps before `batch` are done, or are under way on the device."""
        if batch < self.end_step:
            return
        if batch:
            updates = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))  # waits
            self.session.answer(
                seconds=time.monotonic() - self.begin,
                steps=self.end_step - self.begin_step,
                updates=updates,
                **self.fields(),
            )
        count = self.session.steps_wanted()
        self.begin_step = self.end_step
        self.end_step += math.ceil(count / self.stride) * self.stride
        self.begin = time.monotonic()


def training_data(job: dict, config):
    """Batches without end: of the records, or the job's own over and over."""
    if job["records"]:
        from data.records.batches import training_batches

        return training_batches(
            job["records"], config.train_batch_size, config.seed, 0, job["length"]
        )
    batches = load_batches(job)
    if keras.backend.backend() == "tensorflow":  # a dataset, of static shapes, as from records
        import tensorflow as tf

        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        return tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(tf.data.AUTOTUNE)
    return ((batch,) for batch in itertools.cycle(batches))


def load_batches(job: dict) -> list[dict]:
    """The batches that all contenders share."""
    with np.load(job["batches"]) as arrays:
        stacked = dict(arrays)
    count = len(stacked["input_ids"])
    return [{name: array[i] for name, array in stacked.items()} for i in range(count)]


def infer(session: Session) -> None:
    """Calls `model.predict_on_batch(batch)`: arrays in, an array [B, T, H] out."""
    from model import ConvBertModel
    from model.config import ConvBertConfig

    job = session.job
    config = ConvBertConfig.from_size(job["size"], vocab_size=job["vocab_size"])
    model = ConvBertModel(config, dtype=job["precision"])
    if job["jit_compile"] is not None:
        model.jit_compile = job["jit_compile"]
    batches = itertools.cycle(load_batches(job))

    def run(count):
        for _ in range(count):
            vectors = model.predict_on_batch(next(batches))
        return {"parameters": model.count_params(), "shape": list(vectors.shape)}

    session.serve(run)


def finetune(session: Session) -> None:
    """Trains as finetune.py does, but for its progress bar: the same examples, over and over."""
    from data.tasks import batching
    from model.backends import backend
    from model.training.optimizer import create_optimizer

    job, passes = session.job, 1000
    model = with_head(job)
    found = read_features(job, model)
    shape = {
        "batch_size": job["batch_size"],
        "seed": 0,
        "pad_to_max": job["pad_to_max"],
        "bucket_lengths": backend.default_jit_compile(),
    }
    one_pass = batching.training_batches(found, num_epochs=1, **shape)
    # The first step has a batch of its own: every later request is for whole passes.
    batches = one_pass.take(1).concatenate(
        batching.training_batches(found, num_epochs=passes, **shape)
    )
    steps = int(batches.cardinality())
    optimizer = create_optimizer(
        3e-4, steps, steps * 0.1, layerwise_lr_decay=0.8,
        num_hidden_layers=model.config.num_hidden_layers,
    )  # fmt: skip
    model.compile(optimizer, **model.objective("sum"), jit_compile=backend.default_jit_compile())
    tell_about(session, model, one_pass)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[StepsOnRequest(session)])


def predict(session: Session) -> None:
    """Computes the outputs for all examples as finetune.py does; first, for one batch."""
    from data.tasks import batching
    from model.backends import backend
    from pipelines.base import BATCHES_AT_ONCE, compute_outputs

    job = session.job
    model = with_head(job)
    found = read_features(job, model)
    model.compile(jit_compile=backend.default_jit_compile())
    shape = (job["batch_size"], job["pad_to_max"], model.jit_compile)
    batches, _ = batching.evaluation_batches(found, *shape)
    outputs = {}

    def compute():
        if not job["pad_to_max"]:
            return compute_outputs(model, found, job["batch_size"])
        threads = 1 if model.jit_compile else BATCHES_AT_ONCE
        given = (found, model.predict_on_batch, model.token_outputs, *shape)
        return batching.gather_outputs(*given, num_threads=threads)

    def run(count):
        if count < len(batches):
            model.predict_on_batch(batches[0][0])
            return {}
        computed = compute()
        outputs.update(computed if isinstance(computed, dict) else {"logits": computed})
        return {"steps": len(batches)}

    def save(path):
        np.savez(path, **outputs)
        return {}

    tell_about(session, model, batches)
    session.tools["outputs"] = save
    session.serve(run)


def read_features(job: dict, model):
    """The examples that all contenders share, with the targets and inputs that `model` has."""
    from data.tasks.batching import Features

    with np.load(job["features"]) as arrays:
        fields = dict(arrays)
    known = {"inputs": model.further_inputs}
    losses = model.objective()["loss"]
    if isinstance(losses, dict):
        known["targets"] = losses
    named = {
        field: {name: fields[f"{field}.{name}"] for name in names if f"{field}.{name}" in fields}
        for field, names in known.items()
    }
    single = {name: array for name, array in fields.items() if "." not in name}
    numbers = {name: int(single[name]) for name in ("max_seq_length", "rows_per_example")}
    return Features(**single | named | numbers)


def with_head(job: dict):
    """The model that learns the task, with random weights, the same in every process."""
    import model

    keras.utils.set_random_seed(0)
    return getattr(model, job["architecture"])(job["network"], **job["options"])


def tell_about(session: Session, model, batches) -> None:
    """Has reports say how large the model is, and how long the rows of one pass are."""
    lengths = [inputs["input_ids"].shape[-1] for inputs, *_ in batches]
    fields = {"parameters": model.count_params(), "tokens_a_row": sum(lengths) / len(lengths)}
    session.tools["report"] = lambda: report() | fields


def read(session: Session) -> None:
    """Reads batches of records and does nothing with them; leaves the first for the others."""
    from data.records import batches
    from data.records import metadata as records

    job = session.job
    metadata = records.load_metadata(job["records"])
    dataset = batches.training_batches(metadata, job["batch_size"], 0, 0, job["length"])
    stream = dataset.as_numpy_iterator()
    first = [next(stream) for _ in range(job["num_batches"])]
    np.savez(job["batches"], **{name: np.stack([b[name] for b in first]) for name in first[0]})
    # A block is read ahead while nobody asks for batches: over two of them that evens out.
    examples = 2 * min(batches.BLOCK_EXAMPLES, metadata.num_examples)

    def run(count):
        count = max(1, examples // job["batch_size"])
        for _ in range(count):
            next(stream)
        return {"steps": count}

    session.serve(run)


def multiply(m: int, k: int, n: int, dtype: str) -> dict:
    """Measures a matrix product on Keras's backend."""
    random = np.random.default_rng(0)
    a, b = (
        keras.ops.cast(random.standard_normal(shape, np.float32), dtype)
        for shape in ((m, k), (k, n))
    )

    def run(count):
        for _ in range(count):
            product = keras.ops.matmul(a, b)
        keras.ops.convert_to_numpy(product[:1, :1])  # waits for the last

    return rate_of_product(run, m, k, n)


def report() -> dict:
    """Memory, device and versions."""
    backend = keras.backend.backend()
    packages = {"keras": keras.__version__, "numpy": np.__version__}
    device, device_bytes = "cpu", None
    if backend == "jax":
        import jax

        packages["jax"] = jax.__version__
        first = jax.devices()[0]
        device = first.device_kind
        if first.platform != "cpu":
            device_bytes = first.memory_stats()["peak_bytes_in_use"]
    else:
        import tensorflow as tf

        packages["tensorflow"] = tf.__version__
        if gpus := tf.config.list_physical_devices("GPU"):
            device = tf.config.experimental.get_device_details(gpus[0])["device_name"]
            device_bytes = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {
        "peak_bytes": peak_memory(),
        "device": device,
        "device_peak_bytes": device_bytes,
        "packages": packages,
    }


if __name__ == "__main__":
    main()
