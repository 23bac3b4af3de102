"""What unit tests of several rooms share."""

from __future__ import annotations

import pytest

from orchestrator.bench import statistics


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, where results are analysed after each of their rounds."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
