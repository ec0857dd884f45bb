"""Engines side by side, end to end, in network namespaces: `python -m bench.endtoend`, `make bench`."""
