"""The training step that XLA compiles, as on GPUs, next to the plain one on CPUs."""

import numpy as np
import pytest

from tests.support.training_steps import train_in_process

JOBS = (
    {"precision": "float32"},
    {"precision": "mixed_float16", "parts": 2},
    {"precision": "mixed_bfloat16"},
)
# Of the metrics, and of the changes of all weights; both relative.
TOLERANCES = {
    "float32": (1e-6, 1e-5),
    "mixed_float16": (3e-4, 1e-2),
    "mixed_bfloat16": (2e-2, 5e-2),
}


def check(found, expected):
    """Compares the metrics, and how the weights changed."""
    for job, ours, theirs in zip(JOBS, found, expected, strict=True):
        of_metrics, of_changes = TOLERANCES[job["precision"]]
        differences = {
            name: np.linalg.norm(ours[name] - value) / max(np.linalg.norm(value), 1e-9)
            for name, value in theirs.items()
        }
        assert np.abs(theirs["changes"]).max() > 1e-3
        assert differences.pop("changes") < of_changes, job
        if job["precision"] != "float32":  # it counts pairs: one that changes places is a jump
            assert differences.pop("rtd_auc") < 2e-2, (job, differences)
        assert max(differences.values()) < of_metrics, (job, differences)


def test_tensorflow_with_xla_and_without():
    compiled = [job | {"jit_compile": True} for job in JOBS]
    results = train_in_process("tensorflow", [*JOBS, *compiled])
    check(results[len(JOBS) :], results[: len(JOBS)])


@pytest.mark.peers
def test_jax_and_tensorflow():
    jobs = [job | {"jit_compile": True, "remat": "parts" in job} for job in JOBS]
    compiled = train_in_process("jax", jobs)
    check(compiled, train_in_process("tensorflow", JOBS))
