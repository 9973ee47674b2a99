from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.sse import EventTooLarge, SseDecoder, SseEvent

STREAM = (
    'data: {"a":1}\n\n: comment\n\ndata:no space\nid: 7\nretry: 10\n\nevent: error\ndata: first\ndata:  second\n\n'
    "data\n\ndata:\n\n\n\ndata: Zürich 🌇\n\ndata: [DONE]\n\n"
).encode()
EVENTS = [
    SseEvent(b'{"a":1}'),
    SseEvent(b"no space"),
    SseEvent(b"first\n second", b"error"),
    SseEvent("Zürich 🌇".encode()),
    SseEvent(b"[DONE]"),
]


def decode(pieces: list[bytes]) -> list[SseEvent]:
    decoder = SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_the_same_events_come_out_wherever_the_stream_is_cut_in_two(end: bytes, bom: bytes) -> None:
    stream = bom + STREAM.replace(b"\n", end)
    for place in range(len(stream) + 1):
        assert decode([stream[:place], stream[place:]]) == EVENTS, place


@given(st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, len(STREAM) * 2), max_size=20))
def test_the_same_events_come_out_whatever_the_cuts(end: bytes, places: list[int]) -> None:
    stream = STREAM.replace(b"\n", end)
    cuts = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    assert decode([stream[a:b] for a, b in pairwise(cuts)]) == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_by_byte_is_no_different(end: bytes) -> None:
    assert decode([bytes([byte]) for byte in STREAM.replace(b"\n", end)]) == EVENTS


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_the_decoder(pieces: list[bytes]) -> None:
    for event in decode(pieces):
        assert event.data
        assert b"\r" not in event.data


@given(
    st.lists(st.sampled_from([b"data: a\n\n", b"\r", b"\n"]) | st.binary(max_size=9), max_size=4),
    st.binary(max_size=12),
    st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n"]),
)
def test_what_is_taken_for_a_lone_event_is_one_whatever_came_before(
    before: list[bytes], data: bytes, end: bytes
) -> None:
    decoder = SseDecoder()
    decode_all(decoder, before)
    piece = b"data: " + data + end
    lone = decoder.lone(piece)
    assert lone is None or decoder.feed(piece) == [SseEvent(lone)]


def test_a_plain_event_in_one_read_is_a_lone_event() -> None:
    decoder = SseDecoder(limit_bytes=100)
    decode_all(decoder, [b": the start\n\n"])
    assert decoder.lone(b'data: {"a":1}\n\n') == b'{"a":1}'
    assert decoder.lone(b"data: " + b"x" * 101 + b"\n\n") is None
    decode_all(decoder, [b"event: error\n"])
    assert decoder.lone(b"data: a\n\n") is None


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_last_event_without_its_blank_line_is_not_lost(ending: bytes) -> None:
    assert decode([b"data: a\n\ndata: b" + ending]) == [SseEvent(b"a"), SseEvent(b"b")]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    assert decode([b"\xef", b"\xbb", b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"]) == [SseEvent(b"a")]


def decode_all(decoder: SseDecoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        decoder.feed(piece)


@pytest.mark.parametrize("piece", [b"x", b": c", b"data: y\n"])
def test_an_event_that_never_ends_is_refused(piece: bytes) -> None:
    decoder = SseDecoder(limit_bytes=1000)
    with pytest.raises(EventTooLarge):
        decode_all(decoder, [piece] * 2000)


def test_a_large_event_in_one_read_is_refused() -> None:
    with pytest.raises(EventTooLarge):
        SseDecoder(limit_bytes=1000).feed(b"data: " + b"x" * 2000 + b"\n\n")
