"""The page of settings: what it says is read from the settings themselves."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

import pytest

from orchestrator.domain.profiles import parse_profile
from orchestrator.manual import plain, settings
from orchestrator.manual.page import Lines
from orchestrator.settings.convert import CONVERT, DEADLINES, takes


def test_every_key_has_its_entry() -> None:
    """Each key and each deadline is there, with its variable."""
    text = plain.render(settings.page({})).splitlines()
    assert [key for key in (*CONVERT, *DEADLINES) if f"    {key}" not in text] == []
    whole = "\n".join(text)
    assert [key for key in CONVERT if f"GUESTLAUNCH_{key.upper()}" not in whole] == []
    assert [name for name in DEADLINES if f"GUESTLAUNCH_DEADLINE_{name.upper()}" not in whole] == []


def test_entry_says_what_a_key_takes() -> None:
    """Values, default and options are those that are in force."""
    text = " ".join(plain.render(settings.page({"accel": ["--accel"]})).split())
    assert "Takes auto, kvm or tcg. Default: auto. Also --accel or GUESTLAUNCH_ACCEL." in text
    assert "Takes on or off. Default: off. Also GUESTLAUNCH_GUEST_ASLR." in text
    assert "Also GUESTLAUNCH_KEEP_DAYS. Where a daemon launches, the daemon's counts." in text


def test_the_profile_that_is_shown_is_one() -> None:
    """Whoever copies it into a file has a profile."""
    [section] = [one for one in settings.page({}).sections if one.title == "PROFILES"]
    [shown] = [one for one in section.blocks if isinstance(one, Lines)]
    assert parse_profile("mine", tomllib.loads("\n".join(shown.lines)), "shown").cpu_tcg == "cortex-a76"


def test_every_conversion_says_what_it_takes() -> None:
    """No key is without an answer to that."""
    assert [key for key, convert in CONVERT.items() if not takes(convert)] == []


def test_undocumented_setting_is_seen() -> None:
    """A field that its class says nothing of is an error that names it."""

    @dataclass
    class Lacking:
        """What can be set.

        :ivar first: said.
        """

        first: int
        second: int

    with pytest.raises(AssertionError, match="second"):
        settings._documented(Lacking)
