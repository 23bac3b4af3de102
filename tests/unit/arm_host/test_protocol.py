"""Frames on the agent's port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.arm_host.protocol import LONGEST, Frames, Kind, frame

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=200)), max_size=8)


@given(FRAMES, st.integers(1, 64))
def test_frames_come_as_they_were_sent_in_whatever_pieces(sent: list[tuple[Kind, bytes]], size: int) -> None:
    """However the stream is cut, the same frames come out, in their order."""
    stream = b"".join(frame(kind, body) for kind, body in sent)
    frames = Frames()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [found for piece in pieces for found in frames.feed(piece)] == sent


def test_what_is_no_frame_is_refused() -> None:
    """A length that nobody sends, and a kind that nobody knows, are errors and not memory."""
    with pytest.raises(ValueError, match="frame of"):
        list(Frames().feed(frame(Kind.INPUT)[:1] + (LONGEST + 1).to_bytes(4, "big")))
    with pytest.raises(ValueError, match="99"):
        list(Frames().feed(bytes([99]) + bytes(4)))
