"""The GPUs of `python3 -m benchmarks compile`: XLA's descriptions of them, and peak speeds."""

import dataclasses

DESCRIPTION = """
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {capability} {features} }}
  core_count: {cores}
  fpus_per_core: {lanes}
  clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {memory:.0f}
  l2_cache_size: {l2}
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {block_memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """One GPU. Units: bytes, bytes a second, GHz, operations a second."""

    name: str
    capability: int  # the major number; the minor one is 0
    cores: int  # streaming multiprocessors
    lanes: int  # float32 operations that a core starts in a cycle
    clock: float
    memory: float
    bandwidth: float
    l2: int
    shared_memory: int
    block_memory: int  # the most shared memory that a kernel may ask for
    float32: float  # products in float32, or in TF32 if the GPU has it
    half: float  # products in float16, at the rate that large products reach
    has_bfloat16: bool = True

    def description(self) -> str:
        """A GpuTargetConfigProto as text: the numbers that CUDA reports of the device."""
        features = "feature_extension: ACCELERATED_FEATURES" if self.capability == 9 else ""
        return DESCRIPTION.format(features=features, **dataclasses.asdict(self))

    def products_per_second(self, precision: str) -> float:
        """Operations a second of matrix products under a Keras dtype policy."""
        half = precision == "mixed_float16" or (precision == "mixed_bfloat16" and self.has_bfloat16)
        return self.half if half else self.float32


HOPPER = {"capability": 9, "cores": 132, "lanes": 128, "clock": 1.755, "l2": 52428800}
HOPPER |= {"shared_memory": 233472, "block_memory": 232448, "float32": 400e12, "half": 790e12}
TARGETS = {
    "v100": Target(
        "Tesla V100-SXM2-16GB",
        capability=7,
        cores=80,
        lanes=64,
        clock=1.53,
        memory=16.9e9,
        bandwidth=898e9,
        l2=6291456,
        shared_memory=98304,
        block_memory=98304,
        float32=14e12,
        half=100e12,
        has_bfloat16=False,
    ),
    "a100": Target(
        "NVIDIA A100-SXM4-40GB",
        capability=8,
        cores=108,
        lanes=64,
        clock=1.41,
        memory=42.3e9,
        bandwidth=1555e9,
        l2=41943040,
        shared_memory=167936,
        block_memory=166912,
        float32=120e12,
        half=250e12,
    ),
    "h100": Target("NVIDIA H100 80GB HBM3", memory=84.9e9, bandwidth=3352e9, **HOPPER),
    "h200": Target("NVIDIA H200", memory=151.4e9, bandwidth=4800e9, **HOPPER),
}
