"""The one error that means "your input is wrong", and how a script reports it."""

import importlib.util
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Something a user gave (an option, a file, a line in it) cannot be used.

    Scripts print only the message, so it says what is wrong, where (file, line, field, value), and
    what to do.
    """


def require_package(name: str, what: str, requirement: str = "") -> None:
    """Raises an `InputError` with the install command if an optional package is missing.

    `what` needs it; `requirement` is what to install, by default the package `name`.
    """
    if importlib.util.find_spec(name) is None:
        install = f"{sys.executable} -m pip install {requirement or name}"
        raise InputError(f"{what} needs the package {name}, which is not installed: {install}")


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`, with stderr as `common.console` sets it up.

    An `InputError` becomes one message on stderr and exit status 1, and so does an error of the
    operating system, such as a file that may not be read. Any other exception keeps its traceback,
    after everything that TensorFlow printed.
    """
    from common import console, lean_imports

    lean_imports.install()
    console.filter_stderr()
    console.log_plainly()
    console.print_anything()
    status: Any = 0
    try:
        main()
        print(end="", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except OSError as error:
        if not error.strerror:
            raise
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            status = 128 + signal.SIGPIPE
        else:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            print(f"error: {where}{error.strerror}", file=sys.stderr)
            status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except SystemExit as end:
        status = end.code
    except Exception as error:
        console.leave_if_lost(error)
        raise
    console.started()
    try:
        print(end="", flush=True)
    except OSError:  # already reported; Python would try again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def _has_no_reader():
    """Whether the reader of stdout, such as `head`, has ended."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))
