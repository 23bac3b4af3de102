"""What libvirt keeps of a VM for us: one element in its domain's metadata, under a namespace of ours."""

from __future__ import annotations

import json
import os
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from orchestrator.domain.model import Metadata
from orchestrator.hypervisor.stored import StoredDomain

NAMESPACE = "urn:guestlaunch:vm:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmNote:
    """What a VM's domain says of it.

    :ivar folder: where its files are; `files` are their names there: these are removed with it, and nothing else.
    :ivar pool: the storage pool whose volumes the files are, if they are no files of that folder.
    :ivar made: empty as long as they are being made.
    :ivar specification: what it was asked to be, as JSON; `digest` is that of it.
    :ivar number: by which the readiness record of its own is known.
    :ivar ready: it was ready once: by what, and after how many milliseconds.
    """

    digest: str
    specification: str
    folder: str
    files: str
    image: str
    arch: str
    created: str
    number: str
    ready: str = ""
    ready_ms: str = ""
    pool: str = ""
    made: str = ""

    def metadata(self) -> Metadata:
        """Return it as libvirt keeps it."""
        return Metadata(
            namespace=NAMESPACE, prefix="guestlaunch", name="vm", attributes=tuple(sorted(asdict(self).items()))
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that were made for it; volumes as POOL/VOLUME."""
        return tuple(os.path.join(self.pool or self.folder, name) for name in self.files.split())  # noqa: PTH118 - see above

    @property
    def asked(self) -> dict[str, Any]:
        """What it was asked to be."""
        return dict(json.loads(self.specification))


def note_of(domain: StoredDomain) -> VmNote | None:
    """Return what a domain says of a VM of ours; None for anybody else's."""
    said = domain.metadata(NAMESPACE)
    known = {field.name for field in fields(VmNote)}
    needed = {field.name for field in fields(VmNote) if field.default is MISSING}
    if said is None or not needed <= said.keys():
        return None
    return VmNote(**{key: value for key, value in said.items() if key in known})
