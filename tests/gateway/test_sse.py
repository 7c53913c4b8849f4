"""Cutting server-sent events: the same events whatever the split of the wire and the line ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.base.errors import UpstreamError
from sextant.gateway.sse import EventSplitter, data_of, event

LIMIT = 1000
EVENTS = [
    b"data: {}",
    b"data:x",
    b": comment",
    b"event: ping\ndata: a\ndata: b",
    b"id: 1\ndata",
    b"data: [DONE]",
]
EXPECTED = [b"{}", b"x", b"", b"a\nb", b"", b"[DONE]"]


def cut(pieces: list[bytes], limit: int = LIMIT) -> list[bytes]:
    splitter = EventSplitter(limit)
    return [data_of(found) for piece in pieces for found in splitter.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_split_position_gives_the_same_events(end: bytes) -> None:
    wire = b"".join(block.replace(b"\n", end) + end + end for block in EVENTS)
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1, 7):
            assert cut([wire[:first], wire[first:second], wire[second:]]) == EXPECTED, (first, second)


@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(EVENTS))), st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=6
    ),
    st.lists(st.integers(1, 9), max_size=40),
)
def test_mixed_line_ends_and_splits(blocks: list[tuple[int, bytes]], sizes: list[int]) -> None:
    wire = b"".join(EVENTS[number].replace(b"\n", end) + end + end for number, end in blocks)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(wire[at : at + size])
        at += size
    pieces.append(wire[at:])
    assert cut(pieces) == [EXPECTED[number] for number, _ in blocks]


def test_an_event_leaves_as_soon_as_its_blank_line_is_there() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        splitter = EventSplitter(LIMIT)
        assert splitter.feed(b"data: a" + end) == []
        assert splitter.pending
        assert [data_of(found) for found in splitter.feed(end)] == [b"a"]
        assert not splitter.pending


def test_one_event_is_passed_on_as_the_same_bytes() -> None:
    wire = b'data: {"a":1}\n\n'
    (found,) = EventSplitter(LIMIT).feed(wire)
    assert found is wire


def test_an_endless_event_is_refused_at_the_bound() -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(b"data: " + b"x" * 94) == []
    with pytest.raises(UpstreamError) as caught:
        splitter.feed(b"x")
    assert caught.value.code == "engine_event_too_large"
    with pytest.raises(UpstreamError):
        EventSplitter(100).feed(b"data: " + b"x" * 100 + b"\n\n")


def test_events_are_written_as_they_are_read() -> None:
    assert cut([event(b"{}"), event(b"x", b"ping")]) == [b"{}", b"x"]
    assert event(b"x", b"ping") == b"event: ping\ndata: x\n\n"
