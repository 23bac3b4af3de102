"""What holds for all commands: the phases of a launch, exit statuses, variables, files."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.kernel import verdict
from orchestrator.manual.page import Lines, Paragraph, Section, entry
from orchestrator.settings import OWN_VARIABLES, SYSTEM_CONFIG
from orchestrator.timeline.phases import Phase
from orchestrator.workload import jobs, tools

PAGES = {"guestlaunch": 1, "guestlaunch-hv": 1, "guestlaunch.toml": 5, "guestlaunchd": 8}
_OTHERS = "`guestfish`(1), `guestfs`(3), `virt-df`(1)"

# Where a phase begins, and who sees it begin.
BEGINS: Mapping[Phase, tuple[str, str]] = {
    Phase.PLAN: ("the wrapper, or the command, starts", "our own clock"),
    Phase.STAGE: ("the launch is planned; its files are put in place", "our own clock"),
    Phase.CONNECT: ("libvirt is needed", "our own clock"),
    Phase.CREATE: ("the domain is handed to libvirt", "our own clock"),
    Phase.QEMU: ("QEMU is there, paused; its fw_cfg path is read back", "libvirt"),
    Phase.FIRMWARE: ("the virtual CPUs run", "libvirt"),
    Phase.FW_CFG_KERNEL: ("the kernel's fw_cfg key is selected", "QEMU's trace"),
    Phase.FW_CFG_INITRD: ("the initrd's fw_cfg key is selected", "QEMU's trace"),
    Phase.FIRMWARE_HANDOFF: ("the first fw_cfg key after both is selected", "QEMU's trace"),
    Phase.KERNEL: ("the kernel's clock starts", "a marker from the guest"),
    Phase.INITRD: ("the initrd's init starts", "a marker from the guest"),
    Phase.INIT: ("the appliance's init starts", "a marker from the guest"),
    Phase.RESTORE: ("a clone's QEMU is there; the template's state is loaded", "libvirt"),
    Phase.ATTACH: ("the state is loaded, or a clone that was ready is taken; disks are plugged in", "our own clock"),
    Phase.GATE: ("the guest is let through its gate, and looks at its disks", "our own clock"),
    Phase.CUSTOMISE: ("a VM's disk is there, and an appliance changes what is on it", "our own clock"),
    Phase.GUESTFSD: ("guestfsd starts, or is let go", "a marker from the guest"),
    Phase.READY: ("guestfsd opens its channel", "QEMU's trace"),
    Phase.WORKLOAD: ("the tool has its launch flag", "QEMU's trace"),
    Phase.SHUTDOWN: ("the tool asks for the end", "our own clock"),
}

PHASES = Section(
    "PHASES",
    (
        Paragraph(
            "Phases tile a launch: each begins where the one before it ended, and together they are the whole. One"
            " whose beginning was not seen is null and says why; nothing is guessed, and nothing that is read slows"
            " the guest. `restore`, `attach` and `gate` stand for `qemu` to `init` where a template is cloned."
        ),
        *(entry(f"`{phase}`", f"Begins when {begins} ({seen}).") for phase, (begins, seen) in BEGINS.items()),
        Paragraph(
            "Of a kernel that is tried (`guestlaunch kernel`), `workload` begins when its command starts, and"
            " `shutdown` when the command's exit record is acknowledged; there is no `init`, `guestfsd` or `ready`."
            " Where no marker tells of `kernel` and `initrd`, the time stamps on the console date them."
        ),
        Paragraph(
            "A boot counts as one by DMA only after three witnesses were asked: QEMU's property dma_enabled, the"
            " register window in the guest's device tree, and the DMA register itself. Times under TCG and KVM are"
            " never put together, nor are those of cold, warm and standby launches."
        ),
        Paragraph(
            "A launch that went well may still prove nothing: QEMU's trace was not understood, showed an initrd without"
            " a kernel, or no launch flag. Its log line says why (proof_failures), `guestlaunch timeline` says PROOF"
            " FAILED, and benchmarks and reports leave it out. Files are known in the trace by the names that QEMU"
            " publishes them under, `etc/boot/kernel` and so on since QEMU 10, or by fw_cfg's fixed keys."
        ),
    ),
)

STATUS = Section(
    "EXIT STATUS",
    (
        Paragraph(
            "`guestlaunch guestfish` and `guestlaunch exec` end as the program that they ran: with its own status, or"
            f" with {tools.SIGNAL_BASE} plus the number of the signal that ended it. Otherwise:"
        ),
        entry("`0`", "It worked."),
        entry(f"`{GuestlaunchError.exit_status}`", "It did not, and standard error says why, on one line."),
        entry(f"`{UsageError.exit_status}`", "An option, an argument, a job or a setting is wrong."),
        entry(f"`{jobs.TIMED_OUT}`", "A job was not done by its deadline (`guestlaunch run`)."),
        entry(f"`{tools.NOT_EXECUTABLE}`, `{tools.NOT_FOUND}`", "The program cannot be executed, or is not there."),
        entry("`130`, `141`, `143`", "Interrupted; nobody read the output; ended by SIGTERM."),
        Paragraph(
            "`guestlaunch kernel run` ends with the status of the command that ran in the guest, if the guest's record"
            " of that has come and was acknowledged. Otherwise:"
        ),
        entry(f"`{verdict.PANIC}`", "The kernel panicked: by its panic device, or its console."),
        entry(f"`{verdict.REFUSED}`", "The firmware did not start the kernel, and went on to other things."),
        entry(f"`{verdict.NO_USER_SPACE}`", "No user space within the deadline of a phase."),
        entry(f"`{verdict.TIMED_OUT}`", "The run was not over within `--timeout`."),
        entry(
            f"`{verdict.UNJUDGED}`",
            "It cannot be judged: the guest ended without a record, a file or something on the host is missing, an"
            " option is wrong, or `--tap` found no test.",
        ),
        entry(f"`{verdict.FAILED}`", "QEMU or libvirt failed. `git bisect run` stops there."),
        Paragraph(
            "A program of your own may write the record, too, where no COMMAND is given: the line"
            " `guestlaunch-exit STATUS` to the virtio-serial port org.guestlaunch.control.0. It should wait there for"
            " the answer, a line that begins with `acknowledged`, before it switches the power off."
        ),
    ),
)

PROOF = Section(
    "PROVE IT ON YOUR MACHINE",
    (
        Paragraph(
            "DMA pays where an access to fw_cfg traps: under KVM on Arm. Whoever has such a host proves it in three"
            " commands, once `guestlaunch doctor` finds nothing missing:"
        ),
        Lines(
            (
                "guestlaunch bench seed --quick",
                "guestlaunch report --submit-file ours.json",
                "guestlaunch report ours.json theirs-*.json",
            )
        ),
        Paragraph(
            "The first repeats the experiment of 2015: stock libguestfs, a plain UEFI launch of its appliance, and"
            " guestlaunch's own. With `--quick` it takes minutes: transfers are small, and a line through them tells"
            " what a launch without DMA takes. Without it, ten rounds in which each access traps take half an hour and"
            " more, and `--resume FILE` goes on with what was interrupted."
        ),
        Paragraph(
            "The second shows the newest result as it would be sent to others, without names, paths and ids, and"
            " writes it when you agree. The third is a table of any number of them, a machine a row."
        ),
        Paragraph(
            "A result says on what kind of host it was made (bare, virtualised, emulated) and by which clock. The kinds"
            " are never put together."
        ),
    ),
)

FILES = Section(
    "FILES",
    (
        Paragraph(
            "STATE is the setting `state_dir`, RUNTIME is `runtime_dir`; guestlaunch.toml(5) has their defaults."
        ),
        entry("~/.config/guestlaunch/config.toml", "The user's settings."),
        entry(str(SYSTEM_CONFIG), "The system's settings."),
        entry("profiles/NAME.toml", "Beside each of them: kinds of guests besides those that guestlaunch knows."),
        entry("STATE/appliances/", "Appliances that were built."),
        entry("STATE/templates/", "Templates that were built, with the memory of a booted guest each."),
        entry(
            "STATE/log/events.jsonl",
            "The event log; events.jsonl.1 is the one before it. Tracebacks of internal errors.",
        ),
        entry(
            "STATE/launches.sqlite3",
            "The store of launches that `history`, `timeline` and `report` read. It is made from the log:"
            " `guestlaunch history --rebuild`.",
        ),
        entry("STATE/launches/", "What launches that run now have there."),
        entry("STATE/bench/", "Results of benchmarks."),
        entry("STATE/demo/disk.img", "The disk image of `guestlaunch demo`."),
        entry(
            "STATE/kvm-verdict.json", "Whether guests run under KVM; found out anew by `guestlaunch doctor --probe`."
        ),
        entry("STATE/cache/, STATE/libvirt/", "What can be made again, and the private files of libvirt."),
        entry("RUNTIME/guestlaunchd.sock", "The daemon's socket."),
    ),
)


def environment() -> Section:
    """Return the section about variables."""
    others = {
        "GUESTLAUNCH_KEY": "Each setting: guestlaunch.toml(5) lists them.",
        **OWN_VARIABLES,
        "LIBGUESTFS_PATH": "A fixed appliance there is launched, unless the settings name one.",
        "LIBGUESTFS_BACKEND, LIBGUESTFS_HV": (
            "Set for the programs that launch. Values of the user's own are overruled, and named."
        ),
        "LIBGUESTFS_APPEND, LIBGUESTFS_MEMSIZE, ...": "Work as ever.",
        "XDG_RUNTIME_DIR, XDG_STATE_HOME, XDG_CONFIG_HOME, HOME": "Where directories are by default.",
        "OTEL_...": "OpenTelemetry's own, where launches are sent as traces.",
        "PAGER": "Shows pages of `guestlaunch help` where there is no man(1).",
    }
    shown = (entry(", ".join(f"`{one}`" for one in name.split(", ")), text) for name, text in others.items())
    return Section("ENVIRONMENT", tuple(shown))


def see_also(name: str) -> str:
    """Return the pages that a page refers to."""
    return ", ".join((*(f"`{one}`({number})" for one, number in PAGES.items() if one != name), _OTHERS))
