"""What a first and a second signal do, inside and outside `deferred`."""

import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import time
from jobs.stop_signals import StopSignals

with StopSignals() as stop:
    {block}
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.05)
            {check}
    stop.leave("saved it")
"""
DEFERRED = {"block": "with stop.deferred():", "check": "if stop.received: break"}
AT_ONCE = {"block": "if True:", "check": "pass"}
DEAF = {"block": "with stop.deferred():", "check": "pass"}


def stopped(parts, *numbers):
    """Exit status and stderr of a job that got these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(**parts)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    for place, number in enumerate(numbers):
        process.send_signal(number)
        if place + 1 < len(numbers):
            assert process.stderr.readline() == "\n"  # the first one was noticed
    _, printed = process.communicate(timeout=20)
    return process.returncode, printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_its_step_first(number):
    status, printed = stopped(DEFERRED, number)
    assert status == 128 + number
    assert f"{number.name}: the step under way ends and is saved" in printed
    assert f"stopped by {number.name}: saved it" in printed


def test_with_nothing_to_save_it_leaves_at_once():
    status, printed = stopped(AT_ONCE, signal.SIGTERM)
    assert status == 143
    assert printed.startswith("stopped by SIGTERM: nothing was lost, and nothing had to be saved")


def test_a_second_signal_does_not_wait():
    status, _ = stopped(DEAF, signal.SIGINT, signal.SIGTERM)
    assert status == -signal.SIGTERM
