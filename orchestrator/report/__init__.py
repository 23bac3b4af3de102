"""Statistics, comparison, pages, traces and metrics, all from log lines and result files."""
