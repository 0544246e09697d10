"""What takes TensorFlow itself: compiled functions, gradients in parts, and replicas.

Imported where Keras runs on TensorFlow, and nowhere else.
"""

import functools

import tensorflow as tf

SEED_STRIDE = 1_000_003  # between the seeds of replicas; any large number does


def strategy(num_devices: int) -> tf.distribute.Strategy:
    """Mirrors the model on the first `num_devices` GPUs, or CPUs where there is no GPU."""
    if num_devices == 1:
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(num_devices)])


def replica() -> tuple:
    """(index, number) of the replica that calls; outside of one, the only one."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def separate_random_states(strategy: tf.distribute.Strategy, variables: list) -> None:
    """Gives each replica's copy of a random state a seed of its own, derived from the first's."""
    for variable in variables:
        first, *others = strategy.experimental_local_results(variable.value)
        for i, copy in enumerate(others, start=1):
            copy.assign(first + tf.constant([i * SEED_STRIDE, 0], first.dtype))


def sum_over_replicas(value):
    """The sum of each replica's `value`."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def train_step_in_parts(model, batch: dict):
    """One update from the sum of the gradients of a batch's parts.

    Args:
        model: a compiled `ConvBertForPreTraining`.
        batch: the calling replica's rows.

    Returns:
        The metrics' values by name.
    """
    masked, totals = model.prepare(batch, training=True)
    parts = model.split(masked)
    variables = [variable.value for variable in model.trainable_variables]

    def step(i, gradients, arrays):
        part = {name: value[i] for name, value in parts.items()}
        with tf.GradientTape() as tape:
            outputs = model.outputs_of(part, totals, training=True)
            loss = model.optimizer.scale_loss(outputs["loss"])
        added = tape.gradient(loss, variables, unconnected_gradients="zero")
        gradients = [
            total + tf.convert_to_tensor(gradient)
            for total, gradient in zip(gradients, added, strict=True)
        ]
        return i + 1, gradients, {k: array.write(i, outputs[k]) for k, array in arrays.items()}

    count = model.gradient_accumulation_steps
    _, gradients, arrays = tf.while_loop(
        lambda i, *_: i < count,
        step,
        (
            0,
            [tf.zeros(variable.shape) for variable in variables],
            {name: tf.TensorArray(dtype, count) for name, dtype in model.part_outputs.items()},
        ),
        maximum_iterations=count,
    )
    model.optimizer.apply(gradients, model.trainable_variables)
    return model.finish_step(masked, {name: array.stack() for name, array in arrays.items()})


def in_graph(*arrays) -> bool:
    """Whether a graph is traced, in which these are float32."""
    return not tf.executing_eagerly() and all(
        tf.is_tensor(array) and array.dtype == tf.float32 for array in arrays
    )


def in_graph_of_known_shapes(*arrays) -> bool:
    """Whether a graph is traced, in which these are float32 and of static shapes."""
    return in_graph(*arrays) and all(array.shape.is_fully_defined() for array in arrays)


@functools.cache
def compiled(function):
    """The function as one that XLA compiles, wherever it is called."""
    return tf.function(function, jit_compile=True, autograph=False)


def random_bits(shape, seed) -> tf.Tensor:
    """Uniform uint32 of a shape."""
    return tf.random.stateless_uniform(shape, tf.cast(seed, tf.int32), None, None, tf.uint32)
