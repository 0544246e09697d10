"""Benchmarks against other implementations on the same machine: `python -m benchmarks`."""
