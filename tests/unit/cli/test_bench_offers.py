"""Which sides of a benchmark are launched once before they are timed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.bench import sides, start_sides
from orchestrator.bench.recording import Recording
from orchestrator.bench.rounds import Side
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, STANDBY, WARM
from orchestrator.cli.bench import offers
from orchestrator.settings import Settings


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have daemons that serve nothing, and note each side that is launched untimed."""
    done: list[str] = []

    @contextlib.contextmanager
    def daemon(*_: object, clones: int) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(socket=Path(f"/none/{clones}"), wait=lambda: None)

    def tried(offered: tuple[Side, ...], *, deadline_s: float) -> None:
        assert deadline_s == 60
        done.append(offered[0].name)

    monkeypatch.setattr(offers, "standing_by", daemon)
    monkeypatch.setattr(offers, "tool_environment", lambda *_, **__: SimpleNamespace(variables={}))
    monkeypatch.setattr(start_sides, "tried", tried)
    return done


@pytest.mark.parametrize(
    ("rows", "before"),
    [
        ((WARM, COLD, COLD_WITHOUT_DMA), [WARM, WARM]),  # the first makes its template
        ((COLD, COLD_WITHOUT_DMA), [COLD]),
        ((STANDBY, COLD), [STANDBY, STANDBY, COLD]),
        ((COLD_WITHOUT_DMA,), []),  # where each access traps, that is half an hour
    ],
)
def test_a_daemons_first_launch_is_not_timed(
    rows: tuple[str, ...], before: list[str], launched: list[str], tmp_path: Path
) -> None:
    """Its libvirt asks QEMU what it can: a second that belongs to no side."""
    settings = Settings(profile="aarch64-uefi", accel="tcg", state_dir=tmp_path, runtime_dir=tmp_path)
    work = sides.make_work(tmp_path, disk=None, apart=True)
    work = replace(work, scripts=work.scripts[:1])
    with contextlib.ExitStack() as stack:
        found = offers.tried(
            rows, offers.Offers(work, settings, tmp_path, stack), Recording("seed", tmp_path / "a.json", seed=1), 60
        )
    assert [side.name for side in found] == list(rows)
    assert launched == before
