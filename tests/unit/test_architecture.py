"""The rules of the house that no linter knows: who may import whom, what things may be called, where docstrings stand.

Reads sources only. Each rule is a function from parsed modules to breaches, and is itself tried on a breach.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "orchestrator"

# In the order data flows: a room imports from itself and from those before it.
ROOMS = (
    "values", "errors", "distributions", "surroundings", "priority", "tether", "files", "locks", "sockets", "published",
    "scratch", "compiled", "remembered", "settings", "program", "images", "timeline", "records",
    "appliance", "firmware", "domain", "hypervisor", "channel", "template", "launch", "kernel", "install", "wrapper",
    "workload", "vm", "provision", "telemetry", "daemon", "bench", "report", "manual", "cli",
)  # fmt: skip

# Foreign packages that only one room, or one module, may touch.
KEPT_IN = {
    "libvirt": "orchestrator.hypervisor",
    "libvirt_qemu": "orchestrator.hypervisor",
    "libvirtmod": "orchestrator.hypervisor",
    "guestfs": "orchestrator.workload",
    "tenacity": "orchestrator.hypervisor.retry",
}

# Values without behaviour, in which rooms before theirs speak too (an arch, a disk). They import nothing of ours
# but what makes a class of values.
SHARED_VALUES = frozenset({"orchestrator.domain.model"})

# libguestfs starts the wrapper several times for each handle, so it loads nothing else.
WRAPPER_MAY_IMPORT = frozenset(
    {
        "orchestrator.launch.request",
        "orchestrator.domain.model",
        "orchestrator.errors",
        "orchestrator.files",
        "orchestrator.sockets",
        "orchestrator.surroundings",
        "orchestrator.values",
    }
)

FORBIDDEN_WORDS = frozenset(
    {"manager", "managers", "helper", "helpers", "util", "utils", "utility", "utilities", "instance", "instances"}
)
QEMU_NAMESPACE = ("qemu:commandline", "http://libvirt.org/schemas/domain/qemu/1.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A parsed module. `name` is dotted; a package's `__init__` goes by the package's name."""

    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def room(self) -> str:
        """The room it belongs to; empty for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]


def parse(name: str, source: str) -> Module:
    """Return the module that a source text would be."""
    return Module(name=name, tree=ast.parse(source))


def modules(folder: Path) -> Iterator[Module]:
    """Yield every module below a folder of the checkout."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(TOP).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name=name, tree=ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package=is_package)


@pytest.fixture(scope="module")
def package() -> list[Module]:
    """Every module of the package."""
    found = list(modules(PACKAGE))
    assert len(found) > len(ROOMS)
    return found


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a module imports, wherever in it, `from` names included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.name.split(".") + ([""] if module.is_package else [])
                base = ".".join([*here[: -node.level], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def within(name: str, package_name: str) -> bool:
    """Whether a dotted name is a package or something inside it."""
    return name == package_name or name.startswith(package_name + ".")


def direction_breaches(module: Module) -> list[str]:
    """Imports from a room that comes later, or from one that is not known."""
    breaches = []
    for line, name in imported(module):
        root, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        of_the_package_itself = not room or room.startswith("__")  # its version, its path
        if root != "orchestrator" or of_the_package_itself or any(within(name, shared) for shared in SHARED_VALUES):
            continue
        if room not in ROOMS:
            breaches.append(f"{module.name}:{line}: {name} is in no known room")
        elif not module.room or ROOMS.index(room) > ROOMS.index(module.room):
            breaches.append(f"{module.name}:{line}: {name} is in a later room")
    return breaches


def foreign_breaches(module: Module) -> list[str]:
    """Imports of a foreign package outside the room that keeps it."""
    return [
        f"{module.name}:{line}: {name} belongs to {KEPT_IN[root]} alone"
        for line, name in imported(module)
        if (root := name.partition(".")[0]) in KEPT_IN and not within(module.name, KEPT_IN[root])
    ]


def wrapper_breaches(module: Module) -> list[str]:
    """Imports of the wrapper beyond the standard library and the values it sends."""
    if module.room != "wrapper":
        return []
    allowed = (*WRAPPER_MAY_IMPORT, "orchestrator.wrapper")
    return [
        f"{module.name}:{line}: the wrapper may not import {name}"
        for line, name in imported(module)
        if name.partition(".")[0] not in sys.stdlib_module_names and not any(within(name, one) for one in allowed)
    ]


def defined_names(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything a module names: itself, classes, functions, arguments, variables, aliases."""
    yield 1, module.name
    for node in ast.walk(module.tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def words(name: str) -> list[str]:
    """Split a name in snake_case, CamelCase or dots into lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def vocabulary_breaches(module: Module) -> list[str]:
    """Names that say nothing about what the thing is."""
    return [
        f"{module.name}:{line}: {name} (forbidden word)"
        for line, name in defined_names(module)
        if FORBIDDEN_WORDS.intersection(words(name))
    ]


def namesakes(package: list[Module]) -> list[str]:
    """Classes that bear the name of another one, a leading underscore aside."""
    places: dict[str, list[str]] = {}
    for module in package:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(f"{module.name}:{node.lineno}")
    return [f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def docstrings(tree: ast.Module) -> set[int]:
    """Return the identities of the constant nodes that are docstrings."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def speaks_qemu_namespace(module: Module) -> bool:
    """Whether code of the module, and not only its prose, holds libvirt's QEMU namespace."""
    prose = docstrings(module.tree)
    return any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in prose
        and any(text in node.value for text in QEMU_NAMESPACE)
        for node in ast.walk(module.tree)
    )


def undocumented(module: Module) -> list[str]:
    """The module, and those of its test functions, that have no docstring."""
    missing = [] if ast.get_docstring(module.tree) else [f"{module.name}: no module docstring"]
    return missing + [
        f"{module.name}:{node.lineno}: {node.name} has no docstring"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def test_rooms_are_the_folders_there_are() -> None:
    """The list of rooms above names each room of the package, and no other."""
    found = {
        path.stem
        for path in PACKAGE.iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert found == set(ROOMS)


def test_imports_go_one_way(package: list[Module]) -> None:
    """A room imports only from the rooms before it."""
    assert [breach for module in package for breach in direction_breaches(module)] == []


def test_shared_values_import_nothing_of_ours(package: list[Module]) -> None:
    """What earlier rooms may import from a later one drags no room in behind it."""
    shared = [module for module in package if module.name in SHARED_VALUES]
    assert {module.name for module in shared} == SHARED_VALUES
    names = {name for module in shared for _, name in imported(module) if not within(name, "orchestrator.values")}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_foreign_packages_stay_in_their_room(package: list[Module]) -> None:
    """libvirt, guestfs and tenacity are each imported in one place."""
    assert [breach for module in package for breach in foreign_breaches(module)] == []


def test_wrapper_imports_little(package: list[Module]) -> None:
    """The wrapper's sources import the standard library and the request's values only."""
    assert [breach for module in package for breach in wrapper_breaches(module)] == []


def test_wrapper_loads_no_foreign_module() -> None:
    """Importing the wrapper for real loads standard library and own modules, whatever the rooms' `__init__` do."""
    code = "import sys; import orchestrator.wrapper.hv; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], cwd=TOP, capture_output=True, text=True, check=True, timeout=60
    )
    roots = {name.partition(".")[0] for name in run.stdout.split()}
    assert "orchestrator" in roots
    assert sorted(roots - sys.stdlib_module_names - {"orchestrator", "__main__"}) == []


def test_names_say_what_a_thing_is(package: list[Module]) -> None:
    """No module, class, function, argument or variable is called by a word that fits everything."""
    assert [breach for module in package for breach in vocabulary_breaches(module)] == []


def test_qemu_namespace_stays_in_one_module(package: list[Module]) -> None:
    """QEMU's own arguments enter domain XML in one place of the domain room."""
    speakers = [module.name for module in package if speaks_qemu_namespace(module)]
    assert len(speakers) == 1, speakers
    assert within(speakers[0], "orchestrator.domain")


def test_no_class_name_stands_twice(package: list[Module]) -> None:
    """Who reads of a class knows which one is meant: no two of the package share a name."""
    assert namesakes(package) == []


def test_everything_has_a_docstring(package: list[Module]) -> None:
    """Each module of package and tests says its one job, each test what it shows."""
    assert [line for module in (*package, *modules(TOP / "tests")) for line in undocumented(module)] == []


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (direction_breaches, "orchestrator.domain.xml", "from orchestrator.launch import request"),
        (direction_breaches, "orchestrator.domain.xml", "def late():\n    import orchestrator.cli.main"),
        (direction_breaches, "orchestrator.domain.xml", "from orchestrator import launch"),
        (direction_breaches, "orchestrator.domain.xml", "from ..launch import request"),
        (direction_breaches, "orchestrator.domain.xml", "import orchestrator.attic"),
        (direction_breaches, "orchestrator.errors", "from orchestrator.settings import Settings"),
        (foreign_breaches, "orchestrator.launch.cold", "def late():\n    import libvirt"),
        (foreign_breaches, "orchestrator.cli.main", "from guestfs import GuestFS"),
        (foreign_breaches, "orchestrator.hypervisor.connection", "import tenacity"),
        (wrapper_breaches, "orchestrator.wrapper.hv", "import structlog"),
        (wrapper_breaches, "orchestrator.wrapper.hv", "from orchestrator.settings import Settings"),
        (vocabulary_breaches, "orchestrator.launch.utils", ""),
        (vocabulary_breaches, "orchestrator.launch.cold", "class PoolManager: ..."),
        (vocabulary_breaches, "orchestrator.launch.cold", "def start(vm_instance): ..."),
        (vocabulary_breaches, "orchestrator.launch.cold", "import os as helper"),
        (undocumented, "tests.unit.test_x", '"""Doc."""\ndef test_it(): ...'),
        (undocumented, "tests.unit.test_x", "import os"),
    ],
)
def test_a_breach_is_found(rule: object, name: str, source: str) -> None:
    """Each rule can fail: it finds the breach in a small source."""
    assert callable(rule)
    assert len(rule(parse(name, source))) == 1


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (direction_breaches, "orchestrator.launch.cold", "from orchestrator.domain.model import Disk"),
        (direction_breaches, "orchestrator.launch.cold", "from .request import LaunchRequest"),
        (direction_breaches, "orchestrator.launch.cold", "from orchestrator import __version__"),
        (direction_breaches, "orchestrator.launch.cold", "import orchestrator"),
        (direction_breaches, "orchestrator.firmware.nvram", "from orchestrator.domain.model import Arch"),
        (foreign_breaches, "orchestrator.hypervisor.retry", "import tenacity"),
        (wrapper_breaches, "orchestrator.wrapper.hv", "import json\nfrom orchestrator.launch.request import X"),
        (vocabulary_breaches, "orchestrator.launch.cold", "from contextlib import contextmanager\nisinstance(1, int)"),
    ],
)
def test_the_allowed_is_not_a_breach(rule: object, name: str, source: str) -> None:
    """The rules let through what they are meant to let through."""
    assert callable(rule)
    assert rule(parse(name, source)) == []


def test_a_namesake_is_found() -> None:
    """Two classes of one name are found, wherever they are and whether private or not."""
    package = [
        parse("orchestrator.domain.a", "class Plan: ...\nclass Disk: ..."),
        parse("orchestrator.launch.b", "def f():\n    class _Plan: ..."),
    ]
    assert namesakes(package) == ["Plan: orchestrator.domain.a:1, orchestrator.launch.b:2"]


def test_qemu_namespace_in_prose_is_prose() -> None:
    """A docstring may speak of the namespace; code that holds it is seen."""
    assert not speaks_qemu_namespace(parse("orchestrator.domain.a", '"""No qemu:commandline here."""'))
    assert speaks_qemu_namespace(parse("orchestrator.domain.a", 'TAG = "qemu:commandline"'))
