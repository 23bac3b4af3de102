"""The diagram of a launch's life cycle: drawn from the table that is carried out, so it cannot be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.launch.lifecycle import TABLE, State

if TYPE_CHECKING:
    from tests.golden.conftest import Golden

PAGE = """# The life cycle of a launch

Drawn from the table in `lifecycle.py` (`pytest tests/golden --regenerate-golden` writes this file anew). An arrow
says which event leads on, and after the slash which instructions are then carried out. A launch begins as requested; a
guest that is to become a template as approaching its gate, and one of the standby pool when it has come there.

```mermaid
stateDiagram-v2
{arrows}
```
"""


def arrows() -> list[str]:
    """Return the table's rows as arrows; those that differ in their event alone are one."""
    events: dict[tuple[State, State, str], list[str]] = {}
    for (state, event), (following, instructions) in TABLE.items():
        events.setdefault((state, following, ", ".join(instructions)), []).append(event)
    rows = (f"{a} --> {b}: {' or '.join(said)} / {does}" for (a, b, does), said in events.items())
    ends = [f"{state} --> [*]" for state in (State.HELD, State.GONE)]
    return [*(f"[*] --> {state}" for state in (State.REQUESTED, State.APPROACHING)), *rows, *ends]


def test_the_diagram_is_that_of_the_table(golden: Golden) -> None:
    """Whoever changes the table has the diagram drawn anew."""
    golden("../../orchestrator/launch/lifecycle.md", PAGE.format(arrows="\n".join(f"    {row}" for row in arrows())))
