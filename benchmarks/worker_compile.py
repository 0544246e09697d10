"""Traces the pre-training step, and compiles it with XLA for a GPU that is not there.

The argument is a job as JSON: the folder for results, and what to do. `benchmarks.compile` starts
this file twice: first to trace, in the backend's environment, then to compile, in an environment
that has XLA for CUDA. The first run passes the step to the second as StableHLO.
"""

import json
import os
import sys
import time
from pathlib import Path

VOCAB_SIZE = 30522  # BERT's
TRACED = "step.mlir"  # StableHLO, MLIR bytecode
COMPILED, SUMMARY = "step.hlo", "summary.json"  # XLA's optimized program; seconds and memory


def main():
    """Traces or compiles, as the job says."""
    job = json.loads(sys.argv[1])
    os.environ |= {
        "KERAS_BACKEND": job["backend"],
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_FLAGS": job.get("xla_flags", ""),
    }
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    folder = Path(job["folder"])
    if job["action"] == "trace":
        trace = trace_jax if job["backend"] == "jax" else trace_tensorflow
        (folder / TRACED).write_bytes(trace(job["hparams"]))
    else:
        compile_traced(folder, job["target"])


def make_step(hparams: dict) -> tuple:
    """The model of a run, and the shape of its batches."""
    from configure_pretraining import PretrainingConfig
    from model.masking import SpecialTokens
    from model.training.build import make_model

    config = PretrainingConfig.from_hparams(hparams)
    model = make_model(config, config.model_config(VOCAB_SIZE), SpecialTokens())
    return model, (config.train_batch_size, config.max_seq_length)


def trace_jax(hparams: dict) -> bytes:
    """The step as Keras calls it on JAX, with its state donated."""
    import jax
    from jax._src.interpreters import mlir

    from model.convbert import INPUT_NAMES

    model, shape = make_step(hparams)
    groups = (model.trainable_variables, model.non_trainable_variables)
    groups += (model.optimizer.variables, model.metrics_variables)
    state = tuple([jax.ShapeDtypeStruct(v.shape, v.dtype) for v in group] for group in groups)
    batch = {name: jax.ShapeDtypeStruct(shape, "int32") for name in INPUT_NAMES}
    step = jax.jit(model.train_step, donate_argnums=0)
    lowered = step.trace(state, (batch,)).lower(lowering_platforms=("cuda",))
    return mlir.module_to_bytecode(lowered.compiler_ir("stablehlo"))


def trace_tensorflow(hparams: dict) -> bytes:
    """The step as TensorFlow hands it to XLA with `jit_compile`."""
    import tensorflow as tf

    from model.convbert import INPUT_NAMES

    model, shape = make_step(hparams)

    def step(*arrays):
        return model.train_step((dict(zip(INPUT_NAMES, arrays, strict=True)),))

    specs = [tf.TensorSpec(shape, tf.int32)] * len(INPUT_NAMES)
    traced = tf.function(step, jit_compile=True).experimental_get_compiler_ir(*specs)
    return traced(stage="stablehlo_serialized", device_name="/device:CPU:0")


def compile_traced(folder: Path, target: str) -> None:
    """Compiles the traced step for the GPU that `target` describes, a GpuTargetConfigProto."""
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    from jax.extend.mlir import ir
    from jaxlib import _jax

    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=target)
    device = topology.devices[0]
    with mlir.make_ir_context():
        module = ir.Module.parse((folder / TRACED).read_bytes())
        erase_copies(module, ir)
        begin = time.monotonic()
        executable = device.client.compile(
            module, _jax.DeviceList((device,)), compiler.get_compile_options(1, 1)
        )
        seconds = time.monotonic() - begin
    memory = executable.get_compiled_memory_stats()
    (program,) = executable.hlo_modules()
    (folder / COMPILED).write_text(program.to_string(), encoding="utf-8")
    summary = {"compile_seconds": seconds, "peak_bytes": memory.peak_memory_in_bytes}
    (folder / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def erase_copies(module, ir) -> None:
    """Drops TensorFlow's `mhlo.copy`, which StableHLO does not have."""
    copies = []

    def visit(operation):
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()


if __name__ == "__main__":
    main()
