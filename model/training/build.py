"""The compiled model of a pre-training run."""

import math

import keras

from common.fields import require
from model.backends import backend, distribution
from model.config import ConvBertConfig
from model.masking import SpecialTokens
from model.pretraining import ConvBertForPreTraining
from model.training.optimizer import create_optimizer


def make_model(config, network: ConvBertConfig, special: SpecialTokens) -> ConvBertForPreTraining:
    """Creates and compiles the model of a run, whose seed determines its weights.

    `config` is the run's `PretrainingConfig`, and `network` describes the discriminator.
    """
    keras.utils.set_random_seed(config.seed)
    num_devices = distribution.count_devices(config.num_devices)
    jit_compile = distribution.uses_xla(config.jit_compile)
    with backend.scope(num_devices):
        model = ConvBertForPreTraining(
            network,
            config.objective(),
            special,
            seed=config.seed,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            dtype=config.precision,
        )
        model.set_remat(config.remat)
        optimizer = create_optimizer(
            config.learning_rate,
            config.num_train_steps,
            config.num_warmup_steps,
            weight_decay_rate=config.weight_decay_rate,
            lr_decay_power=config.lr_decay_power,
            dynamic_loss_scale=config.precision == "mixed_float16",
        )
        model.compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution(config, num_devices),
        )
    return model


def steps_per_execution(config, num_devices: int = 1) -> int:
    """The hyper-parameter, or a default that never delays a line of the log or a checkpoint.

    Raises an `InputError` for several steps on several devices with TensorFlow, where Keras's loop
    over the steps fails.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if (given := config.steps_per_execution) is not None:
        is_possible = num_devices == 1 or not on_tensorflow or given == 1
        expected = f"1 or null with `num_devices` {num_devices} on TensorFlow"
        require(is_possible, "steps_per_execution", expected, given)
        return given
    # Not on CPUs, where a step takes long, nor on JAX, where several steps are a loop in Python.
    is_faster = on_tensorflow and num_devices == 1 and keras.distribution.list_devices("gpu")
    intervals = (config.iterations_per_loop, config.save_checkpoints_steps, config.eval_every or 0)
    every = math.gcd(*intervals)
    return max(n for n in range(1, 9 if is_faster else 2) if every % n == 0)
