"""Reports on log lines and result files: the page, charts, traces."""
