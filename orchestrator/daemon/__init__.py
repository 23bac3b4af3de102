"""Daemon: many clients of one launcher: sockets, protocol, who is served, and how it all ends."""
