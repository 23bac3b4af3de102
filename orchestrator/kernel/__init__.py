"""Runs of any kernel, with a verdict: what is asked for, what is made of it, how its guest is followed and judged."""
