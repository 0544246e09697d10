"""What TensorFlow must be told before it computes anything."""

import tensorflow as tf


def prepare_tensorflow(trains_the_model: bool, deterministic: bool = False) -> None:
    """Keeps TensorFlow off the GPU where it only feeds another backend; else sets determinism.

    Args:
        trains_the_model: TensorFlow is Keras's backend.
        deterministic: results repeat bit for bit. On a CPU that takes one thread: sums on several
            differ in the last bits from run to run, whatever TensorFlow is told.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not trains_the_model:
        if gpus:
            tf.config.set_visible_devices([], "GPU")
    elif deterministic:
        tf.config.experimental.enable_op_determinism()
        if not gpus:
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
