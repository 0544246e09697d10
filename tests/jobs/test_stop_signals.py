"""What tests/test_resume.py cannot show: a job that does not end."""

import signal
import subprocess
import sys

from tests.support.processes import ROOT

PROGRAM = """
import time
from jobs.stop_signals import StopSignals

with StopSignals() as stop, stop.deferred():
    print("ready", flush=True)
    time.sleep(30)
"""


def test_a_second_signal_does_not_wait():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"  # the first one was noticed
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM
