"""Workload: what runs once an appliance is ready: libguestfs tools and job files."""
