"""A corpus of disk layouts, of what seldom comes together on one machine; made once and kept for later runs.

The host makes partition tables, the appliance the rest, in one launch; small sparse files. They lie in a folder named
after the script that made them, beside the test suite's appliances, so that they are made again when that changes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.disks import MIB, encrypted, host
from tests.running import Guestlaunch

PASSPHRASE = "open sesame"
MOST = 26 + 26
FEW = 20  # volumes that are made one by one


MBR = (
    "label: dos\nsize=2MiB, type=83\nsize=4MiB, type=5\nsize=4MiB, type=8e\nsize=1MiB, type=83\nsize=1MiB\nsize=1MiB\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the corpus.

    :ivar size: in bytes; `table` sfdisk's description of its partition table, `contents` what it begins with.
    :ivar options: guestfish's of add-drive, beside the format.
    :ivar encrypted: it is a LUKS container, of `size` without the header.
    :ivar copy_of: the image that it is a copy of.
    :ivar shown: it is attached when the layouts are compared: a member of an array may be missing then.
    """

    size: int
    table: str = ""
    contents: bytes = b""
    options: str = ""
    encrypted: bool = False
    copy_of: str = ""
    shown: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Images that belong together, by name, and the commands that fill them; `$name` stands for a device.

    :ivar files: what the commands read, by name; `@name@` stands for such a file.
    """

    images: dict[str, Image]
    script: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Layouts that are attached together: their images in the order of the drives."""

    images: dict[str, Image]
    script: str
    files: dict[str, str]

    @property
    def shown(self) -> dict[str, Image]:
        """The images that are attached when they are compared."""
        return {name: image for name, image in self.images.items() if image.shown}


def device_names(names: Iterable[str]) -> dict[str, str]:
    """Return libguestfs's names of the drives that are added in this order."""
    letters = [chr(97 + i) if i < 26 else chr(96 + i // 26) + chr(97 + i % 26) for i in range(MOST)]
    return {name: f"/dev/sd{letter}" for name, letter in zip(names, letters, strict=False)}


def named(text: str, devices: Mapping[str, str]) -> str:
    """Return a text with the names of devices in it."""
    for name in sorted(devices, key=len, reverse=True):
        text = text.replace(f"${{{name}}}", devices[name]).replace(f"${name}", devices[name])
    return text


def gpt(partitions: int) -> str:
    """Return a table of so many partitions of 256 KiB."""
    return "label: gpt\ntable-length: 128\n" + "".join(f"start={2048 + 512 * i}, size=512\n" for i in range(partitions))


def volume_group(name: str, volumes: int) -> str:
    """Return a group of so many volumes of 4 MiB, as LVM writes it down (lvm2 format), on a physical volume `PV`.

    For many, which are made in one go: each that is made by itself takes an emulated guest seconds.
    """

    def named_as(number: int) -> str:
        return f"vOlUme-0000-0000-0000-0000-0000-{number:06d}"

    def volume(i: int) -> str:
        return f"""v{i} {{
id = "{named_as(i + 1)}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = 1
type = "striped"
stripe_count = 1
stripes = ["pv0", {i}]
}}
}}
"""

    return f"""contents = "Text Format Volume Group"
version = 1
{name} {{
id = "{named_as(0)}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 8192
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "PV"
status = ["ALLOCATABLE"]
flags = []
dev_size = {(8 + 4 * volumes) * MIB // 512}
pe_start = 2048
pe_count = {volumes + 1}
}}
}}
logical_volumes {{
{"".join(map(volume, range(volumes)))}}}
}}
"""


def layouts(partitions: int, volumes: int) -> dict[str, Layout]:
    """Return all layouts, with so many partitions on one disk and so many logical volumes in one group."""
    one, gone = Image(size=16 * MIB), Image(size=16 * MIB, shown=False)
    tree = Image(size=128 * MIB)
    if volumes <= FEW:
        grouped = "vgcreate many $many\n" + "".join(f"lvcreate v{i} many 4\n" for i in range(volumes))
        written = {}
    else:
        # Of all that there is by then, this physical volume alone has no group yet.
        grouped = """debug-upload @volumes@ /tmp/volumes 0600
debug sh "sed -i s/PV/$(pvs --noheadings -S vg_name= -o pv_uuid | tr -d \\\\ )/ /tmp/volumes"
debug sh "vgcfgrestore -f /tmp/volumes many"
vg-activate true many
"""
        written = {"volumes": volume_group("many", volumes)}
    return {
        # The first is in a clone's slot, where nothing is plugged in; its copy is plugged in.
        "copies": Layout(
            images={"twin1": Image(size=24 * MIB), "twin2": Image(size=24 * MIB, copy_of="twin1")},
            script="pvcreate $twin1\nvgcreate twins $twin1\nlvcreate one twins 8\nmkfs ext2 /dev/twins/one\n",
        ),
        "partitions": Layout(
            images={"parts": Image(size=(4 + partitions // 4) * MIB, table=gpt(partitions))},
            script="mkfs ext2 ${parts}1\nmkswap ${parts}3\n",
        ),
        "volumes": Layout(
            images={"many": Image(size=(8 + 4 * volumes) * MIB)},
            script=f"pvcreate $many\n{grouped}mkfs ext2 /dev/many/v0\n",
            files=written,
        ),
        "stacked": Layout(
            images={"mirror1": Image(size=24 * MIB), "mirror2": Image(size=24 * MIB)},
            script="""md-create mirror "$mirror1 $mirror2" level:raid1
pvcreate /dev/md/mirror
vgcreate stacked /dev/md/mirror
lvcreate top stacked 8
mkfs ext2 /dev/stacked/top
""",
        ),
        "degraded": Layout(
            images={"half": one, "half-gone": gone},
            script='md-create half "$half $half-gone" level:raid1\nmkfs ext2 /dev/md/half\n',
        ),
        "degraded raid5": Layout(
            images={"three1": one, "three2": one, "three-gone": gone},
            script='md-create three "$three1 $three2 $three-gone" level:raid5\nmkfs ext2 /dev/md/three\n',
        ),
        "incomplete": Layout(
            images={"stripe": one, "stripe-gone": gone},
            script='md-create stripe "$stripe $stripe-gone" level:raid0\nmkfs ext2 /dev/md/stripe\n',
        ),
        "array on volumes": Layout(
            images={"below": Image(size=48 * MIB)},
            script="""pvcreate $below
vgcreate below $below
lvcreate a below 16
lvcreate b below 16
md-create above "/dev/below/a /dev/below/b" level:raid1
mkfs ext2 /dev/md/above
""",
        ),
        "incomplete group": Layout(
            images={"partial": one, "partial-gone": gone},
            script="""pvcreate $partial
pvcreate $partial-gone
vgcreate partial "$partial $partial-gone"
lvcreate-free left partial 40
lvcreate-free right partial 100
""",
        ),
        "luks on a volume": Layout(
            images={"vault": Image(size=40 * MIB), "container": Image(size=MIB, encrypted=True, shown=False)},
            script="""pvcreate $vault
vgcreate vault $vault
lvcreate door vault 32
copy-device-to-device $container /dev/vault/door
""",
        ),
        "btrfs": Layout(
            images={"tree1": tree, "tree2": tree},
            script='mkfs-btrfs "$tree1 $tree2" datatype:raid1 metadata:raid1\n',
        ),
        "degraded btrfs": Layout(
            images={"torn": tree, "torn-gone": Image(size=128 * MIB, shown=False)},
            script='mkfs-btrfs "$torn $torn-gone" datatype:raid1 metadata:raid1\n',
        ),
        "mbr": Layout(
            images={"mbr": Image(size=16 * MIB, table=MBR)},
            script="mkfs ext2 ${mbr}1\nmkswap ${mbr}5\npvcreate ${mbr}3\n",
        ),
        "other labels": Layout(
            images={
                "sun": Image(size=32 * MIB, table="label: sun\n,4MiB\n"),
                "sgi": Image(size=32 * MIB, table="label: sgi\n,4MiB\n"),
                "mac": Image(size=8 * MIB),
                "amiga": Image(size=8 * MIB),
                "windows": Image(size=8 * MIB, table="label: dos\nsize=2MiB, type=42\n"),
            },
            script="part-init $mac mac\npart-add $mac p 128 4095\npart-init $amiga amiga\n",
        ),
        "large sectors": Layout(
            images={"large": Image(size=16 * MIB, options="blocksize:4096")},
            script="part-init $large gpt\npart-add $large p 256 2047\nmkfs ext2 ${large}1\n",
        ),
        "read-only": Layout(
            images={"kept": Image(size=8 * MIB, options="readonly:true label:kept")},
            script="mkfs ext2 $kept label:kept\n",
        ),
        "small": Layout(
            images={
                "nothing": Image(size=0),
                "sector": Image(size=512),
                "page": Image(size=4096),
                "odd": Image(size=512 * 3, contents=b"\x55\xaa" * 300),
            }
        ),
    }


def corpus(partitions: int, volumes: int, *names: str) -> Corpus:
    """Return layouts by name, or all of them, as one corpus."""
    every = layouts(partitions, volumes)
    chosen = [every[name] for name in names or every]
    images = {name: image for layout in chosen for name, image in layout.images.items()}
    files = {name: text for layout in chosen for name, text in layout.files.items()}
    return Corpus(images=images, script="".join(layout.script for layout in chosen), files=files)


def make(
    guestlaunch: Guestlaunch, kept: Path, made: Corpus, *options: str, timeout_s: float = 600.0
) -> dict[str, Path]:
    """Return the images of a corpus by name, making them unless an earlier run has left them below `kept`."""
    key = hashlib.sha256(repr(made).encode()).hexdigest()[:16]
    folder = kept / key
    if not folder.exists():
        kept.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="new-", dir=kept))
        try:
            _fill(guestlaunch, staging, made, *options, timeout_s=timeout_s)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return {name: folder / f"{name}.img" for name in made.images}


def _fill(guestlaunch: Guestlaunch, folder: Path, made: Corpus, *options: str, timeout_s: float) -> None:
    """Make the images in a folder."""
    for name, image in made.images.items():
        path = folder / f"{name}.img"
        with path.open("wb") as file:
            file.write(image.contents)
            file.truncate(image.size)
        if image.encrypted:
            encrypted(path, PASSPHRASE, image.size // MIB)
        if image.table:
            host("/usr/sbin/sfdisk", "--quiet", path, stdin=image.table)
    written = [name for name, image in made.images.items() if not image.copy_of and image.size >= MIB]
    devices = device_names(written)
    lines = [
        f"add-drive {folder / name}.img format:raw {made.images[name].options.replace('readonly:true', '')}"
        for name in written
    ]
    script = "\n".join([*lines, "run", named(made.script, devices)]) + "\n"
    for name, text in made.files.items():
        (folder / name).write_text(text)
        script = script.replace(f"@{name}@", f"{folder / name}")
    guestlaunch("guestfish", *options, "--", "--keys-from-stdin", stdin=script, timeout_s=timeout_s).ok()
    for name, image in made.images.items():
        if image.copy_of:
            host("cp", "--sparse=always", folder / f"{image.copy_of}.img", folder / f"{name}.img")
