"""The appliance's kernel command line, made for the client's own arch, fitted to the guest's.

libguestfs writes console, delay-loop and early-console parameters for the arch it was compiled for. They are wrong
for a guest of another arch; everything else, and all that the user appended, is handed on as it is.
"""

from __future__ import annotations

from orchestrator.domain.model import Arch

# Written by libguestfs on Arm only; elsewhere they are unknown to the kernel or name a device that is not there.
_ARM_ONLY = ("earlyprintk=pl011,", "efi-rtc=")
# The host's own delay loop. Arm64 kernels scale udelay() by it: a foreign value makes every delay too long.
_HOST_ONLY = ("lpj=",)


def for_guest(cmdline: str, *, arch: Arch, console: str, host_arch: str) -> str:
    """Return cmdline for a guest of arch whose first serial port is console ("ttyAMA0").

    :param host_arch: `platform.machine()` of the host the client ran on.
    """
    own, mark, users = cmdline.partition(" TERM=")  # libguestfs always writes TERM; what follows is the user's
    foreign = _HOST_ONLY if arch != host_arch else ()
    dropped = (*foreign, *(_ARM_ONLY if arch != Arch.AARCH64 else ()))
    words = [word for word in own.split(" ") if not word.startswith(dropped)]
    return " ".join(f"console={console}" if word.startswith("console=") else word for word in words) + mark + users
