"""Which packages and wheels the emulated host has."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tools.arm_host import chosen

TOP = Path(__file__).resolve().parents[3]

LIST = """
# A list.
[run]
python3
# Why.
qemu-system-x86
ovmf
libguestfs0 | libguestfs0t64
grub-efi [amd64]
grub-efi-arm64 [arm64]

[test]
chromium
"""


def test_the_run_part_of_the_list_less_the_other_archs_and_what_is_added() -> None:
    """Alternatives stay, what is for amd64 alone or in another part goes."""
    found = chosen.packages(LIST)
    assert found[:3] == [("python3",), ("libguestfs0", "libguestfs0t64"), ("grub-efi-arm64",)]
    assert [name for [name] in found[3:]] == list(chosen.ADDED)


def test_the_projects_own_list_is_understood() -> None:
    """QEMU for Arm and its firmware are in it, nothing of x86 is."""
    names = {name for group in chosen.packages((TOP / "tools/packages.txt").read_text()) for name in group}
    assert {"qemu-system-arm", "qemu-efi-aarch64", "libguestfs0", "strace"} <= names
    assert not {"qemu-system-x86", "ovmf", "chromium", "[run]"} & names
    assert all(name.replace("-", "").replace("+", "").replace(".", "").isalnum() for name in names), names


def test_the_first_alternative_that_is_offered_is_taken() -> None:
    """What none is offered of is named."""
    wanted = [("a", "b"), ("c",), ("d", "e")]
    assert chosen.offered(wanted, {"b", "c"}) == (["b", "c"], ["d"])


def test_wheels_are_what_the_project_its_report_and_its_tests_need() -> None:
    """Bindings that the distribution has are no wheels, and what checks the sources is not wanted there."""
    project = (TOP / "pyproject.toml").read_text()
    names = [line.split(">")[0] for line in chosen.requirements(project)]
    assert {"click", "structlog", "tenacity", "numpy", "jinja2", "pytest", "pytest-timeout"} <= set(names)
    assert not {"libvirt-python", "mypy", "ruff", "selenium"} & set(names)


def test_pip_is_asked_for_wheels_of_the_guests_python_only() -> None:
    """Nothing is ever built, which would be for this machine's arch."""
    words = chosen.Python(version="3.11").pip_arguments()
    assert words[0] == "--only-binary=:all:"
    assert "cp311" in words
    platforms = [word for option, word in pairwise(words) if option == "--platform"]
    assert "manylinux2014_aarch64" in platforms
    assert all(name == "any" or name.endswith("_aarch64") for name in platforms)


def test_the_kernel_is_the_package_that_the_metapackage_depends_on() -> None:
    """It comes by its own name, without what it depends on."""
    assert chosen.kernel_package({chosen.KERNEL: ("linux-image-6.1.0-50-arm64",)}) == "linux-image-6.1.0-50-arm64"
