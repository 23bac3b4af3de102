"""Daemon: many clients of one launcher: sockets, protocol, who is served, and the end of it all."""
