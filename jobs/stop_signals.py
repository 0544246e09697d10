"""SIGTERM and SIGINT end a job in order."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, a first SIGTERM or SIGINT ends the job in order, and a second one at once.

    The first one leaves where it finds the job, unless that is inside `deferred`: there it only
    sets `received`, and whoever runs the job comes to an end and calls `leave`. The exit status is
    128 plus the signal's number, as a shell has it.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._deferring = False
        self._before = {}

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:  # as under nohup: it stays ignored
                self._before[number] = before or signal.SIG_DFL
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception):
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only noted."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def leave(self, message: str) -> NoReturn:
        """Ends the process, saying what stopped it, and `message`.

        Without a signal of its own, another process of the same job has had one.
        """
        name = self.received.name if self.received else "a signal to another process"
        os.write(2, f"stopped by {name}: {message}\n".encode())
        sys.exit(128 + (self.received or signal.SIGTERM))

    def _handle(self, number, frame):
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # works even inside a long call that is not Python
        self.received = signal.Signals(number)
        if not self._deferring:
            self.leave("nothing was lost, and nothing had to be saved. Run the same command again")
        # Not print: the signal may have interrupted one.
        text = "the step under way ends and is saved; a second signal leaves at once"
        os.write(2, f"\n{self.received.name}: {text}\n".encode())
