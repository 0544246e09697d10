"""The worker's end of a benchmark: a process that builds a model and then works on request.

Its argument is the job, as JSON. The parent writes to standard input how many steps to take, one
number per line; 0 asks for matrix products. The worker answers each number with a line of JSON on
standard output.

A worker in PyTorch runs under another Python, so this module needs only the standard library.
"""

import json
import os
import statistics
import sys
import time
import timeit
from collections.abc import Callable


class Session:
    """The conversation with the parent: `job` says what to build, `facts` are in every reply.

    Args:
        report: returns versions, the device's name and its peak memory.
        make_product: takes (m, k, n, dtype), and returns a function that computes a product
            [m, k] x [k, n] of random matrices and waits for it.
    """

    def __init__(self, report: Callable[[], dict], make_product: Callable[..., Callable]):
        # Nothing that libraries print may get between the replies.
        self._replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        os.dup2(2, 1)
        self.job, self.facts = json.loads(sys.argv[1]), {}
        self._report, self._make_product = report, make_product

    def next_steps(self) -> int:
        """How many steps the parent asks for next. Exits at the end of the input."""
        for line in sys.stdin:
            if int(line):
                return int(line)
            print(json.dumps(self._product_rates()), file=self._replies)
        sys.exit(0)

    def reply(self, begin: float, steps: int) -> None:
        """Reports `steps` steps that began at the monotonic time `begin` and are done."""
        seconds = (time.monotonic() - begin) / steps
        fields = {"seconds": seconds, "steps": steps, "peak_bytes": peak_memory()} | self.facts
        fields |= {f"{name}_per_second": n / seconds for name, n in self.job["amounts"].items()}
        print(json.dumps(fields | self._report()), file=self._replies)

    def serve(self, run: Callable[[int], None]) -> None:
        """Calls `run` with each number of steps."""
        while True:
            count, begin = self.next_steps(), time.monotonic()
            run(count)
            self.reply(begin, count)

    def _product_rates(self):
        """Operations per second of the job's products and of a square one, by shape."""
        side = 2048 if self._report()["device"] == "cpu" else 8192
        dtype, rates = self.job["precision"].removeprefix("mixed_"), {}
        for m, k, n in [(side, side, side), *self.job["products"]]:
            multiply = self._make_product(m, k, n, dtype)
            seconds = statistics.median(timeit.repeat(multiply, multiply, number=1, repeat=9))
            rates[f"[{m}, {k}] x [{k}, {n}]"] = 2 * m * k * n / seconds
        return rates


def peak_memory() -> int:
    """The most bytes this process has held; `getrusage` would include what its parent held."""
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024
