"""Compiles what guestlaunch brings along compiled (orchestrator/compiled.py): python3 -m tools.objects.

Of each C file for each architecture, linked with nothing. What Debian 12's compilers make is what is in
orchestrator/compiled.json, byte by byte: tests/unit/test_compiled.py makes it again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tempfile
import textwrap
import zlib
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
FILE = TOP / "orchestrator/compiled.json"
SOURCES = {
    "orchestrator.appliance/guest/looking.c": TOP / "orchestrator/appliance/guest/looking.c",
    "orchestrator.appliance/guest/prepared.c": TOP / "orchestrator/appliance/guest/prepared.c",
    "orchestrator.appliance/guest/probing.c": TOP / "orchestrator/appliance/guest/probing.c",
    "orchestrator.appliance/guest/shortcuts.c": TOP / "orchestrator/appliance/guest/shortcuts.c",
    "orchestrator.workload/guest_arch.c": TOP / "orchestrator/workload/guest_arch.c",
}
PROGRAMS = {"shortcuts.c"}  # those that are started by themselves
ARCHS = ("aarch64", "x86_64")
VERSION = "12.2.0"  # of the compilers that made what is there
SHARED = ("-shared", "-fPIC")
# In a guest, where libc is to lie alike in all programs (etc/ld.so.preload), a preloaded library is out of its way.
APART = ("-Wl,-Ttext-segment=0x7000000000",)
# Nothing in it calls a C library's memcpy or memset; aligned for pages of 64 KiB it would be that large.
STATIC = ("-static", "-ffreestanding", "-fno-tree-loop-distribute-patterns", "-Wl,-z,max-page-size=4096")
FLAGS = (
    "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-nostdlib", "-s",
    # Nothing that depends on who compiles it, or that nobody reads.
    "-fno-ident", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-Wl,--build-id=none,-z,noseparate-code",
)  # fmt: skip


def compiler_for(arch: str) -> str:
    """Return the name of Debian's compiler for an architecture."""
    return f"{arch}-linux-gnu-gcc"


def compiled(source: Path, arch: str) -> bytes:
    """Return the shared object made of a C file."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.so"
        kind = STATIC if source.name in PROGRAMS else (*SHARED, *(APART if source.parent.name == "guest" else ()))
        subprocess.run([compiler_for(arch), *kind, *FLAGS, "-o", made, source], check=True)
        return made.read_bytes()


def as_text(data: bytes) -> list[str]:
    """Return a shared object as compiled.json has it."""
    return textwrap.wrap(base64.b64encode(zlib.compress(data, 9)).decode(), 100)


def main() -> None:
    """Write orchestrator/compiled.json."""
    made = {
        name: {"source": hashlib.sha256(source.read_bytes()).hexdigest()}
        | {arch: as_text(compiled(source, arch)) for arch in ARCHS}
        for name, source in SOURCES.items()
    }
    FILE.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
