"""guestlaunch doctor: what this host has and lacks for launches."""

from __future__ import annotations

import os

import click

from orchestrator.cli.options import examples, json_option, print_json, settings_options
from orchestrator.hypervisor.kvm_proof import forget_verdicts
from orchestrator.settings import Settings
from orchestrator.workload.doctor import Severity, examine


@click.command(
    epilog=examples(
        "guestlaunch doctor", "guestlaunch doctor --profile x86_64-ovmf", "guestlaunch doctor --probe --json"
    )
)
@settings_options
@json_option
@click.option("--probe", is_flag=True, help="Find out anew whether guests run under KVM.")
def doctor(*, settings: Settings, as_json: bool, probe: bool) -> int:
    """Report programs, firmware, appliances, accelerators and directories; exit status 1 when launches cannot work.

    Probes KVM once a boot of the host and for each device, which can take some seconds.
    """
    if probe:
        forget_verdicts(settings.state_dir)
    findings = []
    for finding in examine(settings, os.environ):
        findings.append(finding)
        if not as_json:
            mark = {Severity.OK: "ok  ", Severity.NOTE: "note", Severity.BAD: "BAD "}[finding.verdict]
            click.echo(f"{mark} {finding.topic:<22} {finding.detail}")
    bad = [finding for finding in findings if finding.verdict is Severity.BAD]
    if as_json:
        listed = [{"topic": one.topic, "verdict": str(one.verdict), "detail": one.detail} for one in findings]
        print_json({"profile": settings.profile, "usable": not bad, "findings": listed})
    else:
        click.echo(f"profile {settings.profile}: {'cannot launch' if bad else 'ready to launch'}")
    return 1 if bad else 0
