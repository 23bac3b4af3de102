"""What every way of launching is asked, by feature: guestfish commands over the disks of tests/storage.py and own ones.

`$name` stands for the device of the disk with that name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.disks import MIB
from tests.storage import OS_FILES, PASSPHRASE, reading

# The shared disks, attached read-only by the command line: members of arrays apart, raw and qcow2 mixed.
SHARED = (
    *("plain", "btrfs2", "mirror2", "volumes", "mirror1", "half2", "btrfs1", "squashfs", "f2fs", "xfs"),
    "boot",
)  # fmt: skip
# Disks of the session's own, added after those by the script: file and options of add-drive.
OWN = {
    "luks": "luks.qcow2",  # an overlay of the shared one
    "pv": "pv.img format:raw",
    "member1": "member1.qcow2 format:qcow2",
    "member2": "member2.img format:raw",
    "windows": "windows.img format:raw",
    "big": "big.qcow2",
    "tree": "tree.qcow2 format:qcow2",
    "seeded": "seeded.img",
    "kept": "kept.img format:raw readonly:true label:kept",
    "scratch": "scratch.img format:raw",
}
OWN_MIB = {"pv": 96, "member1": 40, "member2": 40, "windows": 40, "big": 320, "tree": 128, "scratch": 24}
KEPT_MIB = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A part of the session.

    :ivar script: guestfish commands; what follows an error is done all the same.
    :ivar shows: what the output must contain in any way: without that, equal outputs prove nothing.
    :ivar errors: what guestfish must complain of, in this order: a part of each message.
    """

    script: str
    shows: tuple[str, ...]
    errors: tuple[str, ...] = ()


_NAMED = "${plain}1 ${plain}2 $xfs $boot $btrfs2 $luks /dev/system/root"
# Variables that libguestfs or its init sets; others are left by whatever started /init.
_VARIABLES = "HOME LC_ALL LVM_SYSTEM_DIR PATH PREVLEVEL PWD RUNLEVEL SHELL TERM"
_OF_VARIABLES = " ".join(f"-e ^{name}=" for name in _VARIABLES.split())
_NODES = "btrfs-control fuse loop-control mapper/control net/tun null ptmx pts sda sg0 shm vport0p1"

FEATURES = {
    "devices": Feature(
        script="""
list-devices
blockdev-getsize64 /dev/sda
blockdev-getsize64 $btrfs2
blockdev-getsize64 $half2
blockdev-getsize64 $kept
blockdev-getss $plain
blockdev-getro $plain
blockdev-getro $kept
list-disk-labels
device-index $luks
list-partitions
debug sh "cat /sys/block/sd*/device/timeout | sort -u"
blockdev-getsize64 /dev/sdz
""",
        shows=("/dev/sdt\n/dev/sdu\n", f"\n{160 * MIB}\n{160 * MIB}\n{64 * MIB}\n{KEPT_MIB * MIB}\n512\n", "\n300\n"),
        errors=("/dev/sdz: No such file or directory",),
    ),
    "filesystems": Feature(
        script="list-filesystems\n"
        + "".join(f"vfs-type {place}\nvfs-uuid {place}\nvfs-label {place}\n" for place in _NAMED.split())
        + "blkid ${plain}1\nblkid /dev/mirrored/data\ntune2fs-l /dev/system/root\nfindfs-label boot\n",
        shows=("/dev/sda1: ntfs\n", "/dev/system/swap: swap\n", "\ncrypto_LUKS\n", "PART_ENTRY_NAME: windows\n"),
    ),
    "inspection": Feature(
        script="inspect-os\n"
        + "".join(
            f"inspect-get-{what} /dev/system/root\n"
            for what in (
                "type",
                "distro",
                "major-version",
                "minor-version",
                "product-name",
                "package-format",
                "hostname",
                "mountpoints",
                "filesystems",
                "drive-mappings",
            )
        )
        + "mount-ro /dev/system/root /\ninspect-list-applications2 /dev/system/root\numount-all\n",
        shows=("linux\ndebian\n12\n", "12.0\ndeb\nstorage\n", "/boot: /dev/sdk\n", "app2_name: hello\n"),
    ),
    "partitions": Feature(
        script="""
part-list $plain
part-get-parttype $plain
part-get-disk-guid $plain
part-get-gpt-type $plain 1
part-get-name $plain 1
part-get-mbr-id $seeded 1
part-get-bootable $seeded 1
part-list $btrfs2
part-init $scratch mbr
part-add $scratch p 2048 10239
part-add $scratch logical 10240 20479
part-set-mbr-id $scratch 1 0x82
part-list $scratch
mkswap ${scratch}1 label:made
vfs-label ${scratch}1
""",
        shows=("gpt\n", "\nwindows\n0x83\n", "part_end: 5242879\n", "\nmade\n"),
        errors=("Expecting a partition type",),
    ),
    "lvm": Feature(
        script="""
pvs-full
vgs-full
lvs-full
lvm-canonical-lv-name /dev/mapper/system-root
is-lv ${plain}1
lvuuid /dev/system/root
vglvuuids system
vg-activate false mirrored
mount-ro /dev/mirrored/data /
vg-activate true mirrored
pvcreate $pv
vgcreate made $pv
lvcreate one made 24
lvcreate two made 16
lvresize /dev/made/two 20
lvrename /dev/made/two three
mkfs ext4 /dev/made/one label:one
mount /dev/made/one /
write /where lvm
umount /
lvs
""",
        shows=("pv_name: /dev/md", "/dev/made/one\n/dev/made/three\n/dev/mirrored/data\n", "\nfalse\n"),
        errors=("/dev/mirrored/data",),
    ),
    "md": Feature(
        script="""
list-md-devices
md-detail /dev/md/mirror
mount-ro /dev/mirrored/data /
cat /where
umount /
md-create made "$member1 $member2" level:raid1
mkfs ext2 /dev/md/made
mount /dev/md/made /
write /where md
umount /
list-md-devices
debug sh "ls /dev/md"
""",
        shows=("\nlevel: raid1\n", "\nmirror", "\nmade\nmirror\n"),
    ),
    "luks": Feature(
        script=f"""
luks-uuid $luks
cryptsetup-open $luks opened
{PASSPHRASE}
list-dm-devices
mount /dev/hidden/inner /
cat /where
write /where changed
umount /
vg-activate false hidden
cryptsetup-close /dev/mapper/opened
""",
        shows=("/dev/mapper/opened\n", "luks"),
    ),
    "btrfs": Feature(
        script="""
btrfs-filesystem-show $btrfs2
mount-ro $btrfs2 /
cat /where
btrfs-subvolume-list /
btrfs-subvolume-get-default /
umount /
mkfs-btrfs $tree
mount $tree /
btrfs-subvolume-create /made
write /made/where btrfs
btrfs-subvolume-snapshot /made /snapshot
btrfs-subvolume-list /
umount /
""",
        shows=("/dev/sdb\n", "/dev/sdg\n", "btrfs", "btrfssubvolume_path: snapshot\n"),
    ),
    "ntfs": Feature(
        script="""
ntfs-3g-probe true ${plain}1
mount-ro ${plain}1 /
ll /
cat /where
umount /
mkfs ntfs $windows
mount $windows /
mkdir-p /Windows/System32
write /Windows/System32/where ntfs
find /
umount /
""",
        shows=("0\n", " where\n", "ntfs", "Windows/System32/where\n"),
    ),
    "xfs": Feature(
        script="""
xfs-info $xfs
mount-ro $xfs /
ll /
cat /where
umount /
mkfs xfs $big
mount $big /
write /where xfs
find /
umount /
""",
        shows=("xfs_datablocks: 81920\n", " where\n", "\nxfs"),
    ),
    "others": Feature(
        script="".join(reading(place) for place in ("$f2fs", "${plain}2", "$boot"))
        + "mount-ro $squashfs /\ncat /hosts\nll /\numount /\n",
        shows=("f2fs\n", "vfat\n", "ext2\n", OS_FILES["/etc/hosts"].removesuffix(r"\n"), " fstab\n"),
    ),
    "mounts": Feature(
        script="""
mount-ro /dev/system/root /
mount-options ro,noatime $boot /boot
mounts
mountpoints
statvfs /
cat /boot/where
write /no this
umount /boot
umount-all
mounts
mount-ro /dev/nonesuch /
cat /where
mount-vfs ro ext4 ${plain}1 /
""",
        shows=("/dev/system/root: /\n/dev/sdk: /boot\n", "bsize: 1024\n", "ext2"),
        errors=("Read-only file system", "/dev/nonesuch: No such file", "you must call 'mount' first", "wrong fs type"),
    ),
    "files": Feature(
        script="""
mount-ro /dev/system/root /
find /
ll /etc
stat /etc/hosts
checksum sha256 /hive
base64-out /etc/hosts -
tar-out /etc etc.tar
download /hive hive.bin
file /hive
grep hello /var/lib/dpkg/status
wc-l /etc/fstab
is-file /etc/hosts
is-dir /etc/hosts
cat /nonesuch
umount-all
mount ${seeded}1 /
cat /seeded
upload upload.bin /uploaded
checksum sha256 /uploaded
download /uploaded download.bin
tar-in etc.tar /
ln-s hosts /link
readlink /link
chmod 0640 /hosts
chown 12 34 /hosts
touch /touched
rm /fstab
copy-size /uploaded /copied 1000000
truncate-size /uploaded 3000000
lsetxattr user.colour green 5 /hosts
lgetxattr /hosts user.colour
rename /hostname /renamed
filesize /uploaded
stat /hosts
ls /
umount-all
""",
        shows=(
            "\netc/hosts\n",
            "MS Windows registry",
            "green3000000\n",
            "from the host\n",
            "\nuid: 12\n",
            "\nmode: 33184\n",
        ),
        errors=("/nonesuch: No such file or directory",),
    ),
    "read-only": Feature(
        script="""
mount $kept /
write /vanishes gone
ls /
umount-all
""",
        shows=("kept\n", "vanishes\n"),
    ),
    # One lens: an emulated guest takes long to read all of them (64: none by itself).
    "augeas": Feature(
        script="""
mount ${seeded}1 /
mkdir /etc
write /etc/hosts "192.0.2.1 one.example\\n"
aug-init / 64
aug-transform Hosts /etc/hosts
aug-load
aug-match /files/etc/hosts/*
aug-get /files/etc/hosts/1/canonical
aug-set /files/etc/hosts/2/ipaddr 192.0.2.2
aug-set /files/etc/hosts/2/canonical two.example
aug-save
aug-ls /files/etc/hosts/2
aug-get /files/nonesuch
aug-close
cat /etc/hosts
umount-all
""",
        shows=("/files/etc/hosts/1\n", "one.example\n", "192.0.2.2\ttwo.example\n"),
        errors=("no matching node",),
    ),
    "hivex": Feature(
        script="""
mount ${seeded}1 /
upload hive.bin /hive
hivex-open /hive write:true
hivex-root
hivex-node-name $hive_root
hivex-node-add-child $hive_root Software
hivex-node-children $hive_root
hivex-node-set-value $hive_root Version 3 abcdef
hivex-node-values $hive_root
hivex-commit ""
hivex-close
hivex-open /hive
hivex-node-children $hive_root
hivex-node-get-child $hive_root nonesuch
hivex-node-values $hive_root
hivex-close
hivex-node-name $hive_root
umount-all
""",
        shows=("rootnode\n", "hivex_node_h: ", "hivex_value_h: "),
        errors=("you must call 'hivex-open'",),
    ),
    # The daemon passes no quotes on. What is mounted is compared without its source, a free word if it is no device.
    "surroundings": Feature(
        script=f"""
debug sh "env | sort | grep {_OF_VARIABLES}"
debug sh "ulimit -a"
debug sh "umask; id; pwd; hostname"
debug sh "while read _ at rest; do echo $$at $$rest; done </proc/mounts | sort -u"
debug sh "readlink /dev/fd /etc/mtab /var/run /var/lock"
debug sh "cd /; stat -c %n:%A:%U:%G tmp var/tmp run run/lock sysroot"
debug sh "cd /dev; stat -c %n:%A:%U:%G {_NODES}"
debug sh "cat /etc/passwd /etc/group /tmp/lvm/lvm.conf"
debug sh "ls /etc/resolv.conf"
debug sh "tr -d 0-9a-f </etc/machine-id | wc -c"
supported
""",
        shows=("LVM_SYSTEM_DIR=/tmp/lvm\n", "luks yes\n"),
        errors=("/etc/resolv.conf",),
    ),
}


def settled(output: str, began: float, ended: float) -> str:
    """Return an output without what is different in every launch, whatever its way."""
    # mdadm, stat, blkid and LVM also tell the kernel's own numbers, which come as its probes and activations end.
    output = re.sub(r"^device_dev_sd[a-z]+_(role: \d+|dev: .*)\n", "", output, flags=re.MULTILINE)
    output = re.sub(r"^( *)(dev|DISKSEQ|PART_ENTRY_DISK|lv_kernel_minor): .*", r"\1\2: -", output, flags=re.MULTILINE)
    # Some answers keep the kernel's name of a disk, which comes as the probes of a booting guest end: the words of
    # parted and mount, blkid, LVM, XFS, and in libguestfs 1.48 a subvolume's mountable.
    output = re.sub(
        r"(parted: |superblock on |btrfsvol:|^ *(?:DEVNAME|pv_name|xfs_mntpoint): )/dev/sd[a-z]+",
        r"\1(disk)",
        output,
        flags=re.MULTILINE,
    )
    # Where guestfsd mounts what it looks into.
    output = re.sub(r"/tmp/(btrfs|mount)[0-9A-Za-z]{6}\b", r"/tmp/\1(random)", output)
    # udev sets the owner of a disk that is plugged in, and not of one that was there before it: all runs as root.
    output = re.sub(
        r"^(sda|sg0):brw\S*|^(sda|sg0):crw\S*", lambda match: f"{match[1] or match[2]}:-", output, flags=re.MULTILINE
    )
    # A clone has a boot_id of its own, mounted over its template's.
    output = re.sub(r"^/proc/sys/kernel/random/boot_id tmpfs .*\n", "", output, flags=re.MULTILINE)
    # Udev's workers run side by side, and the kernel numbers arrays as the first member of each comes.
    output = re.sub(r"/dev/md\d+", "/dev/md-", output)
    # Above the root of what is mounted there is the root of the appliance, which is as old as its build.
    output = re.sub(r"^d\S+ .* \.\.$", "(appliance) ..", output, flags=re.MULTILINE)

    # How much of the memory is left to tmpfs depends on what the kernel took while it booted.
    output = re.sub(r"\b(size|nr_inodes)=\d+", r"\1=-", output)

    def now(match: re.Match[str]) -> str:
        return f"{match[1]}: (now)" if int(began) <= int(match[2]) <= ended else match[0]

    return re.sub(r"^([acm]time): (\d+)$", now, output, flags=re.MULTILINE)
