"""A domain's libvirt XML: values in, text out, no policy and no I/O.

The elements around `<devices>` (which are in `devices`) and the serialisation. Valid for libvirt 9.0's schema.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from orchestrator.domain.arguments import qemu_arguments
from orchestrator.domain.devices import devices_element, disk_element
from orchestrator.domain.layout import DiskPlace, lay_out, lay_out_apart
from orchestrator.domain.model import Accel, Arch, Disk, Domain, Loader, Metadata
from orchestrator.errors import UsageError
from orchestrator.files import NOT_IN_XML

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
ET.register_namespace("qemu", QEMU_NAMESPACE)

NAME_BYTES = 55  # libvirt accepts more; QEMU then fails on a thread or bus name that is cut
_GICV2_CPUS = 8


def domain_xml(domain: Domain) -> str:
    """Return the XML that makes libvirt launch domain.

    :raise UsageError: the name is too long or unusable, or a value holds a character that XML cannot hold.
    :raise DiskError: a disk cannot be described (throw-away writes without overlay, secret not stored, too many).
    :raise CapabilityError: a disk's bus does not exist for the arch.
    """
    layout = (lay_out_apart if domain.root_apart else lay_out)(domain.disks, domain.profile.arch)
    root = ET.Element("domain", type="kvm" if domain.accel is Accel.KVM else "qemu")
    root.append(_name_element(domain.name))
    ET.SubElement(root, "uuid").text = domain.uuid
    if domain.metadata is not None:
        ET.SubElement(root, "metadata").append(metadata_element(domain.metadata))
    ET.SubElement(root, "memory", unit="MiB").text = str(domain.memory_mib)
    if domain.share is not None and domain.share.socket is not None:
        root.append(shared_memory_element())
    ET.SubElement(root, "vcpu", placement="static").text = str(domain.vcpus)
    root.append(os_element(domain))
    features = features_element(domain)
    if len(features):
        root.append(features)
    root.append(cpu_element(domain.cpu))
    root.append(clock_element(domain.profile.arch))
    restarts = domain.kept or domain.restarts
    # libguestfs passes -no-reboot: a guest that reboots, which it does one second after a panic, has ended.
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        ET.SubElement(root, event).text = "restart" if restarts and event == "on_reboot" else "destroy"
    root.append(devices_element(domain, layout))
    if domain.run_as is not None:
        root.append(seclabel_element(domain.run_as))
    arguments = qemu_arguments(domain, layout)
    if not arguments:
        return to_text(root)
    commandline = ET.SubElement(root, f"{{{QEMU_NAMESPACE}}}commandline")
    for argument in arguments:
        ET.SubElement(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=argument)
    return to_text(root)


def metadata_element(metadata: Metadata) -> ET.Element:
    """Return our element of `<metadata>`."""
    ET.register_namespace(metadata.prefix, metadata.namespace)
    return ET.Element(f"{{{metadata.namespace}}}{metadata.name}", dict(metadata.attributes))


def shared_memory_element() -> ET.Element:
    """Return the `<memoryBacking>` of memory that another program reads and writes, too."""
    element = ET.Element("memoryBacking")
    ET.SubElement(element, "source", type="memfd")
    ET.SubElement(element, "access", mode="shared")
    return element


def seclabel_element(run_as: tuple[int, int]) -> ET.Element:
    """Return the label that has QEMU run as a user, whose files libvirt must not change the owner of."""
    label = ET.Element("seclabel", type="static", model="dac", relabel="no")
    ET.SubElement(label, "label").text = ":".join(f"+{number}" for number in run_as)
    return label


def disk_xml(disk: Disk, index: int, place: DiskPlace) -> str:
    """Return the XML of one disk, for attaching it to a domain that runs."""
    return to_text(disk_element(disk, index, place))


def to_text(element: ET.Element) -> str:
    """Return element as indented XML, which reads back as exactly the same values.

    :raise UsageError: a value holds a character that XML cannot hold.
    """
    for node in element.iter():
        for value in (node.text or "", *node.attrib.values()):
            found = unspeakable(value)
            if found is not None:
                why = f"character {found!r} cannot be written in domain XML"
                raise UsageError("cannot describe domain", value, why, "rename the file")
    ET.indent(element)
    # ElementTree leaves a carriage return as it is, and XML parsers read a bare one as a line feed.
    return ET.tostring(element, encoding="unicode").replace("\r", "&#13;") + "\n"


def unspeakable(text: str) -> str | None:
    """Return the first character of text that XML cannot hold, None if it can hold all: so, bytes that are no UTF-8."""
    found = NOT_IN_XML.search(text)
    return found.group() if found else None


def _name_element(name: str) -> ET.Element:
    """Return `<name>`."""
    if not name or "/" in name or "\n" in name:
        raise UsageError("bad domain name", name, "it must not be empty or hold a slash or a line break")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > NAME_BYTES:
        raise UsageError("bad domain name", name, f"{size} bytes, QEMU takes at most {NAME_BYTES}")
    element = ET.Element("name")
    element.text = name
    return element


def os_element(domain: Domain) -> ET.Element:
    """Return `<os>`: machine, firmware, kernel, initrd and command line."""
    element = ET.Element("os")
    ET.SubElement(element, "type", arch=domain.profile.arch.value, machine=domain.profile.machine).text = "hvm"
    if domain.loader is not None and domain.loader.code:
        element.extend(loader_elements(domain.loader))
    elif domain.loader is not None:
        element.set("firmware", "efi")
        firmware = ET.SubElement(element, "firmware")
        ET.SubElement(firmware, "feature", enabled="no", name="secure-boot")
    for tag, value in (("kernel", domain.kernel), ("initrd", domain.initrd), ("cmdline", domain.cmdline)):
        if value:
            ET.SubElement(element, tag).text = value
    return element


def loader_elements(loader: Loader) -> list[ET.Element]:
    """Return `<loader>` (read-only code in pflash) and `<nvram>` (the domain's own store, or what it is made from)."""
    code = ET.Element("loader", readonly="yes", type="pflash")
    code.text = loader.code
    nvram = ET.Element("nvram")
    nvram.text = loader.nvram
    if loader.template is not None:
        nvram.set("template", loader.template)
    # libvirt knows other formats than raw, and the attribute, since 9.2.
    for element, image_format in ((code, loader.code_format), (nvram, loader.nvram_format)):
        if image_format != "raw":
            element.set("format", image_format)
    return [code, nvram]


def features_element(domain: Domain) -> ET.Element:
    """Return `<features>`: ACPI where the guest needs it, and the interrupt controller."""
    element = ET.Element("features")
    arch = domain.profile.arch
    if arch is Arch.X86_64 or domain.loader is not None:  # libvirt takes ACPI on Arm only with UEFI; see `arguments`
        ET.SubElement(element, "acpi")
    if arch is Arch.X86_64:
        ET.SubElement(element, "apic")
    elif domain.accel is Accel.KVM:
        ET.SubElement(element, "gic", version="host")
    elif domain.vcpus > _GICV2_CPUS:
        ET.SubElement(element, "gic", version="3")
    else:
        ET.SubElement(element, "gic", version="2")
    return element


def cpu_element(cpu: str) -> ET.Element:
    """Return `<cpu>` for a CPU in QEMU's spelling: `model[,feature=on|off|,+feature|,-feature]…`.

    `host` and `max` are libvirt's modes host-passthrough and maximum.

    :raise UsageError: the text is not of that form.
    """
    model, *features = cpu.split(",")
    if not model:
        raise UsageError("bad CPU", cpu or "''", "it names no model")
    modes = {"host": "host-passthrough", "max": "maximum"}
    if model in modes:
        element = ET.Element("cpu", mode=modes[model], check="none")
    else:
        # check=none: QEMU decides what it can do; libvirt's tables are older than QEMU's models.
        element = ET.Element("cpu", mode="custom", match="exact", check="none")
        ET.SubElement(element, "model", fallback="forbid").text = model
    for feature in features:
        parsed = re.fullmatch(r"([+-])?([\w.-]+?)(?:=(on|off))?", feature)
        if parsed is None or bool(parsed[1]) == bool(parsed[3]):
            raise UsageError("bad CPU", cpu, f"'{feature}' is no feature=on, feature=off, +feature or -feature")
        wanted = "+" in (parsed[1], "+" if parsed[3] == "on" else "")
        ET.SubElement(element, "feature", policy="require" if wanted else "disable", name=parsed[2])
    return element


def clock_element(arch: Arch) -> ET.Element:
    """Return `<clock>`; on x86 with libguestfs's timers: no HPET, lost RTC ticks caught up, lost PIT ticks dropped."""
    element = ET.Element("clock", offset="utc")
    if arch is Arch.X86_64:
        ET.SubElement(element, "timer", name="rtc", tickpolicy="catchup")
        ET.SubElement(element, "timer", name="pit", tickpolicy="discard")
        ET.SubElement(element, "timer", name="hpet", present="no")
    return element
