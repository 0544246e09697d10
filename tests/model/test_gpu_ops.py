"""Whether TensorFlow has GPU kernels for what a training step does, and which work is the CPU's."""

import functools

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from model.training.optimizer import create_optimizer
from tests.support import small_models

# Results of operations on int32 are in the CPU's memory, because shapes are int32. For arrays of
# tokens this means copies there and back, unless XLA compiles the step.
ON_THE_HOST = {
    "AddV2": "negative ids count from the end of a table",
    "Const": "the same numbers for each row",
    "Equal": "what the accuracy compares; answers by their start",
    "ExpandDims": "another axis for ids",
    "Less": "negative ids and positions count from the end",
    "Reshape": "the rows of each part",
    "Slice": "the padding of a convolution's gradient",
    "StridedSlice": "another axis for ids",
}
STEPS = {
    "float32": {},
    "mixed_float16": {"dtype": "mixed_float16"},
    "mixed_bfloat16": {"dtype": "mixed_bfloat16"},
    "in parts": {"dtype": "mixed_float16", "gradient_accumulation_steps": 2},
    "tokens": None,
    "joint question": None,
}


def trace(name):
    """The graph of a training step on four rows of 12 tokens."""
    optimizer = create_optimizer(
        1e-3, 20, 4, dynamic_loss_scale=name in ("mixed_float16", "in parts")
    )
    if STEPS[name] is None:
        model, data = small_models.make(name), small_models.training_batch(name)
        model.compile(optimizer, **model.objective(), jit_compile=False)
    else:
        model, data = small_models.pretraining_model(options=STEPS[name]), [small_models.batch()]
        model.compile(optimizer, jit_compile=False)
    data = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), tuple(data))
    graph = tf.function(model.train_step, autograph=False).get_concrete_function(data).graph
    return graph, [*model.variables, *model.optimizer.variables]


@functools.cache
def registered(op):
    """The kernels of an operation that run on a GPU or with any device."""
    found = kernels.get_registered_kernels_for_op(op).kernel
    return [kernel for kernel in found if kernel.device_type in ("GPU", "DEFAULT")]


def gpu_kernels(node):
    """The registered kernels for the types of a node."""

    def matches(constraint):
        value = node.attr[constraint.name]
        types = value.list.type if value.WhichOneof("value") == "list" else [value.type]
        return set(types) <= set(constraint.allowed_values.list.type)

    return [k for k in registered(node.op) if all(map(matches, k.constraint))]


def is_on_the_host(operation, found):
    """Whether an array of the batch, [B, …], comes out of it in the CPU's memory."""
    names = {argument.name for argument in operation.op_def.output_arg}
    shapes = [output.shape for output in operation.outputs]
    has_rows = any(shape.rank and shape.rank > 1 and shape[0] == 4 for shape in shapes)
    return has_rows and any(names <= set(kernel.host_memory_arg) for kernel in found)


@pytest.mark.parametrize("name", STEPS)
def test_every_operation_has_a_kernel(name):
    graph, variables = trace(name)
    definition = graph.as_graph_def()
    missing, host = set(), set()
    for node in definition.node:
        found = gpu_kernels(node)
        if found and is_on_the_host(graph.get_operation_by_name(node.name), found):
            host.add(node.op)
    for nodes in (definition.node, *(f.node_def for f in definition.library.function)):
        missing |= {node.op for node in nodes if not gpu_kernels(node)}
    assert missing == set()
    assert host <= ON_THE_HOST.keys()
    # A variable of int32 is the CPU's, too, and XLA cannot compile a step for a GPU with one.
    assert {v.path for v in variables if v.dtype == "int32"} == set()
