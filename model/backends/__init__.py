"""All code that depends on Keras's backend; nothing else imports TensorFlow or JAX.

`backend` is the module for the backend in use. `any_backend` documents the functions that all these
modules have, and serves backends without a module.
"""

import importlib

import keras

MODULES = {"tensorflow": "tensorflow_backend", "jax": "jax_backend"}

backend = importlib.import_module(
    f"model.backends.{MODULES.get(keras.backend.backend(), 'any_backend')}"
)
