"""Benchmarks of quality and speed; `python -m benchmarks` runs them and writes benchmarks/RESULTS.md."""
