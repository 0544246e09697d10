"""New processes; jobs without the seconds in which each would import TensorFlow."""

import multiprocessing
import os
import pathlib
import subprocess
import sys

from common import errors

ROOT = pathlib.Path(__file__).parents[2]
# Forks a process that has imported TensorFlow, and computed nothing.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.preloaded"])


def start(main, arguments, stderr=None):
    """Starts a process that calls a script's `main`, as that script does; stderr goes to a file."""
    process = _CONTEXT.Process(target=_run, args=(main, arguments, stderr))
    process.start()
    return process


def finish(process, status=0):
    """Waits for the process, which must end with a status; that of a signal is negative."""
    process.join(timeout=600)
    assert process.exitcode == status


def run_python(*arguments, cwd=ROOT, timeout=600, **environment):
    """Runs Python with changes of the environment; returns the process, which must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def _run(main, arguments, stderr):
    if stderr:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = [f"{main.__module__}.py", *arguments]
    errors.run(main)
