"""Numbers of a job's log as TensorBoard's event files."""

from collections.abc import Callable, Mapping

from common import files


def tensorboard_writer(directory: str) -> Callable[[int, Mapping[str, float]], None]:
    """A function (step, {name: value}) that writes TensorBoard event files.

    A failed write is a `WriteError`.
    """
    import tensorflow as tf

    with files.write_errors_named(directory, tf.errors.OpError):
        writer = tf.summary.create_file_writer(directory)

    @files.write_errors_named(directory, tf.errors.OpError)
    def write(step, scalars):
        with writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
            writer.flush()

    return write
