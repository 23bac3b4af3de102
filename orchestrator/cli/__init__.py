"""Command line: arguments in, exit status out; one module a group of commands."""
