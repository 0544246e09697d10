"""Measurements beside peers and beside ourselves: `python -m benchmarks`."""
