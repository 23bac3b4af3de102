"""Bytes between a guest and us: its serial console and its control port.

guestfsd's own stream goes straight from QEMU to libguestfs's socket (2026-11-22): a relay would cost throughput, and be
one more thing that can fail. What the relay would have seen, the launch flag, is dated by QEMU's own trace of that one
write, which is switched off right after it.
"""
