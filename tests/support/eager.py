"""TensorFlow op by op: less work than tracing, where a function is called a few times."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def eagerly(is_eager=True):
    """Functions are traced no longer, or again; data sets always are."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(is_eager)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
