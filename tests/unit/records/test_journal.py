"""Events in the journal, against a real datagram socket in journald's place."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.records import journal
from orchestrator.records.log import EventLog
from tests.simulated_launches import event


def decode(data: bytes) -> dict[str, str]:
    """Take a datagram apart as journald does: `KEY=value`, or a length where the value has line breaks."""
    found: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            data = rest
        else:
            name, (length,) = line, struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + length], rest[9 + length :]
            assert rest[8 + length : 9 + length] == b"\n"
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that takes the place of journald's."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("journal")
        sock.settimeout(5)
        yield sock


def receive(sock: socket.socket) -> dict[str, str]:
    """Return the fields of the next event."""
    descriptors = array.array("i")
    data, rights, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    if not rights:
        return decode(data)
    assert data == b""
    descriptors.frombytes(rights[0][2])
    with os.fdopen(descriptors[0], "rb") as file:
        seals = fcntl.fcntl(file.fileno(), fcntl.F_GET_SEALS)
        assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        file.seek(0)
        return decode(file.read())


def test_a_launch_has_its_values_as_fields(journald: socket.socket) -> None:
    """Level, launch id and every plain value are fields; the message is the whole line."""
    line = event(1)
    assert journal.send(json.dumps(line), line, path="journal")
    found = receive(journald)
    assert json.loads(found["MESSAGE"]) == line
    assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"]) == ("6", "guestlaunch")
    assert found["GUESTLAUNCH_LAUNCH_ID"] == line["launch_id"]
    assert found["GUESTLAUNCH_EVENT"] == "launch_finished"
    assert found["GUESTLAUNCH_FW_CFG_DMA"] == "true"
    assert found["GUESTLAUNCH_TOTAL_NS"] == str(line["total_ns"])
    assert "GUESTLAUNCH_PHASES" not in found
    assert "GUESTLAUNCH_ERROR" not in found, "null has no field"


@pytest.mark.parametrize(("level", "expected"), [("error", "3"), ("warning", "4"), ("debug", "7"), ("odd", "5")])
def test_the_level_is_the_priority(journald: socket.socket, level: str, expected: str) -> None:
    """The log's levels become syslog's priorities."""
    assert journal.send("m", {"level": level}, path="journal")
    assert receive(journald)["PRIORITY"] == expected


def test_a_long_event_travels_as_sealed_memory(journald: socket.socket) -> None:
    """What does not fit into a datagram arrives all the same, in memory that nobody can change any more."""
    message = "x" * 4_000_000
    assert journal.send(message, {"level": "info", "launch_id": "gl-1"}, path="journal")
    found = receive(journald)
    assert found["MESSAGE"] == message
    assert found["GUESTLAUNCH_LAUNCH_ID"] == "gl-1"


@given(message=st.text(st.characters(exclude_categories=())), key=st.text(min_size=1), value=st.text())
def test_any_text_survives(message: str, key: str, value: str) -> None:
    """Line breaks and equals signs cannot forge fields, and field names are always ones that journald takes."""
    found = decode(journal.encode(message, {key: value}))
    assert found["MESSAGE"].encode() == message.encode("utf-8", "backslashreplace")
    assert found["PRIORITY"] == "5" or key == "level"
    (name,) = set(found) - {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}
    assert name.startswith("GUESTLAUNCH_")
    assert len(name) <= 64
    assert all(c.isascii() and (c.isupper() or c.isdigit() or c == "_") for c in name)
    assert found[name].encode() == value.encode("utf-8", "backslashreplace")


def test_no_journal_is_said(tmp_path: Path) -> None:
    """Without journald, and for a full or foreign socket, the event was not sent."""
    assert not journal.send("m", {}, path=str(tmp_path / "missing"))
    (tmp_path / "file").touch()
    assert not journal.send("m", {}, path=str(tmp_path / "file"))


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    """JOURNAL_STREAM must name the very descriptor: it is inherited by redirected processes too."""
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert journal.is_journal(stream.fileno(), environ)
        assert not journal.is_journal(other.fileno(), environ)
        assert not journal.is_journal(stream.fileno(), {})
        assert not journal.is_journal(stream.fileno(), {"JOURNAL_STREAM": "nonsense"})
        closed = os.dup(other.fileno())
        os.close(closed)
        assert not journal.is_journal(closed, environ)


def _stream(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


def test_a_log_to_the_journal_goes_there_with_fields(
    journald: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The event log sends to the journal when that is what stderr is, and writes nothing to stderr then."""
    _stream(monkeypatch)
    monkeypatch.setattr(journal, "SOCKET", "journal")
    EventLog("-").emit("client_refused", level="warning", launch_id="gl-7")
    found = receive(journald)
    assert (found["PRIORITY"], found["GUESTLAUNCH_LAUNCH_ID"]) == ("4", "gl-7")
    assert json.loads(found["MESSAGE"])["event"] == "client_refused"
    assert capfd.readouterr().err == ""


def test_a_journal_out_of_reach_still_gets_the_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where only the stream leads to the journal, as out of a container, the level stands in front of the line."""
    _stream(monkeypatch)
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "missing"))
    EventLog("-").emit("client_refused", level="error")
    text = capfd.readouterr().err
    assert text.startswith('<3>{"')
    assert json.loads(text[3:])["event"] == "client_refused"


def test_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the journal, stderr gets the JSON line and nothing in front of it."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    EventLog("-").emit("client_refused", level="error")
    assert json.loads(capfd.readouterr().err)["level"] == "error"
