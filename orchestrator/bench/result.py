"""Result files of benchmarks: their shape (`bench_result.schema.json`), written whole, read checked.

The samples are the result; the analysis in a file is what was computed from them when it was written, for readers
without this program. Analysing is `analysis`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import GuestlaunchError, UsageError

SCHEMA_VERSION = 1
_FORMAT = "guestlaunch bench result"

Result = dict[str, Any]


def new_result(kind: str, *, seed: int, environment: Mapping[str, Any], trap_cost_ns: int | None = None) -> Result:
    """Return an empty result of a kind of benchmark."""
    return {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "complete": False,
        "ended_by": None,
        "seed": seed,
        "modelled_trap_cost_ns": trap_cost_ns,
        "environment": dict(environment),
        "sides": [],
        "samples": [],
        "counts": [],
        "analysis": None,
    }


def schema() -> dict[str, Any]:
    """Return the JSON Schema of result files."""
    text = resources.files(__package__).joinpath("bench_result.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def save(result: Result, path: Path) -> None:
    """Write a result under a temporary name and rename it.

    :raise GuestlaunchError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, (json.dumps(result, indent=1) + "\n").encode(), mode=0o644)
    except OSError as error:
        raise GuestlaunchError("cannot write the result", path, error.strerror or error) from error


def load(path: Path) -> Result:
    """Read a result file and check it against its schema.

    :raise UsageError: when it is not a result file of a version this program reads.
    """
    import jsonschema

    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise UsageError("cannot read the result", path, why) from error
    if not is_result(document):
        raise UsageError("cannot read the result", path, "it is not a result file of guestlaunch bench")
    if document.get("schema_version") != SCHEMA_VERSION:
        why = f"its schema version is {document.get('schema_version')}, this program reads {SCHEMA_VERSION}"
        raise UsageError("cannot read the result", path, why)
    try:
        jsonschema.validate(document, schema())
    except jsonschema.ValidationError as error:
        raise UsageError("cannot read the result", path, f"{error.json_path}: {error.message}"[:300]) from error
    return dict(document)


def is_result(document: object) -> bool:
    """Tell whether a JSON document calls itself a result file."""
    return isinstance(document, dict) and document.get("format") == _FORMAT
