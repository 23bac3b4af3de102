"""The ssh program's command line, and the wait for a VM's ssh server."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from orchestrator.errors import CapabilityError
from orchestrator.hypervisor.stored import StoredDomain
from orchestrator.vm.note import VmNote
from orchestrator.vm.ssh import check_leads_here, command, knocking

NOTE = VmNote(
    digest="d", specification="{}", folder="/v", files="disk.qcow2", image="/i", arch="aarch64", created="2026-11-27",
    number="5e",
)  # fmt: skip


class ForwardedPort:
    """A domain's monitor, as far as forwarding goes: each connection to the port is greeted with the next line.

    :ivar forwarded: how many forwardings there are.
    """

    name = "vm"

    def __init__(self, *greetings: bytes) -> None:
        self._greetings = list(greetings)
        self._server: socket.socket | None = None
        self.forwarded = 0

    def monitor(self, line: str) -> str:
        """Do what a line says."""
        word, _, rest = line.split()
        _, address, port = rest.removesuffix("-:22").split(":")
        if word == "hostfwd_remove":
            assert self._server is not None
            self._server.close()
            self.forwarded -= 1
            return ""
        self._server = socket.create_server((address, int(port)))
        self.forwarded += 1
        threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()
        return ""

    def _serve(self, server: socket.socket) -> None:
        try:
            while True:
                connection, _ = server.accept()
                with connection:
                    if self._greetings:
                        connection.sendall(self._greetings.pop(0))
        except OSError:
            return


@pytest.fixture
def answered() -> threading.Event:
    """What is set once the server answers."""
    return threading.Event()


def test_a_server_that_answers_at_last(answered: threading.Event) -> None:
    """QEMU takes connections before there is one; then something else may be behind the port. No forwarding stays."""
    port = ForwardedPort(b"", b"HTTP/1.1 400\r\n", b"SSH-2.0-OpenSSH_9.2\r\n")
    with knocking(cast("StoredDomain", port), NOTE, answered.set):
        assert answered.wait(60)
    assert not port.forwarded


def test_a_wait_that_ends_first(answered: threading.Event) -> None:
    """Nobody knocks any more, and nothing is forwarded."""
    port = ForwardedPort()
    with knocking(cast("StoredDomain", port), NOTE, answered.set):
        while not port.forwarded:
            time.sleep(0.01)
    assert not port.forwarded
    assert not answered.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "ssh of vm"]


@pytest.mark.parametrize(("network", "here"), [("none", True), ("user", False)])
def test_a_network_that_leads_nowhere(network: str, here: bool) -> None:
    """It is said before anything is started."""
    with pytest.raises(CapabilityError):
        check_leads_here("vm", network, here=here)


@pytest.mark.parametrize(("network", "here"), [("user", True), ("network=default", False), ("bridge=br0", True)])
def test_a_network_that_leads_here(network: str, here: bool) -> None:
    """It is taken."""
    check_leads_here("vm", network, here=here)


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    """Ssh's options are parted by spaces, and have tokens that begin with %."""
    note = VmNote(
        digest="d", specification="{}", folder=str(tmp_path / 'my "vms" 5%'), files="disk.qcow2", image="/i",
        arch="aarch64", created="2026-11-27", number="5e",
    )  # fmt: skip
    words = command(note, "127.0.0.1", 22, None, ("date",))
    assert f'UserKnownHostsFile="{tmp_path}/my \\"vms\\" 5%%/known_hosts"' in words
    assert words[-2:] == ["127.0.0.1", "date"]
