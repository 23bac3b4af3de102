"""Golden files: expected texts kept beside the tests, written anew with `pytest tests/golden --regenerate-golden`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that writes the golden files anew."""
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files anew, then fail")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with the golden file of a name, or write that file."""
    regenerate = request.config.getoption("--regenerate-golden", default=False)

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / name
        if regenerate:
            path.parent.mkdir(exist_ok=True)
            changed = not path.exists() or path.read_text(encoding="utf-8") != text
            path.write_text(text, encoding="utf-8")
            assert not changed, f"{name} was written anew: look at the difference"
        assert path.read_text(encoding="utf-8") == text

    return compare
