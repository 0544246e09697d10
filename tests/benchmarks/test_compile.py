"""What a compiled program is counted as."""

import dataclasses
import json
import sys

import pytest

from benchmarks import __main__, compile
from benchmarks.gpu_targets import TARGETS
from benchmarks.hlo import Kernel, Program

PROGRAM = Program(
    """HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_reduce (p: bf16[100,64], q: f32[40,64]) -> f32[40] {
  %p = bf16[100,64]{1,0} parameter(0)
  %half = bf16[40,64]{1,0} slice(%p), slice={[0:40], [0:64]}
  %wide = f32[40,64]{1,0} convert(%half)
  %q = f32[40,64]{1,0} parameter(1)
  %scaled = f32[40,64]{1,0} multiply(%wide, %q)
  %root = f32[40,64]{1,0} rsqrt(%scaled)
  %zero = f32[] constant(0)
  ROOT %total = f32[40]{0} reduce(%root, %zero), dimensions={1}, to_apply=%add
}

%fused_update (p: f32[100,64], q: f32[1,64], i: s32[]) -> f32[100,64] {
  %p = f32[100,64]{1,0} parameter(0)
  %q = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %updated = f32[100,64]{1,0} dynamic-update-slice(%p, %q, %i, %zero)
}

%fused_adam (p: f32[64]) -> (f32[64], s32[64]) {
  %p = f32[64]{0} parameter(0)
  %bits = s32[64]{0} convert(%p)
  ROOT %both = (f32[64]{0}, s32[64]{0}) tuple(%p, %bits)
}

%body (state: (s32[], f32[100,64], f32[1,64])) -> (s32[], f32[100,64], f32[1,64]) {
  %state = (s32[], f32[100,64]{1,0}, f32[1,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %all = f32[100,64]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,64]{1,0} get-tuple-element(%state), index=2
  %set = f32[100,64]{1,0} fusion(%all, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], f32[100,64]{1,0}, f32[1,64]{1,0}) tuple(%i, %set, %row)
}

%nothing (state: (s32[], f32[100,64], f32[1,64])) -> (s32[], f32[100,64], f32[1,64]) {
  ROOT %state = (s32[], f32[100,64]{1,0}, f32[1,64]{1,0}) parameter(0)
}

ENTRY %main (x: bf16[100,64], y: f32[40,64], w: bf16[64,32]) -> (f32[40]) {
  %x = bf16[100,64]{1,0} parameter(0)
  %y = f32[40,64]{1,0} parameter(1)
  %w = bf16[64,32]{1,0} parameter(2)
  %k = bf16[9,1,64]{2,1,0} constant({...})
  %state = (s32[], f32[100,64]{1,0}, /*index=2*/f32[1,64]{1,0}) tuple(%x, %y, %w)
  %rows = f32[40]{0} fusion(%x, %y), kind=kInput, calls=%fused_reduce, metadata={op_name="a/norm"}
  %gemm = (bf16[100,32]{1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %conv = (bf16[2,50,64]{2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=9 pad=4_4}, dim_labels=b0f_o0i->b0f, feature_group_count=64, custom_call_target="__cudnn$convForward"
  %z = bf16[2,50,64]{2,1,0} get-tuple-element(%conv), index=0
  %loop = (s32[], f32[100,64]{1,0}, f32[1,64]{1,0}) while(%state), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %if = (s32[], f32[100,64]{1,0}, f32[1,64]{1,0}) conditional(%y, %loop, %loop), branch_computations={%nothing, %body}, metadata={op_name="jit(f)/cond"}
  %new = (f32[64]{0}, s32[64]{0}) fusion(%y), kind=kLoop, calls=%fused_adam, metadata={op_name="jit(train_step)/adam_weight_decay/sub"}
  %same = f32[40]{0} copy(%rows)
  ROOT %out = (f32[40]{0}) tuple(%same)
}
"""  # noqa: E501
)


def test_counts_by_hand():
    rows, gemm, conv, *updates, adam, copy = PROGRAM.kernels()
    assert rows == Kernel(
        "rows",
        "reductions",
        "a/norm",
        bytes=40 * 64 * (2 + 4) + 40 * 4,  # of x, only the rows that are used
        floats=40 * 64 * (1 + 1 + 8 + 1),
    )
    assert dataclasses.replace(gemm, bytes=0) == Kernel(
        "gemm", "matrix products", "", 0, products=2 * 100 * 64 * 32
    )
    assert gemm.bytes == 2 * (100 * 64 + 64 * 32 + 100 * 32)  # without the workspace
    assert (conv.kind, conv.products) == ("convolutions", 2 * 9 * 100 * 64)
    assert [x.bytes for x in updates] == 4 * [64 * 4 * 2 + 4]  # in place
    assert (adam.kind, adam.bytes, adam.integers) == ("optimizer", 64 * 4 * 3, 64)
    assert (copy.kind, copy.bytes) == ("copies", 2 * 40 * 4)


def test_the_longest_resource_decides():
    h100, v100 = TARGETS["h100"], TARGETS["v100"]
    kernel = Kernel("", "", "", bytes=3352e6, products=790e9)
    assert compile.kernel_seconds(kernel, h100, "mixed_bfloat16") == pytest.approx(1e-3)
    assert compile.kernel_seconds(kernel, h100, "float32") == pytest.approx(790 / 400e3)
    assert compile.kernel_seconds(kernel, v100, "mixed_float16") == pytest.approx(7.9e-3)
    assert compile.kernel_seconds(kernel, v100, "mixed_bfloat16") == pytest.approx(790 / 14e3)
    adds = Kernel("", "", "", bytes=1, floats=80 * 64 * 1.53e9)
    assert compile.kernel_seconds(adds, v100, "float32") == pytest.approx(1)


def test_report(monkeypatch, tmp_path, capsys):
    jobs = []

    def compile_step(job, target):
        jobs.append(job)
        return {"compile_seconds": 9.87, "peak_bytes": 12.3e9}, PROGRAM.kernels()

    monkeypatch.setattr(compile, "compile_step", compile_step)
    path = tmp_path / "report.json"
    options = ["--target", "a100", "--hparams", '{"gradient_accumulation_steps": 4}', "--by-kind"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "compile", *options, "--output", str(path)])
    __main__.main()
    assert jobs[0]["hparams"]["gradient_accumulation_steps"] == 4
    report, text = json.loads(path.read_text()), capsys.readouterr().out
    total = report["total"]
    assert (total["launches"], total["peak GB"], total["compile s"]) == (9, 12.3, 9.9)
    seconds = sum(kernel["seconds"] + 2e-6 for kernel in report["kernels"])
    assert total["tokens/s"] == round(128 * 128 / seconds)
    assert {kind["kind"]: kind["launches"] for kind in report["kinds"]}["slices and pads"] == 4
    assert "120 TFLOP/s, 1.55 TB/s, 2 µs a launch" in text and "| optimizer " in text
