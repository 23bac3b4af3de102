"""The domains of which golden files are kept: each profile with DMA on and off, every disk, as template and clone."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.domain.cloning import as_clone, as_template
from orchestrator.domain.model import (
    Accel,
    Arch,
    Backing,
    Channel,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    FirmwareKind,
    FwCfgFile,
    Graphics,
    GraphicsKind,
    Interface,
    InterfaceKind,
    Loader,
    Metadata,
    Network,
    NetworkSource,
    Privileges,
    Profile,
    Rom,
    Share,
    VolumeSource,
)
from orchestrator.domain.policy import BootFiles, Machine, Ports, appliance_root, design
from orchestrator.domain.profiles import load_profile, profile_names

UUID = "3b1e2f3c-6b0e-4e44-9a3c-0123456789ab"
CMDLINE = "panic=1 console=ttyS0 edd=off no_timer_check lpj=123 root=UUID=4f root_delay=1 quiet TERM=xterm"

RICH_DISKS = (
    Disk(source=FileSource(path="/images/plain.img"), format="raw", cache="writeback", serial="first"),
    Disk(
        source=FileSource(path="/dev/vg/lv", block_device=True),
        format="raw",
        discard=True,
        copy_on_read=True,
        logical_block_size=512,
        physical_block_size=4096,
    ),
    Disk(
        source=FileSource(path="/images/a & <b>, c: 'd' \"e\" ü.qcow2"), format="qcow2", described=True, readonly=True
    ),
    Disk(source=FileSource(path="/images/unknown,format"), cache="unsafe", discard=True, copy_on_read=True),
    Disk(source=FileSource(path="/dev/sdz", block_device=True), readonly=True, serial="with space"),
    Disk(source=FileSource(path="/images/overlay.qcow2"), format="qcow2", shared_read=True, cache="unsafe"),
    Disk(
        source=NetworkSource(
            driver="https",
            options=(("url", "https://host/a,b"), ("username", "me")),
            secrets=(("password-secret", "not in the XML"),),
        ),
        format="raw",
        readonly=True,
    ),
    Disk(source=FileSource(path="/images/v1.img"), format="raw", bus=DiskBus.VIRTIO),
    Disk(
        source=FileSource(path="/images/v2.img"),
        bus=DiskBus.VIRTIO,
        logical_block_size=4096,
        physical_block_size=4096,
    ),
    Disk(source=FileSource(path="/images/after.img"), format="raw"),
    Disk(
        source=FileSource(path="/images/relative.qcow2"),
        format="qcow2",
        options=(("backing.file.filename", "/tool, cwd/base.img"),),
    ),
    Disk(
        source=FileSource(path="/images/untrusted.img"),
        format="raw",
        graph='{"driver": "raw", "file": {"driver": "file", "filename": "/images/untrusted.img"}}',
    ),
)
SATA_DISKS = (
    Disk(source=FileSource(path="/images/s1.img"), format="raw", bus=DiskBus.SATA),
    Disk(source=FileSource(path="/images/s2.img"), bus=DiskBus.SATA),
)


def loader_of(profile: Profile) -> Loader | None:
    """Return firmware for profile, where it starts from any."""
    if profile.firmware is not FirmwareKind.UEFI:
        return None
    return Loader(code="/firmware/code.fd", nvram="/launch/nvram.fd")


def plain(profile: Profile, *, fw_cfg_dma: bool) -> Domain:
    """Return what a launch with one read-only disk makes of profile."""
    made = design(
        f"guestlaunch-{profile.name}",
        UUID,
        Machine(
            profile=profile,
            emulator=f"/usr/bin/qemu-system-{profile.arch}",
            accel=Accel.TCG,
            host_arch=Arch.X86_64,
            fw_cfg_dma=fw_cfg_dma,
        ),
        BootFiles(
            kernel="/appliance/kernel",
            initrd="/appliance/initrd",
            cmdline=CMDLINE,
            loader=loader_of(profile),
            disks=(Disk(source=FileSource(path="/launch/overlay1.qcow2"), format="qcow2", shared_read=True),),
            root=appliance_root("/launch/root.qcow2"),
        ),
        Ports(
            guestfsd_path="/tmp/libguestfs/guestfsd.sock",
            control_path="/launch/control",
            console_path="/launch/console",
        ),
    )
    return replace(made, trace_path="/launch/trace.log")


def rich(profile: Profile) -> Domain:
    """Return a domain that uses everything there is."""
    made = design(
        f"rich-{profile.name}",
        UUID,
        Machine(
            profile=profile,
            emulator=f"/opt/qemu 9/qemu-system-{profile.arch}",
            accel=Accel.KVM,
            host_arch=profile.arch,
            memory_mib=2048,
            vcpus=12,
            cpu="host,pmu=off",
        ),
        BootFiles(
            kernel="/appliance dir/kernel",
            initrd="/appliance dir/initrd",
            cmdline=CMDLINE + ' quoted="a  b" <&>',
            loader=loader_of(profile),
            disks=RICH_DISKS + (SATA_DISKS if profile.arch is Arch.X86_64 else ()),
            root=appliance_root("/launch/root.qcow2", name="rich"),
        ),
        Ports(
            guestfsd_path="/tmp/libguestfs/guestfsd.sock",
            control_path="/launch/control",
            console_path="/launch/console",
        ),
    )
    return replace(
        made,
        network=Network(net="169.254.0.0/16"),
        trace_path="/launch/trace, 1.log",
        secret_paths=(("secret6-password-secret", "/launch/secret,6"),),
        extra_args=("-device", "virtio-balloon-pci,id=x"),
        run_as=(1000, 1001),
        privileges=Privileges(user=2000000000, sandbox=True),
    )


def bare_minimum() -> Domain:
    """Return a domain that leaves out all that can be left out, and takes the other choice where there are two."""
    return Domain(
        name="minimum",
        uuid=UUID,
        profile=load_profile("aarch64-uefi"),
        accel=Accel.TCG,
        emulator="/usr/bin/qemu-system-aarch64",
        memory_mib=512,
        vcpus=9,
        cpu="max,+sve,pauth=off,-pmu",
        loader=Loader(code="/c.qcow2", nvram="/n.qcow2", code_format="qcow2", nvram_format="qcow2"),
        network=Network(stream_path="/run/passt, 1.sock"),
        privileges=Privileges(user=2000000000, option="-run-with", sandbox=False),
        rng=False,
    )


def kept() -> Domain:
    """Return a domain of the user's own, which libvirt keeps."""
    return Domain(
        name="kept",
        uuid=UUID,
        profile=load_profile("x86_64-ovmf"),
        accel=Accel.TCG,
        emulator="/usr/bin/qemu-system-x86_64",
        memory_mib=1024,
        vcpus=1,
        cpu="max",
        loader=Loader(code="/firmware/code.fd", template="/firmware/vars.fd"),
        disks=(Disk(source=FileSource(path="/images/system.qcow2"), format="qcow2", described=True),),
        kept=True,
        privileges=Privileges(user=None),
    )


def virtual_machine(interface: Interface) -> Domain:
    """Return a VM of the user's own, over an image."""
    overlay = Disk(
        source=FileSource(path="/vms/one/disk.qcow2"),
        format="qcow2",
        described=True,
        bus=DiskBus.VIRTIO,
        backing=Backing(path="/images/a & b.img", format="raw"),
        boot_order=1,
    )
    return Domain(
        name="vm",
        uuid=UUID,
        profile=load_profile("aarch64-uefi"),
        accel=Accel.TCG,
        emulator="/usr/bin/qemu-system-aarch64",
        memory_mib=2048,
        vcpus=2,
        cpu="cortex-a57",
        loader=Loader(code="/firmware/code.fd", nvram="/vms/one/nvram.fd"),
        disks=(overlay,),
        channels=(Channel(name="org.qemu.guest_agent.0", path=None, kept=True),),
        kept=True,
        interface=interface,
        metadata=Metadata(namespace="urn:example:1", prefix="example", name="vm", attributes=(("image", "<i>"),)),
    )


def virtual_machine_elsewhere() -> Domain:
    """Return one on another host, whose libvirt chooses QEMU and firmware; its disks are volumes."""
    vm = virtual_machine(Interface(kind=InterfaceKind.USER))
    overlay = replace(
        vm.disks[0],
        source=VolumeSource(pool="default", volume="vm.qcow2"),
        backing=Backing(path="/pool/base.img", format="raw", pooled=True),
    )
    return replace(vm, emulator="", loader=Loader(code=""), disks=(overlay,))


def kernel_run() -> Domain:
    """Return a kernel that is tried, with all that it can be told."""
    made = design(
        "kernel-run",
        UUID,
        Machine(
            profile=load_profile("aarch64-uefi"),
            emulator="/usr/bin/qemu-system-aarch64",
            accel=Accel.TCG,
            host_arch=Arch.X86_64,
        ),
        BootFiles(
            kernel="/home/me/Image",
            initrd="/launch/initrd",
            cmdline="console=ttyAMA0 panic=-1 lpj=123",
            verbatim=True,
            loader=loader_of(load_profile("aarch64-uefi")),
        ),
        Ports(control_path="/launch/control", console_path="/launch/console"),
    )
    return replace(
        made,
        fw_cfg_files=(FwCfgFile(name="opt/org.example/a", path="/launch/fw, cfg"),),
        oem_strings=("/launch/oem, string",),
        share=Share(path="/home/me/tests", tag="guestlaunch"),
        panic_device=True,
    )


def kernel_run_by_virtiofs() -> Domain:
    """Return one whose directory another program serves."""
    return replace(kernel_run(), share=Share(path="/home/me/tests", tag="guestlaunch", socket="/launch/share"))


def template(profile: Profile, *, slots: bool = False) -> Domain:
    """Return what is saved at its gate, to be cloned."""
    booting = design(
        f"template-{profile.name}",
        UUID,
        Machine(
            profile=profile,
            emulator=f"/usr/bin/qemu-system-{profile.arch}",
            accel=Accel.TCG,
            host_arch=Arch.X86_64,
        ),
        BootFiles(
            kernel="/appliance/kernel",
            initrd="/appliance/initrd",
            cmdline=CMDLINE,
            loader=loader_of(profile),
            root=appliance_root("/template/root.qcow2", name="gl-0123456789abcdef"),
        ),
        Ports(control_path="/launch/control", console_path="/launch/console"),
    )
    booting = replace(booting, trace_path="/launch/trace.log")
    return as_template(booting, "/templates/a, b/ram", slots=slots)


def clone(profile: Profile) -> Domain:
    """Return what goes on where that was saved."""
    return as_clone(template(profile), ram="/templates/a, b/ram", firmware="/templates/a, b/firmware")


def clone_for_virtio(profile: Profile) -> Domain:
    """Return one for disks of which some are no SCSI disks."""
    return as_clone(
        template(profile, slots=True),
        ram="/templates/a, b/ram",
        firmware="/templates/a, b/firmware",
        disks=(
            Disk(source=FileSource(path="/images/s0.img"), format="raw"),
            Disk(
                source=FileSource(path="/images/v.img"), format="raw", bus=DiskBus.VIRTIO, serial="v, 1", readonly=True
            ),
            Disk(source=FileSource(path="/images/s1.img"), format="raw", cache="directsync"),
            Disk(
                source=FileSource(path="/images/w.img"),
                format="raw",
                bus=DiskBus.VIRTIO,
                cache="writethrough",
                readonly=True,
            ),
        ),
    )


def all_domains() -> dict[str, Domain]:
    """Return the golden files' names and domains."""
    domains = {"minimum": bare_minimum(), "kept": kept(), "kernel-run": kernel_run()}
    domains["kernel-run-virtiofs"] = kernel_run_by_virtiofs()
    domains |= {
        f"vm-{kind}": virtual_machine(Interface(kind=kind, source=source))
        for kind, source in (
            (InterfaceKind.USER, None),
            (InterfaceKind.NETWORK, "default"),
            (InterfaceKind.BRIDGE, "b0"),
        )
    }
    domains["vm-elsewhere"] = virtual_machine_elsewhere()
    displays = (Graphics(kind=GraphicsKind.VNC), Graphics(kind=GraphicsKind.SPICE, path="/launch/display"))
    user = virtual_machine(Interface(kind=InterfaceKind.USER))
    domains |= {f"vm-{display.kind}": replace(user, graphics=display) for display in displays}
    uefi = plain(load_profile("aarch64-uefi"), fw_cfg_dma=True)
    domains["aarch64-uefi-rom"] = replace(uefi, loader=None, rom=Rom(code="/cache/code, 1.fd", variables="/cache/v.fd"))
    domains["aarch64-uefi-template-slots"] = template(load_profile("aarch64-uefi"), slots=True)
    domains["aarch64-uefi-clone-virtio"] = clone_for_virtio(load_profile("aarch64-uefi"))
    for name in profile_names():
        profile = load_profile(name)
        domains |= {
            f"{name}-dma-on": plain(profile, fw_cfg_dma=True),
            f"{name}-dma-off": plain(profile, fw_cfg_dma=False),
        }
        domains |= {
            f"{name}-rich": rich(profile),
            f"{name}-template": template(profile),
            f"{name}-clone": clone(profile),
        }
    return domains
