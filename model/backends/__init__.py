"""All that depends on Keras's backend, TensorFlow or JAX."""
