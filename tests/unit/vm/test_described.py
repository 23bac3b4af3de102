"""VMs described in a file: each key, and each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import UsageError
from orchestrator.vm.customization import Customization
from orchestrator.vm.described import load_requests
from orchestrator.vm.request import PoolVolume, ReadySign, VmRequest

WHOLE = """
[vm.one]
image = "i"
image_format = "raw"
arch = "x86_64"
copy = true
size = "2G"
memory_mib = 512
vcpus = 2
network = "none"
graphics = "spice"
nvram = "/n"
hostname = "h"
user = "u"
ssh_keys = ["k"]
run = ["date"]
install = ["a"]
copy_in = [["f", "/srv"]]
cloud_init = "c"
ready = "login"
timeout_s = 9
[vm.two]
image = "/i"
graphics = "none"
size = 4096
[vm.three]
image = "vol=default/base.img"
"""


def test_every_key(tmp_path: Path) -> None:
    """Paths are from the file's folder; what is left out is as in a request."""
    path = tmp_path / "vms.toml"
    path.write_text(WHOLE)
    one, two, three = load_requests(path)
    assert one == VmRequest(
        name="one", image=tmp_path / "i", image_format="raw", arch=Arch.X86_64, copy=True, size_bytes=2 << 30,
        memory_mib=512, vcpus=2, graphics=GraphicsKind.SPICE, network="none", nvram=Path("/n"),
        ready=ReadySign.LOGIN, timeout_s=9.0,
        customization=Customization(
            hostname="h", user="u", ssh_keys=(tmp_path / "k",), run=("date",), install=("a",),
            copy_in=((tmp_path / "f", "/srv"),), cloud_init=tmp_path / "c",
        ),
    )  # fmt: skip
    assert two == VmRequest(name="two", image=Path("/i"), size_bytes=4096)
    assert three == VmRequest(name="three", image=PoolVolume(pool="default", name="base.img"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it needs a table for each VM"),
        ("vm = 1", "it needs a table for each VM"),
        ("[vm.a]\nimage = 'i'\n[other]", "it needs a table for each VM"),
        ("[vm]\na = 1", r"\[vm.a\]: it is no table"),
        ("[vm.a]", "it names no image"),
        ("[vm.a]\nimage = 'i'\nvcpu = 1", "unknown key 'vcpu' .did you mean 'vcpus'"),
        ("[vm.a]\nimage = 'i'\nvcpus = true", "expected a whole number above 0"),
        ("[vm.a]\nimage = 'vol=a'", "expected a file, or vol=POOL/VOLUME"),
        ("[vm.a]\nimage = 'i'\narch = 'arm'", "expected one of aarch64, x86_64"),
        ("[vm.a]\nimage = 'i'\ngraphics = 'x11'", "expected one of vnc, spice"),
        ("[vm.a]\nimage = ''", "expected a text that is not empty"),
        ("[vm.a]\nimage = 'i'\nsize = '2X'", "expected a number of bytes, or with M, G or T"),
        ("[vm.a]\nimage = 'i'\ncopy = 'yes'", "expected true or false"),
        ("[vm.a]\nimage = 'i'\nrun = 'date'", "expected a list of texts"),
        ("[vm.a]\nimage = 'i'\ncopy_in = ['a:/b']", "expected pairs"),
        ("[vm.a]\nimage = 'i'\nready = 'soon'", "expected one of any, record"),
        ("[vm.a]\nimage = 'i'\ntimeout_s = 0", "expected seconds, above 0"),
        ("[vm.a", "cannot use the description"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, why: str) -> None:
    """Each names the file, and what would be right."""
    path = tmp_path / "vms.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        load_requests(path)
    with pytest.raises(UsageError, match="No such file"):
        load_requests(tmp_path / "gone")
