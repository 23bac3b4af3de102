"""A build's own firmware file becomes as large as the machine's flash; others are used as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.model import Arch
from orchestrator.errors import FirmwareError
from orchestrator.firmware.flash import _CHUNK, fitting, without_padding

FLASH = 64 << 20


def test_a_small_one_is_filled_up(tmp_path: Path) -> None:
    """QEMU refuses any other size on Arm; the file itself stays as it is."""
    code = tmp_path / "QEMU_EFI.fd"
    code.write_bytes(b"edk2")
    made = Path(fitting(str(code), Arch.AARCH64, tmp_path / "cache"))
    assert made != code
    assert made.stat().st_size == FLASH
    assert made.read_bytes()[:6] == b"edk2\0\0"
    assert code.read_bytes() == b"edk2"
    assert fitting(str(code), Arch.AARCH64, tmp_path / "cache") == str(made)
    code.write_bytes(b"edk2 2")
    assert fitting(str(code), Arch.AARCH64, tmp_path / "cache") != str(made)


def test_one_that_fits_is_used_itself(tmp_path: Path) -> None:
    """Nothing is copied without need; a PC's flash is as large as its file."""
    code = tmp_path / "AAVMF_CODE.fd"
    with code.open("wb") as file:
        file.truncate(FLASH)
    assert fitting(str(code), Arch.AARCH64, tmp_path) == str(code)
    code.write_bytes(b"x")
    assert fitting(str(code), Arch.X86_64, tmp_path) == str(code)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    """One that is too large, and one that is not there, are named."""
    code = tmp_path / "code.fd"
    with code.open("wb") as file:
        file.truncate(FLASH + 1)
    with pytest.raises(FirmwareError, match="cannot use the firmware: .*code.fd: it has 67108865 bytes"):
        fitting(str(code), Arch.AARCH64, tmp_path)
    with pytest.raises(FirmwareError, match="none.fd"):
        fitting(str(tmp_path / "none.fd"), Arch.AARCH64, tmp_path)


def test_padding_is_left_out_of_a_copy(tmp_path: Path) -> None:
    """The copy belongs to the file as it is now; zeros within it stay."""
    code, cache = tmp_path / "AAVMF_CODE.fd", tmp_path / "cache"
    code.write_bytes(b"edk2\0\0code" + bytes(5000))
    made = Path(without_padding(code, cache))
    assert made.read_bytes() == b"edk2\0\0code"
    assert without_padding(code, cache) == str(made)
    for used in (_CHUNK - 1, _CHUNK, _CHUNK + 1):
        code.write_bytes(b"x" * used + bytes(_CHUNK))
        assert Path(without_padding(code, cache)).read_bytes() == b"x" * used
    code.write_bytes(bytes(9))
    assert Path(without_padding(code, cache)).read_bytes() == b"\0"
    with pytest.raises(FirmwareError, match="cannot use the firmware: .*none.fd"):
        without_padding(tmp_path / "none.fd", cache)
