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
NOT_DEFERRED = {"block": "if True:", "check": "pass"}
NEVER_ENDING = {"block": "with stop.deferred():", "check": "pass"}


def stopped(parts, *numbers):
    """Exit status and stderr of a job that gets these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(**parts)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    for i, number in enumerate(numbers):
        process.send_signal(number)
        if i + 1 < len(numbers):
            assert process.stderr.readline() == "\n"  # the first one was noticed
    _, stderr = process.communicate(timeout=20)
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_finishes_its_step_first(number):
    status, stderr = stopped(DEFERRED, number)
    assert status == 128 + number
    assert f"{number.name}: finishing and saving the current step" in stderr
    assert f"stopped by {number.name}: saved it" in stderr


def test_with_nothing_to_save_it_stops_at_once():
    status, stderr = stopped(NOT_DEFERRED, signal.SIGTERM)
    assert status == 143
    assert stderr.startswith("stopped by SIGTERM: nothing needed saving")


def test_a_second_signal_does_not_wait():
    status, _ = stopped(NEVER_ENDING, signal.SIGINT, signal.SIGTERM)
    assert status == -signal.SIGTERM
