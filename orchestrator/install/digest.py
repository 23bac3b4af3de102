"""Checksums of a tree's files, and what stands behind them."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import LocationError
from orchestrator.files import open_image

# Of these, nobody can make two files that share one (md5 and sha1 have been broken).
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_BLOCK = 1 << 20


class Verification(StrEnum):
    """Why a kernel and an initrd are taken for what the distribution made; the best of them first."""

    SIGNATURE = "signature"  # a key of the distribution's signed the list of checksums
    PACKAGE = "package"  # the package manager has checked them
    CHECKSUMS = "checksums"  # they are as the tree says
    NAMED = "named"  # the user named the files
    NONE = "none"  # the user wanted it without


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A file's checksum, as a tree gives it."""

    algorithm: str
    value: str

    def check(self, path: Path, name: str) -> None:
        """Compare a file with it.

        :param name: the file's, in its tree.
        :raise LocationError: it is another file.
        """
        with os.fdopen(open_image(path), "rb") as file:
            made = hashlib.new(self.algorithm)
            while block := file.read(_BLOCK):
                made.update(block)
        if not hmac.compare_digest(made.hexdigest(), self.value):
            why = f"its {self.algorithm} is {made.hexdigest()}, and {self.value} by the tree's list"
            raise LocationError("the file is not what its tree says", name, why, "fetch the tree again")


def digest(algorithm: str, value: str) -> Digest | None:
    """Return a checksum; None for one that proves nothing, or is none."""
    algorithm, value = algorithm.lower().replace("-", ""), value.lower()
    fits = _LENGTHS.get(algorithm) == len(value) and re.fullmatch(r"[0-9a-f]+", value)
    return Digest(algorithm=algorithm, value=value) if fits else None


def read_sums(text: str, algorithm: str) -> Mapping[str, Digest]:
    """Return the checksums in a list as sha256sum(1) writes it, by path."""
    found = {}
    for line in text.splitlines():
        value, _, name = line.strip().partition(" ")
        one = digest(algorithm, value)
        if one is not None:
            found[name.lstrip(" *").removeprefix("./")] = one
    return found
