"""Lengths of time for people to read: one function for each kind of place where one is shown."""

from __future__ import annotations


def milliseconds(ns: float | None) -> str:
    """Return a time for a column in which times are compared: to a tenth of a millisecond below ten seconds."""
    if ns is None:
        return "-"
    return f"{ns / 1e6:.1f} ms" if ns < 10e9 else f"{ns / 1e9:.2f} s"


def bare_milliseconds(ns: float) -> str:
    """Return a time for a table whose head names the unit: in ms, with three figures or whole."""
    value = ns / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(ns: float) -> str:
    """Return a time that stands by itself, in the unit that suits it."""
    if ns >= 1e9:
        return f"{ns / 1e9:.2f} s"
    return f"{ns / 1e6:.0f} ms" if ns >= 1e8 else f"{ns / 1e6:.3g} ms"


def elapsed(seconds: float) -> str:
    """Return how long something has been running."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    minutes = rest // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest % 60} s"


def period(ns: float) -> str:
    """Return how much time something was spread over, roughly."""
    minutes, hours, days = ns / 60e9, ns / 3600e9, ns / 86_400e9
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.0f} h" if days < 2 else f"{days:.0f} days"
