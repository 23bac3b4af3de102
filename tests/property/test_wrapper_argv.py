"""Whatever libguestfs quotes by its rules is read back as it was."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.model import FileSource
from orchestrator.wrapper import argv, protocol, quoting

# Arguments are C strings: any character but NUL, undecodable bytes as surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.binary().map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
WORD = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
ITEM = TEXT.filter(lambda text: bool(text) and not text.startswith(","))  # neither occurs: each item has a key


def quoted(value: str) -> str:
    """Quote a value as libguestfs does."""
    return value.replace(",", ",,")


@given(TEXT)
def test_plain_value(value: str) -> None:
    """A value that is no list is read back."""
    assert quoting.plain(quoted(value)) == value


@given(st.lists(ITEM, min_size=1))
def test_list(values: list[str]) -> None:
    """A list is read back item by item, even with commas at the end of items."""
    assert quoting.items(",".join(map(quoted, values))) == values


@given(
    st.lists(
        st.tuples(TEXT, st.booleans(), st.sampled_from(["writeback", "unsafe"]), st.none() | WORD, st.booleans(),
                  st.booleans(), st.none() | WORD, st.none() | st.sampled_from([512, 4096]), st.booleans()),
        max_size=40,
    ),
    TEXT, TEXT, TEXT.filter(bool),
)  # fmt: skip
def test_launch(drives: list[tuple[str, bool, str, str | None, bool, bool, str | None, int | None, bool]],
                kernel: str, initrd: str, append: str) -> None:  # fmt: skip
    """Any drives with any options are read back, in order, with the paths of kernel and initrd."""
    words = ["-kernel", quoted("/" + kernel), "-initrd", quoted("/" + initrd)]
    for i, (path, overlay, cache, kind, discard, copy, serial, size, virtio) in enumerate(drives):
        if overlay:
            parts = [f"file.file.filename={quoted('/' + path)}", "file.driver=qcow2", "file.backing.file.locking=off"]
        else:
            parts = [f"file={quoted('/' + path)}"]
        parts += [f"cache={cache}", f"id=hd{i}", "if=none"]
        parts += [f"format={kind}"] if kind and not overlay else []
        parts += ["discard=unmap"] if discard else []
        parts += ["copy-on-read=on"] if copy else []
        device = ["virtio-blk-pci" if virtio else "scsi-hd", f"drive=hd{i}"]
        device += [f"serial={serial}"] if serial else []
        device += [f"physical_block_size={size}", f"logical_block_size={size}"] if size else []
        words += ["-drive", ",".join(parts), "-device", ",".join(device)]
    request = argv.parse([*words, "-append", quoted(append)], "/", block_device=lambda _: False)
    assert (request.kernel, request.initrd, request.cmdline) == ("/" + kernel, "/" + initrd, append)
    found = [
        (d.source, d.shared_read, d.cache, d.format, d.discard, d.copy_on_read, d.serial, d.logical_block_size, d.bus)
        for d in request.disks
    ]
    assert found == [
        (FileSource(path="/" + path), overlay, cache, "qcow2" if overlay else kind, discard, copy, serial, size,
         "virtio" if virtio else "scsi")
        for path, overlay, cache, kind, discard, copy, serial, size, virtio in drives
    ]  # fmt: skip


@given(st.lists(TEXT), TEXT, st.dictionaries(TEXT, TEXT))
def test_launch_message_survives_json(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Arbitrary bytes in arguments, directory and environment survive the wire."""
    message = protocol.launch_message(words, cwd, env)
    again = json.loads(json.dumps(message))
    assert (again["argv"], again["cwd"], again["env"]) == (words, cwd, env)
