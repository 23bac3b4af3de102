"""The `file=` syntaxes that libguestfs 1.48.6 was seen to write become block driver options with the secrets apart."""

from __future__ import annotations

import pytest

from orchestrator.domain.model import FileSource, NetworkSource
from orchestrator.errors import TranslationError
from orchestrator.wrapper import argv, sources
from tests.unit.wrapper.launches import CAPTURED

Options = tuple[tuple[str, str], ...]


def inet(host: str, port: str, prefix: str = "server") -> Options:
    """Return QEMU's options for an address."""
    return ((f"{prefix}.type", "inet"), (f"{prefix}.host", host), (f"{prefix}.port", port))


CASES: list[tuple[str, str, Options, Options]] = [
    ("nbd_tcp", "nbd", inet("example.com", "10810"), ()),
    ("nbd_export", "nbd", (*inet("example.com", "10809"), ("export", "exp ort:x")), ()),
    ("nbd_unix", "nbd", (("server.type", "unix"), ("server.path", "/run/so cket,x.sock")), ()),
    ("nbd_unix_export", "nbd", (("server.type", "unix"), ("server.path", "/run/n.sock"), ("export", "e1")), ()),
    ("nbd_ipv6", "nbd", (*inet("2001:db8::1", "10809"), ("export", "e1")), ()),
    ("https", "https", (("url", "https://example.com/dir/im%20age,1.img"), ("username", "us er")),
     (("password-secret", "p@ss:w/rd,%"),)),
    ("https_port", "https", (("url", "https://example.com:8443/x%3Fy=1&z%23f"),), ()),
    ("http", "http", (("url", "http://[2001:db8::1]:8080/x.img"),), ()),
    ("ftp", "ftp", (("url", "ftp://example.com/x.img"), ("username", "joe")), ()),
    ("ftps", "ftps", (("url", "ftps://example.com:990/x.img"), ("username", "joe")), (("password-secret", "geheim"),)),
    ("ssh", "ssh", (("server.host", "example.com"), ("server.port", "22"), ("path", "/home/x y/ä,b.img"),
                    ("user", "joe")), ()),
    ("ssh_port", "ssh", (("server.host", "example.com"), ("server.port", "2222"), ("path", "/x.img")), ()),
    ("rbd", "rbd", (("pool", "pool"), ("image", "disk"), ("server.0.host", "h1"), ("server.0.port", "6789"),
                    ("server.1.host", "2001:db8::1"), ("server.1.port", "6790"), ("user", "ceph"),
                    ("auth-client-required.0", "cephx"), ("auth-client-required.1", "none")),
     (("key-secret", "AQB8+/a=="),)),
    ("rbd_plain", "rbd", (("pool", "pool"), ("image", "disk"), ("server.0.host", "h1"), ("server.0.port", "6789"),
                          ("auth-client-required.0", "none")), ()),
    ("rbd_noserver", "rbd", (("pool", "pool"), ("image", "disk"), ("snapshot", "snap"),
                             ("auth-client-required.0", "none")), ()),
    ("iscsi", "iscsi", (("transport", "tcp"), ("portal", "example.com:3260"),
                        ("target", "iqn.2003-01.org.linux-iscsi.fedora"), ("lun", "1")), ()),
    ("iscsi_auth", "iscsi", (("transport", "tcp"), ("portal", "[2001:db8::1]:3261"),
                             ("target", "iqn.2003-01.org.x:sn.1"), ("lun", "0"), ("user", "us/er")),
     (("password-secret", "p@s%s"),)),
    ("iscsi_nolun", "iscsi", (("transport", "tcp"), ("portal", "example.com:3260"), ("target", "iqn.2003-01.org.x"),
                              ("lun", "0")), ()),
    ("gluster", "gluster", (("volume", "volname"), ("path", "dir/im age"),
                            *inet("example.com", "24007", "server.0")), ()),
    ("gluster_tcp", "gluster", (("volume", "volname"), ("path", "image"),
                                *inet("example.com", "24007", "server.0")), ()),
]  # fmt: skip


def parse(file: str) -> FileSource | NetworkSource:
    """Return the source that file names."""
    return sources.parse(file, "/cwd", lambda _: False, "-drive …,id=hd0")


@pytest.mark.parametrize(("name", "driver", "options", "secrets"), CASES, ids=[case[0] for case in CASES])
def test_captured_network_drive(name: str, driver: str, options: Options, secrets: Options) -> None:
    """Each protocol's captured drive has the driver's own options, and its secret is no option."""
    (disk,) = argv.parse(CAPTURED[name], "/").disks
    assert disk.source == NetworkSource(driver=driver, options=options, secrets=secrets)
    for _, secret in secrets:
        assert secret not in repr(disk)


@pytest.mark.parametrize(
    ("file", "path"),
    [("/a:b", "/a:b"), ("/nbd:x", "/nbd:x"), ("rel", "/cwd/rel"), ("./a:b", "/cwd/./a:b"), ("/\udcff", "/\udcff")],
)
def test_paths(file: str, path: str) -> None:
    """A slash before the first colon makes a path, whatever bytes it has."""
    assert parse(file) == FileSource(path=path)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("fat:/dir", "fat"),
        ("json:{}", "json"),
        ("nbd:host", "port"),
        ("rbd:pool", "pool/image"),
        ("rbd:pool/i:conf=/etc/x", "conf"),
        ("rbd:pool/i:mon_host=h", "port"),
        ("iscsi://h/iqn.x/first", "lun"),
        ("gluster://h/volume", "volume/image"),
        ("ssh:host", "URI"),
    ],
)
def test_refused(file: str, named: str) -> None:
    """Unknown protocols and incomplete sources are errors that say what is wrong."""
    with pytest.raises(TranslationError) as caught:
        parse(file)
    assert named in str(caught.value)
    assert "id=hd0" in str(caught.value)


def test_rbd_namespace_and_escapes() -> None:
    """A namespace is told from the image, and backslashes escape what they precede."""
    assert parse("rbd:p/ns/im\\:age@s1") == NetworkSource(
        driver="rbd", options=(("pool", "p"), ("namespace", "ns"), ("image", "im:age"), ("snapshot", "s1"))
    )


def test_undecodable_bytes_of_a_uri_survive() -> None:
    """Percent escapes that are no UTF-8 become surrogates, which become the same bytes again."""
    source = parse("ssh://h/%FF")
    assert isinstance(source, NetworkSource)
    assert dict(source.options)["path"].encode("utf-8", "surrogateescape") == b"/\xff"
