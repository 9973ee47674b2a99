import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.http.framing import BadResponse, HeadLimits, Response

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-One: 1\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-One: 1\r\n\r\n"
    b"6;name=value\r\nhello \r\n5\r\nworld\r\n0\r\nTrailer: t\r\n\r\n"
)
UNSIZED = b"HTTP/1.1 200 OK\r\nX-One: 1\r\n\r\nhello world"


def read(pieces: list[bytes], limits: HeadLimits | None = None, *, end: bool = False) -> Response:
    response = Response(limits or HeadLimits())
    for piece in pieces:
        response.feed(piece)
    if end:
        response.end()
    return response


def is_hello(response: Response) -> bool:
    return (
        response.done
        and response.status == 200
        and response.header(b"x-one") == b"1"
        and response.header(b"link") is None
        and response.header(b"trailer") is None
        and response.take() == b"hello world"
    )


@pytest.mark.parametrize("stream", [SIZED, CHUNKED])
def test_a_response_is_the_same_wherever_it_is_cut(stream: bytes) -> None:
    for place in range(len(stream) + 1):
        response = read([stream[:place], stream[place:]])
        assert is_hello(response), place
        assert response.keep_alive
        assert not response.extra


@given(st.sampled_from([SIZED, CHUNKED, UNSIZED]), st.lists(st.integers(0, 400), max_size=12))
def test_a_response_is_the_same_whatever_the_cuts(stream: bytes, places: list[int]) -> None:
    cuts = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    assert is_hello(read([stream[a:b] for a, b in pairwise(cuts)], end=stream is UNSIZED))


@pytest.mark.parametrize("stream", [SIZED, CHUNKED])
def test_a_cut_response_is_never_complete(stream: bytes) -> None:
    for place in range(len(stream)):
        response = read([stream[:place]])
        assert not response.end(), place


def test_a_body_without_a_length_ends_with_the_connection_and_forbids_reuse() -> None:
    response = read([UNSIZED])
    assert not response.done
    assert response.end()
    assert not response.keep_alive


@pytest.mark.parametrize("more", [b"x", SIZED, b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("stream", [SIZED, CHUNKED])
def test_bytes_after_the_message_mark_the_connection(stream: bytes, more: bytes) -> None:
    for pieces in ([stream + more], [stream, more]):
        response = read(pieces)
        assert response.extra
        assert is_hello(response)


def test_connection_close_forbids_reuse() -> None:
    assert not read([SIZED.replace(b"X-One", b"Connection: close\r\nX-One")]).keep_alive


BAD = {
    "no http": b"what?\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "odd coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
    "odd coding before chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "interim for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    "large header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "many trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 300,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_proper_response_is_refused_in_one_piece_or_in_many(name: str) -> None:
    data = BAD[name]
    with pytest.raises(BadResponse):
        read([data])
    with pytest.raises(BadResponse):
        read([data[place : place + 1000] for place in range(0, len(data), 1000)])


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"):
        with contextlib.suppress(BadResponse):
            read([start + data])
