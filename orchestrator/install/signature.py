"""The signature over a list of checksums: that of Debian's archive is over `InRelease`, which has the lists' checksums.

gpgv, which apt has, does the checking, by the keys of the distribution's own package.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from orchestrator import scratch
from orchestrator.errors import LocationError
from orchestrator.install.source import TreeSource

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
)
_RELEASE = "InRelease"
_SECONDS = 60.0
_SUM = re.compile(r" ([0-9a-f]{64}) +(\d+) (\S+)")


def is_signed(source: TreeSource, listed_in: str, keyrings: Sequence[Path]) -> bool:
    """Tell whether a list of checksums is signed for.

    False where there is no signature, or nothing here to check it with.

    :raise LocationError: there is one, and it is bad, or not for this list.
    """
    signed = source.text(_RELEASE)
    listed = source.text(listed_in)
    known = [path for path in keyrings if path.is_file()]
    if signed is None or listed is None or not known or shutil.which("gpgv") is None:
        return False
    where = f"{source.where}: {_RELEASE}"
    expected = _sums(_verified(signed, known, where)).get(listed_in)
    if expected is None:
        return False  # a suite that signs for its packages only
    found = sha256(listed.encode("utf-8", "replace")).hexdigest()
    if found != expected:
        why = f"its sha256 is {found}, and {expected} by {_RELEASE}"
        raise LocationError("the list of checksums is not the one that is signed for", listed_in, why)
    return True


def _verified(text: str, keyrings: Sequence[Path], where: str) -> str:
    """Return what a signature is over.

    :raise LocationError: none of the keys made it.
    """
    with scratch.folder() as folder:
        signed, plain = folder / "signed", folder / "plain"
        signed.write_text(text, encoding="utf-8")
        options = [option for path in keyrings for option in ("--keyring", str(path))]
        command = ["gpgv", "--quiet", "--output", str(plain), *options, str(signed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocationError("cannot check the signature", where, error) from error
        if done.returncode != 0 or not plain.exists():
            said = " ".join(done.stderr.split()) or f"gpgv ended with status {done.returncode}"
            raise LocationError("the signature is not good", where, said, "--keyring FILE names other keys")
        return plain.read_text("utf-8")


def _sums(release: str) -> dict[str, str]:
    """Return the sha256 sums in a release file, by path."""
    _, _, rest = release.partition("\nSHA256:\n")
    found = {}
    for line in rest.splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            break
        found[match[3]] = match[1]
    return found
