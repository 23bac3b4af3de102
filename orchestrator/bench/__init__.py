"""Benchmarks: the sides that are compared, their runs, the result file, statistics and verdicts."""
