"""What a script prints on stderr: no noise of TensorFlow's, everything if it fails."""

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
import termios

import pytest

from common import console
from tests.support.processes import ROOT

NOISE = (
    "\t [[{{node PyFunc}}]]",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1.1 1 port.cc:153] oneDNN custom operations are on. You may see",
    "2026-01-02 03:04:05.678901: I tensorflow/core/util/port.cc:153] oneDNN custom operations",
    "I0000 00:00:1.1 1 gpu_device.cc:2019] Created device /device:GPU:0 with 9 MB memory",
    "W0000 00:00:1.1 1 gpu_device.cc:2433] Cannot dlopen some GPU libraries.",
    "E0000 00:00:1.1 1 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)",
)
NEWS = "E0000 00:00:1.1 1 cuda_dnn.cc:522] Loaded runtime CuDNN library: 8.1 but compiled with 9.3"
PROGRAM = """
import os, signal, sys
from absl import logging
from common import console, errors

console.NVIDIA_DEVICES = {devices!r}

def main():
    os.write(2, {text!r}.encode())
    {then}

errors.run(main)
"""


def stderr_of(then, devices=()):
    text = "\n".join((*NOISE, NEWS)) + "\n"
    program = PROGRAM.format(devices=tuple(devices), text=text, then=then)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("then", "status", "last"),
    [
        ("pass", 0, []),
        ("sys.exit(3)", 3, []),
        ("raise errors.InputError('a.txt: empty')", 1, ["error: a.txt: empty"]),
        ("open('/no/file')", 1, ["error: /no/file: No such file or directory"]),
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, ["error: Broken pipe"]),
        ("raise KeyboardInterrupt", 130, ["interrupted"]),
        ("logging.warning('%s is odd', 1)", 0, ["warning: 1 is odd"]),
        ("logging.set_verbosity(0); logging.info('step %d', 2)", 0, ["step 2"]),
    ],
)
def test_noise_is_dropped_and_news_are_shown(then, status, last):
    code, lines = stderr_of(then)
    assert (code, sorted(lines)) == (status, sorted([NEWS, *last]))


def test_jax_ends_a_process_whose_run_is_lost(monkeypatch):
    fatal = "F1130 12:53:07.7 7 client.h:80] Terminating, the JAX distributed service detected"
    stack = "*** Check failure stack trace: ***\\n    @     0x7f5b62 absl::lts_1::Flush()\\n"
    code, lines = stderr_of(f'os.write(2, b"{fatal}\\n{stack}"); os._exit(134)')
    assert code == 134 and lines[-2:] == [fatal, console.LOST_PROCESS.rstrip()]

    error = "ValueError('UNKNOWN: Gloo AllGather failed: Connection closed by peer')"
    assert "Traceback (most recent call last):" in stderr_of(f"raise {error}")[1]
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    code, lines = stderr_of(f"raise {error}")
    said = "UNKNOWN: Gloo AllGather failed: Connection closed by peer"
    assert code == 1 and said in lines and lines[-1] == console.LOST_PROCESS.rstrip()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_stdout_takes_every_text(encoding):
    program = (
        "from common import errors; errors.run(lambda: print('smørrebrød 🥱 \\udcff', flush=1))"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    expected = "smørrebrød 🥱 \udcff".encode(encoding, "backslashreplace") + b"\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_a_reader_that_has_enough_is_no_error():
    program = "from common import errors; errors.run(lambda: print('a\\n' * 100_000))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | head -1"
    done = subprocess.run(command, cwd=ROOT, shell=True, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"a\n", b"")


def test_stdout_that_cannot_be_written_is_one_line_or_none():
    program = "from common import errors; errors.run(lambda: print('a'))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    for target, status, printed in (
        ("/dev/full", 1, b"error: No space left on device\n"),
        ("&-", 0, b""),  # there is no stdout
    ):
        done = subprocess.run(
            f"{command} >{target}", cwd=ROOT, shell=True, stderr=subprocess.PIPE, check=False
        )
        assert (done.returncode, done.stderr) == (status, printed)


def test_tensorflow_starts_without_a_line():
    start = "from data.tensorflow_setup import prepare_tensorflow; prepare_tensorflow(True)"
    assert stderr_of(f"{start}; import keras; keras.ops.matmul([[1.0]], [[2.0]])")[1] == [NEWS]


def test_noise_after_the_start_is_dropped_too():
    later = f"console.started(); os.write(2, {(NOISE[1] + chr(10))!r}.encode()); os.abort()"
    assert stderr_of(later)[1] == [NEWS]


@pytest.mark.parametrize("then", ["os.abort()", "os.kill(os.getpid(), signal.SIGKILL)", "1 / 0"])
def test_everything_is_shown_when_the_start_fails(then):
    code, lines = stderr_of(then)
    assert code != 0
    assert set(lines) >= {*NOISE, NEWS}
    assert ("ZeroDivisionError: division by zero" in lines) == (then == "1 / 0")


def test_a_gpu_that_is_not_found_is_news(tmp_path):
    device = tmp_path / "nvidia0"
    device.touch()
    assert stderr_of("pass", [str(device)])[1] == [*NOISE[5:], NEWS]


def test_progress_off_a_terminal_is_a_line_at_intervals(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bar = console.progress_bar(100, "reading", unit="files")
    for _ in range(100):
        now[0] += 1.0
        bar.update()
        bar.refresh()
    bar.close()
    shown = capsys.readouterr().err
    assert "\r" not in shown
    counts = [re.match(r"reading: (\d+) of 100 files, ", line)[1] for line in shown.splitlines()]
    assert counts == ["30", "60", "90", "100"]


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with os.fdopen(terminal, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        bar = console.progress_bar(2, "reading", unit="files")
        bar.update()
        bar.refresh()
        bar.close()
    shown = b""  # one read may return a part
    with contextlib.suppress(OSError):  # at the end, because the terminal is closed
        while part := os.read(main, 10_000):
            shown += part
    os.close(main)
    assert b"\rreading:  50%|" in shown
