import ctypes
import resource

import pytest
import tensorflow as tf

from data import tensorflow_setup

LARGE = 100 << 20  # bytes


def pages_got_from_the_system():
    """Of one large array that is written to and freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = libc.malloc(LARGE)
    libc.memset(array, 1, LARGE)
    libc.free(array)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_freed_memory_is_kept():
    tensorflow_setup.keep_freed_memory()
    pages_got_from_the_system()
    assert pages_got_from_the_system() * resource.getpagesize() < LARGE / 100


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_freed_memory_is_kept_while_a_generator_is_read():
    tensorflow_setup.keep_freed_memory()
    signature = tf.TensorSpec([], tf.int32)
    found = []
    for number in tensorflow_setup.generator_dataset(lambda: iter(range(3)), signature):
        found.append(int(number))
        pages_got_from_the_system()
        assert pages_got_from_the_system() * resource.getpagesize() < LARGE / 100
    assert found == [0, 1, 2]
