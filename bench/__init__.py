"""Benchmarks: micro (pytest-benchmark) and end to end (`python -m bench.endtoend`)."""
