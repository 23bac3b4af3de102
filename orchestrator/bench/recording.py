"""Collects a benchmark's samples into its result file, which is whole and analysed after every round."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.bench import analysis, host
from orchestrator.bench.result import Environment, Result, SampleEntry, SideEntry, new_result, save
from orchestrator.bench.rounds import Sample, Side
from orchestrator.bench.transfer import Transfer
from orchestrator.errors import UsageError


class Recording:
    """A result under way.

    :param path: the result file.
    """

    def __init__(
        self, kind: str, path: Path, *, seed: int, firmware: str | None = None, trap_cost_ns: int | None = None
    ) -> None:
        surroundings: Environment = {"host": host.host(), "launches": {}, "firmware": host.firmware(firmware)}
        self.path = path
        self.result: Result = new_result(kind, seed=seed, environment=surroundings, trap_cost_ns=trap_cost_ns)
        self._events: list[Mapping[str, Any]] = []
        self.left: str | None = None  # what of the benchmark is left when it ends, and why
        self._before: dict[str, Any] = {}  # what is known of the launches without these

    def go_on(self, earlier: Result) -> None:
        """Take what was measured before an interruption, to go on from there.

        :raise UsageError: it was another benchmark, or was made on another host or with other programs.
        """
        new = self.result
        then, now = earlier["environment"], new["environment"]
        before: Mapping[str, Any] = {**then["host"]}
        for name, was, is_now in (
            ("benchmark", earlier["kind"], new["kind"]),
            ("firmware", then["firmware"], now["firmware"]),
            *((key, before.get(key), value) for key, value in now["host"].items()),
        ):
            if name != "load" and was != is_now:
                why = f"its {name} is {was}, here it is {is_now}"
                raise UsageError("cannot go on with the result", self.path, why, "begin a new one with --out")
        self.result = earlier
        self.result |= {"complete": False, "ended_by": None, "left_out": []}
        self._before = dict(earlier["environment"]["launches"])

    def state(self, **facts: str) -> None:
        """Say what holds for all launches, whatever is measured first."""
        self._before = facts | self._before
        self.result["environment"]["launches"] = dict(self._before)

    def sides(self, sides: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Name the sides and what distinguishes them; several programs of one side count once."""
        named: dict[str, SideEntry] = {name: {"name": name, "facts": _with_digest(facts)} for name, facts in sides}
        named = {side["name"]: side for side in self.result["sides"]} | named
        self.result["sides"] = list(named.values())

    def leave_out(self, side: str, reason: str) -> None:
        """Note a side that cannot be had on this host, and why."""
        self.result.setdefault("left_out", []).append({"side": side, "reason": reason})

    def take(self, samples: Sequence[Sample], sides: Sequence[Side], *, analysed: bool = True) -> None:
        """Add the samples of a round and save.

        :param analysed: with an analysis, which takes seconds; without one the file still holds all that was measured.
        """
        for sample in samples:
            stated = next(side.facts for side in sides if side.name == sample.side)
            self.result["samples"].append(_sample(sample, stated))
            if sample.event is not None:
                self._events.append(sample.event)
            elif sample.status == 0:
                self._events.append({key: stated.get(key) for key in ("accel", "arch")})
        # A side that is no launch of ours states its accel and arch; ours are as verified.
        found = host.of_launches(self._events)
        unheard = {key: value for key, value in self._before.items() if found.get(key) is None}
        self.result["environment"]["launches"] = found | unheard
        self.save(analysed=analysed)

    def take_transfer(
        self, transfer: Transfer, *, side: str, number: int, position: int, accel: str, load: float,
        started_wall_ns: int, analysed: bool = True,
    ) -> None:  # fmt: skip
        """Add one timed transfer of a sweep and save, as `take` does."""
        self.result["samples"].append(
            {
                "side": side, "round": number, "position": position, "started_wall_ns": started_wall_ns,
                "ok": True, "error": None, "launch_id": None, "accel": accel, "fw_cfg_dma": transfer.fw_cfg_dma,
                "load": load, "size_bytes": transfer.kernel_bytes + transfer.initrd_bytes,
                "metrics": {"transfer": transfer.duration_ns},
            }
        )  # fmt: skip
        self.save(analysed=analysed)

    def count(self, transfer: Transfer, predicted: int | None) -> None:
        """Add the access count of a counting run and save."""
        assert transfer.accesses is not None  # that is what such a run is for
        assert transfer.accesses_total is not None
        self.result["counts"].append(
            {
                "fw_cfg_dma": transfer.fw_cfg_dma,
                "payload_bytes": transfer.kernel_bytes + transfer.initrd_bytes,
                "accesses": transfer.accesses,
                "accesses_total": transfer.accesses_total,
                "predicted": predicted,
            }
        )
        self.save()

    def finish(self) -> None:
        """Mark the result as complete, unless something is left, and save it.

        :raise UsageError: when its sides must not be compared; the samples are saved.
        """
        self.result["complete"] = self.left is None
        self.result["ended_by"] = self.left
        self.save()
        analysis.analyse(self.result)

    def end(self, why: str) -> bool:
        """Mark the result as ended before it was complete and save it; tell whether anything was measured."""
        self.result["ended_by"] = why
        measured = any(sample["round"] >= 0 for sample in self.result["samples"])
        if measured:
            self.save()
        return measured

    def save(self, *, analysed: bool = True) -> None:
        """Analyse what is there and write the file."""
        self.result["analysis"] = None
        if analysed:
            with contextlib.suppress(UsageError):  # `finish` raises it; until then the samples are kept
                self.result["analysis"] = analysis.analyse(self.result)
        save(self.result, self.path)


def record_rounds(recording: Recording, sides: Sequence[Side], found: Iterable[tuple[Sample, ...]]) -> None:
    """Take rounds as they come."""
    for samples in found:
        recording.take(samples, sides)


def _with_digest(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a side's facts with the digest of the firmware they name."""
    path = facts.get("firmware")
    return dict(facts) if path is None else {**facts, "firmware_sha256": host.file_digest(Path(path))}


def _sample(sample: Sample, stated: Mapping[str, Any]) -> SampleEntry:
    event = sample.event
    ok = sample.error is None and (event is None or event["outcome"] == "success")
    found: SampleEntry = {
        "side": sample.side,
        "round": sample.round,
        "position": sample.position,
        "started_wall_ns": sample.started_wall_ns,
        "ok": ok,
        "error": sample.error,
        "launch_id": event["launch_id"] if event else None,
        "accel": (event or stated).get("accel"),
        "fw_cfg_dma": event["fw_cfg_dma"] if event else None,
        "load": sample.load,
        "metrics": analysis.metrics_of(event, wall_ns=sample.wall_ns, answers={sample.answer: sample.answer_ns}),
    }
    if sample.task is not None:
        found |= {"tool": sample.task.tool, "disk": sample.task.disk}
    return found
