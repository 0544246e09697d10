"""The same few training steps on each backend, with XLA or without, in a process of their own.

What is drawn at random does not depend on the backend, nor on XLA, as it otherwise would.
"""

import json
import sys
import tempfile

import numpy as np

from tests.support.processes import run_python

STEPS = 3
# XLA then compiles in less than half the time.
QUICKLY = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"}


def train(precision="float32", parts=1, jit_compile=False, remat=False):
    """Makes `STEPS` pre-training steps; the first weights are the same on every backend.

    Returns arrays: each metric by name [steps], and all changes of weights in one vector.
    """
    from keras import ops

    from model.backends import backend, distribution
    from model.layers import fused
    from model.training import optimizer
    from tests.support import small_models

    distribution.uniform_rows = lambda shape, seed: ops.convert_to_tensor(
        np.random.default_rng(shape).random(shape), "float32"
    )
    backend.random_bits = fused.hashed_bits
    optimizer.INITIAL_LOSS_SCALE = 128.0  # so that no step overflows
    model = small_models.pretraining_model(
        options={"dtype": precision, "gradient_accumulation_steps": parts},
        hidden_size=32,
        embedding_size=16,
        intermediate_size=48,
        linear_groups=2,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    random, first = np.random.default_rng(1), []
    for variable in model.trainable_variables:
        first.append(random.normal(variable.name == "gamma", 0.1, variable.shape))
        variable.assign(first[-1])
    model.set_remat(remat)
    scaled = precision == "mixed_float16"
    adam = optimizer.create_optimizer(1e-3, 20, 4, dynamic_loss_scale=scaled)
    model.compile(adam, jit_compile=jit_compile)
    logs = [
        model.train_on_batch(small_models.batch(seed=step), return_dict=True)
        for step in range(STEPS)
    ]
    arrays = {name: np.array([float(log[name]) for log in logs]) for name in logs[0]}
    changes = [
        np.ravel(np.array(variable) - value.astype("float32"))
        for variable, value in zip(model.trainable_variables, first, strict=True)
    ]
    return arrays | {"changes": np.concatenate(changes)}


def train_in_process(backend, jobs):
    """Calls `train` with each of `jobs`, its keyword arguments, in a new process."""
    environment = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "tests.support.training_steps", folder, json.dumps(jobs)]
        run_python(*command, **environment, **QUICKLY)
        return [dict(np.load(f"{folder}/{i}.npz")) for i in range(len(jobs))]


if __name__ == "__main__":
    for number, job in enumerate(json.loads(sys.argv[2])):
        np.savez(f"{sys.argv[1]}/{number}.npz", **train(**job))
