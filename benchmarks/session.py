"""A contender's end of the benchmark: one process that builds, and then works on request.

The parent writes a JSON object a line to its standard input: first the job, then requests. Each
is answered with one on its standard output. At the end of the input the process ends.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable


class Session:
    """The conversation with the parent.

    Attributes:
        job: what to build.
        tools: further requests by name, each a function of keyword arguments that returns a dict.
    """

    def __init__(self):
        # What libraries print must not come between the answers.
        self._answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        os.dup2(2, 1)
        self.job = json.loads(sys.stdin.readline())
        self.tools: dict[str, Callable[..., dict]] = {}

    def steps_wanted(self) -> int:
        """Answers requests until one asks for steps; returns how many. Exits where none is left."""
        for line in sys.stdin:
            request = json.loads(line)
            name = request.pop("do")
            if name == "steps":
                return request["count"]
            self.answer(**self.tools[name](**request))
        sys.exit(0)

    def answer(self, **fields) -> None:
        """Answers a request."""
        print(json.dumps(fields), file=self._answers, flush=True)

    def serve(self, run: Callable[[int], dict]) -> None:
        """Runs steps on request, without end: `run(count)` returns further fields of the answer."""
        while True:
            count = self.steps_wanted()
            begin = time.monotonic()
            fields = run(count)
            self.answer(**{"seconds": time.monotonic() - begin, "steps": count} | fields)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes.

    Not getrusage's: that counts what the parent held when it started this process.
    """
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024


def rate_of_product(multiply: Callable[[int], None], m: int, k: int, n: int) -> dict:
    """Measures [m, k] × [k, n].

    Args:
        multiply: does so many such products and waits for their end.
        m: rows of the first.
        k: columns of the first.
        n: columns of the second.
    """
    multiply(2)
    begin = time.monotonic()
    multiply(2)
    count = max(2, math.ceil(0.3 / ((time.monotonic() - begin) / 2)))
    begin = time.monotonic()
    multiply(count)
    return {"flops_per_second": 2 * m * k * n * count / (time.monotonic() - begin)}
