"""Workload: tools and jobs, and their environment; what the host lacks for them; domains for the user to keep."""
