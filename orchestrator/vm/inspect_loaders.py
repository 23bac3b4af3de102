"""A job: what firmware could start from the first disk: the EFI programs of its EFI system partitions."""

from __future__ import annotations

from typing import Any

_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ESP_MBR = 0xEF
_MACHINES = {0xAA64: "aarch64", 0x8664: "x86_64", 0x14C: "i386", 0x1C2: "arm", 0x5064: "riscv64"}
_MOST = 2000


def run(g: Any) -> dict[str, Any]:  # noqa: ANN401 - a handle of the bindings, which have no types
    """Return how many EFI system partitions there are, and each program in them with its architecture."""
    disk = "/dev/sda"
    programs: dict[str, str] = {}
    partitions = [f"{disk}{part['part_num']}" for part in _parts(g, disk) if _is_esp(g, disk, part["part_num"])]
    for partition in partitions:
        g.mount_ro(partition, "/")
        for name in g.find("/")[:_MOST]:
            path = f"/{name}"
            if g.is_file(path):
                machine = _machine(g, path)
                if machine is not None:
                    programs[path] = machine
        g.umount("/")
    return {"partitions": len(partitions), "programs": programs}


def _parts(g: Any, disk: str) -> list[Any]:  # noqa: ANN401 - the same
    try:
        return list(g.part_list(disk))
    except RuntimeError:  # no partition table
        return []


def _is_esp(g: Any, disk: str, number: int) -> bool:  # noqa: ANN401 - the same
    if g.part_get_parttype(disk) == "gpt":
        return bool(g.part_get_gpt_type(disk, number) == _ESP)
    return bool(g.part_get_mbr_id(disk, number) == _ESP_MBR)


def _machine(g: Any, path: str) -> str | None:  # noqa: ANN401 - the same
    """Return the architecture of a PE program, None for any other file."""
    start = g.pread(path, 64, 0)
    if len(start) < 64 or start[:2] != b"MZ":
        return None
    header = g.pread(path, 6, int.from_bytes(start[60:64], "little"))
    if header[:4] != b"PE\0\0":
        return None
    machine = int.from_bytes(header[4:6], "little")
    return _MACHINES.get(machine, f"machine {machine:#06x}")
