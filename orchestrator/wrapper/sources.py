"""A drive's `file=` as libguestfs writes it, turned into a file or into QEMU block driver options with secrets apart.

The syntaxes are those of libguestfs 1.48 to 1.60 (`guestfs_int_drive_source_qemu_param`) and are read as QEMU reads
them, except where libguestfs's own escaping allows an exact reading and QEMU's is looser. Secrets
are never part of an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import unquote

from orchestrator.domain.model import FileSource, NetworkSource
from orchestrator.errors import TranslationError

Options = tuple[tuple[str, str], ...]

# QEMU's own test for a protocol prefix: a colon before the first slash.
_PROTOCOL = re.compile(r"([^/:]*):", re.DOTALL)
_URI = re.compile(r"[^:]+://(?:(?P<user>[^@/]*)@)?(?P<server>[^/?]*)(?P<path>/.*)?", re.DOTALL)
_SERVER = re.compile(r"(?P<host>\[[^\]]*\]|.*?)(?::(?P<port>\d+))?", re.DOTALL)
_CURL = ("http", "https", "ftp", "ftps")
_GONE = {
    "sheepdog": "QEMU has had no sheepdog driver since 6.1",
    "tftp": "QEMU has had no tftp driver since 2.9",
}
_SSH_PORT = "22"
_ISCSI_PORT = "3260"
_GLUSTER_PORT = "24007"


def parse(file: str, cwd: str, is_block_device: Callable[[str], bool], subject: str) -> FileSource | NetworkSource:
    """Return the source that file (the value of `file=`, commas single) names.

    :param subject: how an error names the argument.
    :raise TranslationError: unknown protocol, or one that QEMU or its driver does not support.
    """
    match = _PROTOCOL.match(file)
    if match is None:
        return local(file, cwd, is_block_device)
    protocol = match[1]
    if protocol in _CURL:
        return _curl(protocol, file, subject)
    if protocol in ("gluster", "gluster+tcp", "gluster+unix"):
        return _gluster(file, subject)
    readers = {"nbd": _nbd, "ssh": _ssh, "rbd": _rbd, "iscsi": _iscsi}
    if protocol in readers:
        return readers[protocol](file, subject)
    raise _refused(subject, _GONE.get(protocol, f"unknown protocol '{protocol}'"))


def local(path: str, cwd: str, is_block_device: Callable[[str], bool]) -> FileSource:
    """Return the file or block device at path, made absolute."""
    whole = os.path.join(cwd, path)
    return FileSource(path=whole, block_device=is_block_device(whole))


def _refused(subject: str, why: str) -> TranslationError:
    """Return the error for a source that cannot be used."""
    return TranslationError("cannot translate the disk's source", subject, why)


def _decoded(text: str) -> str:
    """Return text with percent escapes undone, bytes that are no UTF-8 by surrogateescape."""
    return unquote(text, errors="surrogateescape")


def _split_uri(uri: str, subject: str) -> tuple[str | None, str | None, str, str | None, str]:
    """Return user, password, host, port and path (still percent-encoded) of a URI that libxml2 wrote."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise _refused(subject, "not a URI with a server and a path")
    user, colon, password = (match["user"] or "").partition(":")
    host, port = _split_server(match["server"])
    return _decoded(user) or None, _decoded(password) if colon else None, host, port, match["path"] or ""


def _split_server(server: str) -> tuple[str, str | None]:
    """Return host and port of `host[:port]`; an IPv6 address loses its brackets."""
    match = _SERVER.fullmatch(server)
    assert match is not None  # the pattern matches every string
    host = match["host"]
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host, match["port"]


def _curl(protocol: str, file: str, subject: str) -> NetworkSource:
    """Return an http, https, ftp or ftps disk."""
    user, password, *_ = _split_uri(file, subject)
    head, slashes, rest = file.partition("://")
    server, slash, path = rest.partition("/")
    url = head + slashes + server.rpartition("@")[2] + slash + path
    options: Options = (("url", url),)
    if user is not None:
        options += (("username", user),)
    return NetworkSource(
        driver=protocol, options=options, secrets=(("password-secret", password),) if password is not None else ()
    )


def _ssh(file: str, subject: str) -> NetworkSource:
    """Return an ssh disk; QEMU authenticates by the agent, so there is no place for a password."""
    user, password, host, port, path = _split_uri(file, subject)
    if password is not None:
        raise _refused(subject, "QEMU's ssh driver takes no password, only keys from an agent")
    options: Options = (("server.host", host), ("server.port", port or _SSH_PORT), ("path", _decoded(path)))
    return NetworkSource(driver="ssh", options=options + ((("user", user),) if user is not None else ()))


def _gluster(file: str, subject: str) -> NetworkSource:
    """Return a gluster disk (libguestfs up to 1.54)."""
    if file.startswith("gluster+unix:"):
        raise _refused(subject, "libguestfs names neither volume nor image with gluster over a unix socket")
    _, _, host, port, path = _split_uri(file, subject)
    volume, _, image = _decoded(path).lstrip("/").partition("/")
    if not volume or not image:
        raise _refused(subject, "gluster needs volume/image")
    server: Options = (("server.0.type", "inet"), ("server.0.host", host), ("server.0.port", port or _GLUSTER_PORT))
    return NetworkSource(driver="gluster", options=(("volume", volume), ("path", image), *server))


def _nbd(file: str, subject: str) -> NetworkSource:
    """Return an nbd disk: `nbd:HOST:PORT` or `nbd:unix:PATH`, then perhaps `:exportname=NAME`."""
    address, found, export = file.removeprefix("nbd:").partition(":exportname=")
    server: Options
    if address.startswith("unix:"):
        server = (("server.type", "unix"), ("server.path", address.removeprefix("unix:")))
    else:
        host, port = _split_server(address)
        if port is None:
            raise _refused(subject, "nbd without a port")
        server = (("server.type", "inet"), ("server.host", host), ("server.port", port))
    return NetworkSource(driver="nbd", options=server + ((("export", export),) if found else ()))


def _rbd_items(text: str) -> list[str]:
    """Return the parts of text between unescaped colons, backslash escapes undone."""
    return [
        re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL)
        for part in re.findall(r":((?:[^\\:]|\\.)*)", ":" + text, re.DOTALL)
    ]


def _rbd(file: str, subject: str) -> NetworkSource:
    """Return a Ceph disk: `rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]:key=value…`.

    The secret is Ceph's key in base64, as libguestfs has it: its secret object needs `format=base64`.
    """
    image, *settings = _rbd_items(file.removeprefix("rbd:"))
    pool, _, name = image.partition("/")
    namespace, slash, rest = name.partition("/")
    name = rest if slash else name
    name, at, snapshot = name.partition("@")
    if not pool or not name:
        raise _refused(subject, "rbd needs pool/image")
    options: Options = (("pool", pool), *((("namespace", namespace),) if slash else ()), ("image", name))
    if at:
        options += (("snapshot", snapshot),)
    secrets: Options = ()
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "key":
            secrets += (("key-secret", value),)
        else:
            options += _rbd_setting(key, value, subject)
    return NetworkSource(driver="rbd", options=options, secrets=secrets)


def _rbd_setting(key: str, value: str, subject: str) -> Options:
    """Return the block driver options for one of libguestfs's rbd settings."""
    if key == "id":
        return (("user", value),)
    if key == "auth_supported":
        return tuple((f"auth-client-required.{i}", scheme) for i, scheme in enumerate(value.split(";")))
    if key == "mon_host":
        servers = [_split_server(server) for server in value.split(";")]
        if any(port is None for _, port in servers):
            raise _refused(subject, "rbd server without a port")
        return tuple(
            option
            for i, (host, port) in enumerate(servers)
            for option in ((f"server.{i}.host", host), (f"server.{i}.port", port or ""))
        )
    raise _refused(subject, f"unknown rbd setting '{key}'")


def _iscsi(file: str, subject: str) -> NetworkSource:
    """Return an iSCSI disk: `iscsi://[USER%PASSWORD@]HOST[:PORT]/TARGET[/LUN]`.

    libguestfs escapes host and target, but neither user nor password: the last `@` is the separator.
    """
    credentials, at, location = file.removeprefix("iscsi://").rpartition("@")
    server, _, target = location.partition("/")
    address, colon, port = server.partition(":")
    host = _decoded(address)
    name, slash, lun = _decoded(target).rpartition("/")
    if not slash:
        name, lun = lun, "0"
    if not name or not lun.isdecimal():
        raise _refused(subject, "iscsi needs target/lun, the lun a number")
    portal = f"{host}:{port if colon else _ISCSI_PORT}"
    options: Options = (("transport", "tcp"), ("portal", portal), ("target", name), ("lun", lun))
    if not at:
        return NetworkSource(driver="iscsi", options=options)
    user, _, password = credentials.partition("%")
    return NetworkSource(driver="iscsi", options=(*options, ("user", user)), secrets=(("password-secret", password),))
