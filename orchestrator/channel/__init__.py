"""Bytes between a guest and us: its serial console and its control port.

guestfsd's own stream goes from QEMU straight to libguestfs's socket: nothing of ours stands in its way.
"""
