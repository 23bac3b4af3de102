"""A gigabyte at each of our ends (`tools/test -m performance tests/performance/test_floods.py`)."""

from __future__ import annotations

import pytest

from tests.unit.launch.test_floods import test_console, test_control_port, test_trace_and_log_stay_small

__all__ = ["test_console", "test_control_port", "test_trace_and_log_stay_small"]


@pytest.fixture
def total_bytes() -> int:
    """How much a guest says."""
    return 1 << 30
