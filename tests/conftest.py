"""What holds for all tests."""

import signal

# Where tests run as a shell's background job, SIGINT is ignored, and jobs started by them would
# inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
