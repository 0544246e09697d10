"""SIGTERM and SIGINT stop a job cleanly."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, the first SIGTERM or SIGINT stops the job cleanly, and a second one at once.

    Outside `deferred`, the first signal prints `unsaved` and ends the process. Inside, it only sets
    `received`: the job finishes its step and calls `leave`. The exit status is 128 plus the
    signal's number, as in a shell.
    """

    def __init__(self, unsaved: str = "nothing needed saving. Run the same command again"):
        self.unsaved = unsaved
        self.received: signal.Signals | None = None
        self._deferring = False
        self._previous_handlers = {}

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous != signal.SIG_IGN:  # nohup ignores it, and it must stay ignored
                self._previous_handlers[number] = previous or signal.SIG_DFL
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception):
        for number, previous in self._previous_handlers.items():
            signal.signal(number, previous)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `received`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def leave(self, message: str) -> NoReturn:
        """Ends the process; prints what stopped it, and `message`.

        If this process received no signal, another process of the same job did.
        """
        name = self.received.name if self.received else "a signal to another process"
        os.write(2, f"stopped by {name}: {message}\n".encode())
        sys.exit(128 + (self.received or signal.SIGTERM))

    def _handle(self, number, frame):
        for each in self._previous_handlers:
            signal.signal(each, signal.SIG_DFL)  # a second one ends even a long call outside Python
        self.received = signal.Signals(number)
        if not self._deferring:
            self.leave(self.unsaved)
        # Not `print`, which the signal may have interrupted.
        text = "finishing and saving the current step; a second signal stops at once"
        os.write(2, f"\n{self.received.name}: {text}\n".encode())
