"""What is said of a tool that failed."""

from __future__ import annotations

from orchestrator.vm.own_commands import last_words


def test_the_line_that_says_what_went_wrong() -> None:
    """Libguestfs's tools end with advice, not with the error; ours end with it."""
    said = """[   1.0] Examining the guest ...
virt-customize: error: useradd: command exited with an error

If reporting bugs, run virt-customize with debugging enabled and include the complete output:

  virt-customize -v -x [...]
"""
    assert last_words(said) == "virt-customize: error: useradd: command exited with an error"
    assert last_words("one\nguestlaunch: cannot launch: x: y\n\n") == "cannot launch: x: y"
    assert last_words("") == ""
