"""What holds for all tests, whatever the environment they are started in."""

import importlib.util
import os
import pathlib
import signal

import pytest

from common import lean_imports

lean_imports.install()

# Where tests run as a shell's background job, SIGINT is ignored, and jobs started by them would
# inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shell that is set up for a backend that is not installed here must not fail the suite.
if not importlib.util.find_spec(os.environ.get("KERAS_BACKEND", "tensorflow")):
    os.environ["KERAS_BACKEND"] = "tensorflow"

# Expected values are those of exact float32 products, and several processes would share one GPU.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
if os.environ.get("CONVBERT_TEST_GPU", "") in ("", "0"):
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


TESTS = pathlib.Path(__file__).parent
# Where tests take longest. They come first, so that at the end of a run with two processes neither
# waits for the other.
LONG = ("tests", "scripts", "model", "benchmarks", "pipelines")


def pytest_collection_modifyitems(items):
    def rank(item):
        first, *others = item.path.relative_to(TESTS).parts
        folder = first if others else "tests"
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=rank)


@pytest.fixture(scope="module")
def eager():
    """Makes a module's tests run eagerly; see tests/support/eager.py."""
    from tests.support.eager import eagerly

    with eagerly():
        yield
