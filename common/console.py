"""What a job prints on stderr: its own lines and progress, and no noise from TensorFlow's start.

TensorFlow's C++ parts write to file descriptor 2 before any setting in Python reaches them: on a
machine without a GPU, a dozen lines per process that look like errors.
"""

import io
import logging
import os
import re
import signal
import sys
import time
from typing import Any

from absl import logging as absl_logging

# One of these exists where the kernel has an NVIDIA driver.
NVIDIA_DEVICES = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
# Keras's own name: `keras.distribution.initialize` reads it.
NUM_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IW]\d{4} \d\d:\d\d:"  # absl's information and warnings
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "  # TensorFlow's own
    rb"|To enable the following instructions:"
    rb"|\t \[\[\{\{node "  # the second line of a warning, such as one about a stopped job's data
    rb"|E\d{4} .*(oneDNN supports|Unable to register cu\w+ factory|failed call to cuInit)"
)
# Matches warnings and errors only: information about a GPU that works is noise, too.
_CONCERNS_GPUS = re.compile(
    rb"(?i)(?!I\d{4} |\d{4}-\S+ \S+: I ).*(cuda|gpu|cuinit|dlopen|nvidia|libcu)"
)
_STARTED = b"\0started\n"

# If another process of the run is gone, JAX aborts this one with this message and a stack trace.
_LOST = re.compile(rb"F\d{4} .*the JAX distributed service|\0lost\n")
_STACK = re.compile(rb"\*\*\* Check failure stack trace|    @ |\0lost\n")
LOST_PROCESS = (
    "error: another process of this run has ended, did not start or cannot be reached: see what it "
    "printed. This one ends, too. All saved files are complete. Start the same command again for "
    "all processes: the run resumes from its last checkpoint\n"
)

_filter = None


def say_compiling(shape: tuple[int, ...], known: set[tuple[int, ...]]) -> None:
    """Explains the silence while XLA compiles for a shape of `input_ids`; adds it to `known`."""
    if shape not in known:
        known.add(shape)
        words = " x ".join(map(str, shape))
        absl_logging.info("compiling for %s tokens; this can take a minute", words)


def filter_stderr() -> None:
    """Holds back TensorFlow's start-up lines; a child process passes on everything else.

    `sys.stderr` is still the terminal or file it was. What others write to file descriptor 2 passes
    through the child. If this process ends before it calls `started`, even by a crash, the child
    shows the lines it held back. On a machine with an NVIDIA device, it shows warnings and errors
    about GPUs at once: a GPU that TensorFlow does not find is not noise.
    """
    global _filter  # noqa: PLW0603, there is one file descriptor 2
    if _filter is not None:
        return
    sys.stderr.flush()
    real = os.dup(2)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        _pass_on(reading, real)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    _filter = sys.stderr = os.fdopen(real, "w", buffering=1, errors="backslashreplace")


def started() -> None:
    """Discards the lines that were held back: TensorFlow works, so they are noise."""
    if _filter is not None:
        os.write(2, _STARTED)


def leave_if_lost(error: BaseException) -> None:
    """Ends the process with a message if an error says that another process of the run is gone.

    The libraries that connect CPUs or GPUs have no error class for it, so the message decides. An
    ordinary exit would not do: JAX would wait for the lost process.
    """
    if NUM_PROCESSES in os.environ and re.search("(?i)gloo|nccl|coordination ?service", str(error)):
        print(str(error).strip().splitlines()[0], file=sys.stderr, flush=True)
        os.write(2, LOST_PROCESS.encode() if _filter is None else b"\0lost\n")
        os._exit(1)


def _pass_on(reading, real):
    """The child's work: it ends when no process has the pipe's other end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    has_gpu = any(map(os.path.exists, NVIDIA_DEVICES))
    is_started, is_lost, held = False, False, []
    try:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                is_lost = is_lost or bool(_LOST.match(line))
                if line == _STARTED:
                    is_started, held = True, []
                elif is_lost and _STACK.match(line):
                    pass
                elif not _NOISE.match(line) or (has_gpu and _CONCERNS_GPUS.match(line)):
                    os.write(real, line)
                elif not is_started:
                    held.append(line)
        os.write(real, LOST_PROCESS.encode() if is_lost else b"".join(held))
    finally:
        os._exit(0)


def print_anything() -> None:
    """Makes stdout escape characters that its encoding lacks, so that they do not end the job."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Handler(logging.Handler):
    """Prints log lines as they are, above a progress bar if there is one."""

    def emit(self, record):
        from tqdm import tqdm  # takes a while to import, which `--help` should not

        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(level + record.getMessage(), file=sys.stderr)


def log_plainly() -> None:
    """Makes absl's logger print messages only, and the level of warnings and errors."""
    logger = absl_logging.get_absl_logger()
    logger.handlers = [_Handler()]
    logger.propagate = False


class _Lines:
    """A file for tqdm to draw on; it prints the latest state as a line every 30 seconds."""

    seconds = 30

    def __init__(self):
        self._printed = time.monotonic()
        self._state = None

    def write(self, text):
        """Takes a state of the bar, or the newline that ends it."""
        if state := text.strip("\r\n "):
            self._state = state
        is_end = text == "\n"
        if self._state and (is_end or time.monotonic() - self._printed >= self.seconds):
            sys.stderr.write(f"{self._state}\n")
            self._printed, self._state = time.monotonic(), None

    def flush(self):
        """Passes on what was written."""
        sys.stderr.flush()


def progress_bar(total: int | None = None, desc: str = "", **options: Any) -> Any:
    """A bar of tqdm's on a terminal; elsewhere a line every 30 seconds, and one at the end."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(total=total, desc=desc, mininterval=0.5, dynamic_ncols=True, **options)
    count = "{n_fmt}" if total is None else "{n_fmt} of {total_fmt}"
    times = "{elapsed}" if total is None else "{elapsed} passed, {remaining} left"
    line = f"{desc}{desc and ': '}{count} {{unit}}, {times}, {{rate_fmt}}{{postfix}}"
    rate = {"mininterval": _Lines.seconds / 10, "maxinterval": _Lines.seconds / 3}
    return tqdm(total=total, file=_Lines(), bar_format=line, **rate, **options)
